// store_index_keys(), pick_groups() and gather_positions(). Scores are bound by reading the groups' keys, once for each row; gathering
// by the pieces of `ratio` positions in which transposed values lie.
#include "backend/cuda/indexer.h"
#include "backend/cuda/row_math.h"

namespace qwen::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBlock = static_cast<int>(kCacheBlock);

__host__ __device__ constexpr int64_t group_floats(const IndexerShape& shape) {
  return shape.head_dim + shape.rotary_dim;
}

// Where a position's index key lies, and its group's key.
struct IndexPlace {
  float* key;
  float* group;
};
__device__ __forceinline__ IndexPlace place_of(float* index, const IndexerShape& shape, const int32_t* table,
                                               int64_t position) {
  const int64_t slot = position % kBlock;
  float* const block = index + table[position / kBlock] * index_block_floats(shape);
  return {block + slot * shape.head_dim,
          block + kBlock * shape.head_dim + slot / shape.ratio * group_floats(shape)};
}

struct Position {
  int64_t row, position;
  const int32_t* table;
};
__device__ __forceinline__ Position position_of(const PagedRows& batch, int64_t row) {
  const PagedSequence sequence = batch.sequences[batch.row_sequence[row]];
  return {row, sequence.context_length + row - sequence.first_row, batch.tables + sequence.table};
}

// A warp: one row's key, and its angles if it is the first of a group.
__global__ void __launch_bounds__(kThreads) keep_keys(StoreIndexKeysArgs args) {
  begin_kernel();
  const IndexerShape& shape = args.shape;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (row >= args.batch.rows) return;  // no barrier in this kernel
  const Position at = position_of(args.batch, row);
  const IndexPlace to = place_of(args.index, shape, at.table, at.position);
  for (int64_t d = lane; d < shape.head_dim; d += kWarp) to.key[d] = args.keys[row * shape.head_dim + d];
  if (at.position % shape.ratio != 0) return;
  for (int64_t i = lane; i < shape.rotary_dim; i += kWarp)
    to.group[shape.head_dim + i] = args.angles[row * shape.rotary_dim + i];
}

// A warp: the group that one row completes, if it does.
__global__ void __launch_bounds__(kThreads) finish_groups(StoreIndexKeysArgs args) {
  begin_kernel();
  const IndexerShape& shape = args.shape;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (row >= args.batch.rows) return;  // a whole warp, as below
  const Position at = position_of(args.batch, row);
  if ((at.position + 1) % shape.ratio != 0) return;
  const IndexPlace first = place_of(args.index, shape, at.table, at.position + 1 - shape.ratio);
  float* const key = first.group;
  for (int64_t d = lane; d < shape.head_dim; d += kWarp) {
    float sum = 0;
    for (int64_t i = 0; i < shape.ratio; ++i) sum += first.key[i * shape.head_dim + d];
    key[d] = sum / static_cast<float>(shape.ratio);
  }
  __syncwarp();
  const float factor = norm_factor(warp_squares(key, shape.head_dim), shape.head_dim, args.eps);
  const auto number = [&](int64_t d) { return key[d] * factor * args.norm[d]; };
  const float* const cosines = key + shape.head_dim;
  const int64_t half = shape.rotary_dim / 2;
  for (int64_t i = lane; i < half; i += kWarp) {
    const float2 turned = rotate(number(i), number(i + half), cosines[i], cosines[half + i]);
    key[i] = turned.x;
    key[i + half] = turned.y;
  }
  for (int64_t d = 2 * half + lane; d < shape.head_dim; d += kWarp) key[d] = number(d);
}

// A thread: a row's score of one group.
__global__ void __launch_bounds__(kThreads) score_groups(PickArgs args) {
  begin_kernel();
  const IndexerShape& shape = args.shape;
  const Position row = position_of(args.batch, args.first + blockIdx.x);
  const int64_t group = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (row.position < picks_from(shape) || group >= (row.position + 1) / shape.ratio)
    return;  // no barrier in this kernel
  const int64_t position = group * shape.ratio;
  const float* const key = args.index + row.table[position / kBlock] * index_block_floats(shape) +
                           kBlock * shape.head_dim + position % kBlock / shape.ratio * group_floats(shape);
  const float* const queries = args.queries + row.row * shape.heads * shape.head_dim;
  constexpr int kHeads = 4;  // that share the reading of a key
  float score = 0;
  for (int64_t head = 0; head < shape.heads; head += kHeads) {
    float products[kHeads] = {};
    for (int64_t d = 0; d < shape.head_dim; ++d) {
      const float element = key[d];
#pragma unroll
      for (int i = 0; i < kHeads; ++i)
        products[i] =
            fmaf(queries[min(head + i, shape.heads - 1) * shape.head_dim + d], element, products[i]);
    }
#pragma unroll
    for (int i = 0; i < kHeads; ++i)
      if (head + i < shape.heads && products[i] > 0) score += products[i];
  }
  args.scores[blockIdx.x * args.most_groups + group] = score;
}

// What attention reads of a row's own cache.
__device__ __forceinline__ void describe(const PickArgs& args, int64_t item, const Position& row) {
  const IndexerShape& shape = args.shape;
  const PickedRows& to = args.to;
  const int64_t blocks = gathered_blocks(shape);
  const auto index = static_cast<int32_t>(item), first_block = static_cast<int32_t>(item * blocks);
  const bool picks = row.position >= picks_from(shape);
  if (threadIdx.x == 0) {
    to.row_sequence[item] = picks ? index : -1;
    to.sequences[item] = {.first_row = index,
                          .row_count = picks ? 1 : 0,
                          .context_length = static_cast<int32_t>(gathered_positions(shape, row.position)) - 1,
                          .table = first_block};
  }
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < static_cast<int>(blocks); i += kThreads)
    to.tables[first_block + i] = first_block + i;
  for (int i = thread; i < static_cast<int>(to.tiles_each); i += kThreads)
    to.tiles[item * to.tiles_each + i] = {index, i * static_cast<int32_t>(kTileQueries)};
}

// A block: one row. Scores are not negative, so they have the order of their bits: the smallest that is picked is found digit by
// digit, and everything above it, and of its like the first, is listed.
__global__ void __launch_bounds__(kThreads) pick(PickArgs args) {
  begin_kernel();
  const Position row = position_of(args.batch, args.first + blockIdx.x);
  describe(args, blockIdx.x, row);
  if (row.position < picks_from(args.shape)) return;  // the whole block
  const int64_t groups = (row.position + 1) / args.shape.ratio;
  const int64_t wanted = args.shape.budget / args.shape.ratio;
  const float* const scores = args.scores + blockIdx.x * args.most_groups;
  int32_t* const picked = args.to.groups + blockIdx.x * wanted;
  const int lane = static_cast<int>(threadIdx.x % kWarp), warp = static_cast<int>(threadIdx.x / kWarp);
  constexpr int kDigits = 256, kOfLane = kDigits / kWarp;
  static_assert(kDigits == kThreads);
  unsigned* const histogram = shared_memory<unsigned>();  // [kDigits]
  unsigned* const result = histogram + kDigits;           // [2]
  unsigned* const found = result + 2;                     // [2 turns][kWarps][2]

  unsigned least = 0, mask = 0, left = static_cast<unsigned>(wanted);
  for (int shift = 24; shift >= 0; shift -= 8) {
    histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t group = threadIdx.x; group < groups; group += kThreads) {
      const unsigned bits = __float_as_uint(scores[group]);
      if ((bits & mask) == least) atomicAdd(&histogram[bits >> shift & (kDigits - 1)], 1u);
    }
    __syncthreads();
    if (warp == 0) {
      unsigned own = 0;
      for (int i = 0; i < kOfLane; ++i) own += histogram[lane * kOfLane + i];
      unsigned above = own;
      for (int apart = 1; apart < kWarp; apart *= 2) {
        const unsigned further = __shfl_down_sync(~0u, above, apart);
        if (lane + apart < kWarp) above += further;
      }
      above -= own;
      if (above < left && left <= above + own) {  // one lane
        unsigned rest = left - above;
        int digit = lane * kOfLane + kOfLane - 1;
        while (rest > histogram[digit]) rest -= histogram[digit--];
        result[0] = static_cast<unsigned>(digit);
        result[1] = rest;
      }
    }
    __syncthreads();
    least |= result[0] << shift;
    mask |= unsigned{kDigits - 1} << shift;
    left = result[1];
  }

  unsigned above = 0, equal = 0;  // so far
  int turn = 0;
  for (int64_t first = 0; first < groups; first += kThreads, turn = 1 - turn) {
    const int64_t group = first + threadIdx.x;
    const unsigned bits = group < groups ? __float_as_uint(scores[group]) : 0;
    const bool is_above = group < groups && bits > least, is_equal = group < groups && bits == least;
    const unsigned all_above = __ballot_sync(~0u, is_above), all_equal = __ballot_sync(~0u, is_equal);
    unsigned* const of_warps = found + turn * kWarps * 2;
    if (lane == 0) {
      of_warps[warp * 2] = static_cast<unsigned>(__popc(all_above));
      of_warps[warp * 2 + 1] = static_cast<unsigned>(__popc(all_equal));
    }
    __syncthreads();
    const unsigned before = (1u << lane) - 1;
    unsigned above_before = above + static_cast<unsigned>(__popc(all_above & before)),
             equal_before = equal + static_cast<unsigned>(__popc(all_equal & before));
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) {
        above_before += of_warps[w * 2];
        equal_before += of_warps[w * 2 + 1];
      }
      above += of_warps[w * 2];
      equal += of_warps[w * 2 + 1];
    }
    if (is_above || (is_equal && equal_before < left))
      picked[above_before + min(equal_before, left)] = static_cast<int32_t>(group);
  }
}

// A block: one block of a row's own cache, one key/value head.
template <class T>
__global__ void __launch_bounds__(kThreads) gather_blocks(GatherArgs args) {
  begin_kernel();
  const IndexerShape& shape = args.shape;
  const int64_t blocks = gathered_blocks(shape), width = args.from.width;
  const int64_t item = blockIdx.x / blocks, block = blockIdx.x % blocks, head = blockIdx.y;
  const Position row = position_of(args.batch, args.first + item);
  if (row.position < picks_from(shape)) return;                                    // the whole block
  const int64_t count = gathered_positions(shape, row.position) - block * kBlock;  // from here on
  int64_t* const sources = shared_memory<int64_t>();  // [kBlock] block * kBlock + slot in the cache
  if (static_cast<int>(threadIdx.x) < kBlock && static_cast<int>(threadIdx.x) < count) {
    const int64_t index = block * kBlock + threadIdx.x;
    const int64_t behind = (row.position + 1) / shape.ratio * shape.ratio - shape.budget;
    const int64_t position =
        index < shape.budget
            ? int64_t{args.groups[(item * shape.budget + index) / shape.ratio]} * shape.ratio +
                  index % shape.ratio
            : behind + index;
    sources[threadIdx.x] = int64_t{row.table[position / kBlock]} * kBlock + position % kBlock;
  }
  __syncthreads();
  const T* const keys = static_cast<const T*>(args.from.keys);
  const T* const values = static_cast<const T*>(args.from.values);
  const int64_t to = (int64_t{blockIdx.x} * args.from.kv_heads + head) * kBlock * width;
  T* const to_keys = static_cast<T*>(args.to.keys) + to;
  T* const to_values = static_cast<T*>(args.to.values) + to;
  const auto from = [&](int64_t source) {
    return (source / kBlock * args.from.kv_heads + head) * kBlock * width;
  };
  for (int64_t i = threadIdx.x; i < kBlock * width; i += kThreads) {
    const int64_t slot = i / width, d = i % width;
    if (slot >= count) break;
    to_keys[i] = keys[from(sources[slot]) + sources[slot] % kBlock * width + d];
  }
  for (int64_t i = threadIdx.x; i < kBlock * args.from.head_dim; i += kThreads) {
    const int64_t slot = i % kBlock, d = i / kBlock;
    if (slot < count) to_values[i] = values[from(sources[slot]) + d * kBlock + sources[slot] % kBlock];
  }
}

int64_t pieces(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

}  // namespace

void store_index_keys(Stream& stream, const StoreIndexKeysArgs& args) {
  launch(stream, keep_keys, Grid(pieces(args.batch.rows, kWarps)), kThreads, 0, args);
  launch(stream, finish_groups, Grid(pieces(args.batch.rows, kWarps)), kThreads, 0, args);
}

void pick_groups(Stream& stream, const PickArgs& args) {
  launch(stream, score_groups, Grid(args.count, pieces(args.most_groups, kThreads)), kThreads, 0, args);
  launch(stream, pick, Grid(args.count), kThreads, (256 + 2 + 4 * kWarps) * sizeof(unsigned), args);
}

void gather_positions(Stream& stream, const GatherArgs& args) {
  const Grid grid(args.count * gathered_blocks(args.shape), args.from.kv_heads);
  constexpr size_t kShared = kBlock * sizeof(int64_t);
  if (args.from.element == Element::f32)
    launch(stream, gather_blocks<float>, grid, kThreads, kShared, args);
  else
    launch(stream, gather_blocks<uint16_t>, grid, kThreads, kShared, args);
}

}  // namespace qwen::cuda
