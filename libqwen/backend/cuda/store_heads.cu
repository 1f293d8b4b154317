// A warp for each head of each row: q's, k's, v's. Of values and, with it, of a decode step's few numbers each lands in a sector of
// its own: L2 puts them together.
#include "backend/cuda/row_math.h"
#include "backend/cuda/store_heads.h"

namespace qwen::cuda {
namespace {

constexpr int kThreads = 256;

// put(d, value) of every number of a head, normalised and rotated. A lane reads what it puts, after all have read everything.
template <class Put>
__device__ __forceinline__ void prepare(const StoreHeadsArgs& args, int64_t row, const float* x,
                                        const float* norm, Put&& put) {
  const int64_t head_dim = args.cache.head_dim, half = args.half, lane = threadIdx.x % kWarp;
  float factor = 1;
  if (norm != nullptr) factor = norm_factor(warp_squares(x, head_dim), head_dim, args.eps);
  const auto number = [&](int64_t d) { return norm != nullptr ? x[d] * factor * norm[d] : x[d]; };
  const float* const cosines = args.angles + row * 2 * half;
  for (int64_t i = lane; i < half; i += kWarp) {
    const float2 turned = rotate(number(i), number(i + half), cosines[i], cosines[half + i]);
    put(i, turned.x);
    put(i + half, turned.y);
  }
  for (int64_t d = 2 * half + lane; d < head_dim; d += kWarp) put(d, number(d));
}

__global__ void __launch_bounds__(kThreads) store_every_head(StoreHeadsArgs args) {
  begin_kernel();
  const PagedCacheView& cache = args.cache;
  const int64_t head_dim = cache.head_dim, kv_heads = cache.kv_heads, lane = threadIdx.x % kWarp;
  const int64_t heads = args.heads + 2 * kv_heads;
  const int64_t item = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t row = item / heads, head = item % heads;
  if (row >= args.batch.rows) return;  // a whole warp
  if (head < args.heads) {
    float* const q = args.q + (row * args.heads + head) * head_dim;
    return prepare(args, row, q, args.q_norm, [&](int64_t d, float value) { q[d] = value; });
  }
  const PagedSequence sequence = args.batch.sequences[args.batch.row_sequence[row]];
  const int64_t position = int64_t{sequence.context_length} + row - sequence.first_row;
  const int64_t block = args.batch.tables[sequence.table + position / kCacheBlock],
                slot = position % kCacheBlock;
  if (head < args.heads + kv_heads) {
    const int64_t kv_head = head - args.heads;
    const int64_t to = ((block * kv_heads + kv_head) * kCacheBlock + slot) * cache.width;
    prepare(args, row, args.k + (row * kv_heads + kv_head) * head_dim, args.k_norm,
            [&](int64_t d, float value) { store(cache.keys, cache.element, to + d, value); });
    for (int64_t d = head_dim + lane; d < cache.width; d += kWarp)
      store(cache.keys, cache.element, to + d, 0);
    return;
  }
  const int64_t kv_head = head - args.heads - kv_heads;
  const int64_t to = (block * kv_heads + kv_head) * cache.width * kCacheBlock + slot;
  const float* const v = args.v + (row * kv_heads + kv_head) * head_dim;
  for (int64_t d = lane; d < head_dim; d += kWarp)
    store(cache.values, cache.element, to + d * kCacheBlock, v[d]);
}

}  // namespace

void store_heads(Stream& stream, const StoreHeadsArgs& args) {
  const int64_t items = args.batch.rows * (args.heads + 2 * args.cache.kv_heads);
  constexpr int64_t kItems = kThreads / kWarp;
  launch(stream, store_every_head, Grid((items + kItems - 1) / kItems), kThreads, 0, args);
}

}  // namespace qwen::cuda
