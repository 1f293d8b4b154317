#include "backend/cuda/dialect.h"
#include "backend/cuda/embed.h"

namespace qwen::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ void widen(const void* table, Element element, int64_t from, int64_t width,
                                      float* out) {
  for (int64_t i = threadIdx.x; i < width; i += kThreads)
    out[i] = element == Element::f32 ? static_cast<const float*>(table)[from + i]
                                     : to_float(static_cast<const uint16_t*>(table)[from + i]);
}

__global__ void __launch_bounds__(kThreads) copy_entries(EmbedArgs args) {
  begin_kernel();
  const int64_t row = blockIdx.x;
  widen(args.table, args.element, args.ids[row] * args.width, args.width, args.out + row * args.width);
}

// A block: one row and head.
__global__ void __launch_bounds__(kThreads) copy_ngram_entries(NgramEmbedArgs args) {
  begin_kernel();
  const int64_t row = blockIdx.x, head = blockIdx.y;
  const int32_t sequence = args.batch.row_sequence[row];
  const int64_t own = row - args.batch.sequences[sequence].first_row;  // of its sequence's rows
  const int64_t entry = ngram_row(args.numbers, head, [&](int64_t back) {
    return back <= own ? args.ids[row - back] : args.tails[sequence * args.tail + back - own - 1];
  });
  widen(args.shards[entry / args.shard_entries], args.element, entry % args.shard_entries * args.width,
        args.width, args.out + (row * args.numbers.heads + head) * args.width);
}

__global__ void __launch_bounds__(kThreads) copy_ids(TakeIdsArgs args) {
  begin_kernel();
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row < args.rows && args.from[row] >= 0) args.ids[row] = args.sampled[args.from[row]];
}

}  // namespace

void take_ids(Stream& stream, const TakeIdsArgs& args) {
  launch(stream, copy_ids, Grid((args.rows + kThreads - 1) / kThreads), kThreads, 0, args);
}

void embed(Stream& stream, const EmbedArgs& args) {
  launch(stream, copy_entries, Grid(args.rows), kThreads, 0, args);
}

void embed_ngrams(Stream& stream, const NgramEmbedArgs& args) {
  launch(stream, copy_ngram_entries, Grid(args.batch.rows, args.numbers.heads), kThreads, 0, args);
}

}  // namespace qwen::cuda
