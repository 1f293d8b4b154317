// paged_attention(). The order of a row's sums, whatever the batch: positions in parts of kAttentionPart, counted from position 0, a
// part in blocks of kCacheBlock with a softmax that is corrected from block to block, the parts' results merged in their order by
// merge(). Parts and blocks that a row does not see change nothing in it, so rows of several positions can share a tile.
//
// What a tile multiplies it takes as the cache has it (paged.h). As in linear.cu the order of the k inside two mma is chosen so that
// 16 bytes a lane serve both: for scores these are 8 neighbouring dimensions of a key. For the values' sum they are 8 neighbouring
// positions, and so the keys' 32 positions are dealt to the four mma of the scores such that a lane's scores are those 8 positions:
// column n of mma j is position 8 (n / 2) + 2 j + n % 2.
//
// Two ways to walk, the same bits: a warp for all parts of a tile, which merges them as it goes; or a warp for each part and tile,
// and merge_parts() behind. Splitting is for few rows and long contexts: bound by reading the cache, with 8 kB per warp on the way.
// A prompt's tiles are bound by L1, which serves the four warps of a block that read the same keys and values: 16 kB of 128 B/clock
// for 64 products.
//
// A number that is not finite in a value of the sequence reaches all rows of a tile, those before its position too.
#include "backend/cuda/attention.h"
#include "backend/cuda/row_math.h"
#include "base/error.h"

namespace qwen::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kBlock = static_cast<int>(kCacheBlock);
constexpr float kNone = -INFINITY;

// exp(score - maximum); of nothing at all 0.
__device__ __forceinline__ float softmax_weight(float score, float maximum) {
  return maximum == kNone ? 0.0f : exp2f((score - maximum) * 1.44269504f);
}

__device__ __forceinline__ float merge(float total, float total_weight, float part, float part_weight) {
  return fmaf(part, part_weight, total * total_weight);
}

// + 0: a masked part or not, zero has one sign.
__device__ __forceinline__ float finished(float weighted, float sum) {
  return weighted / sum + 0.0f;
}

// What a row sees: positions first to last.
struct Sight {
  int32_t first, last;
};
__device__ __forceinline__ Sight sight(int64_t window, int32_t position) {
  const bool all = window == 0 || position < window;
  return {all ? 0 : position - static_cast<int32_t>(window) + 1, position};
}

struct Walk {
  PagedAttentionArgs args;
  int parts;  // most of any row: what scratch has room for
};

// Of a query and part in scratch: maximum, sum, weighted values.
__device__ __forceinline__ float* partial(const Walk& walk, int64_t query_head, int64_t part) {
  const PagedAttentionArgs& args = walk.args;
  return args.scratch + (query_head * walk.parts + part) * (args.cache.head_dim + 2);
}

// scores += 16 queries times 8 keys over 32 dimensions; or values: probabilities times 8 dimensions over 32 positions.
__device__ __forceinline__ void multiply(float (&sum)[4], uint4 low, uint4 high, uint4 b) {
  mma_bf16(sum, {low.x, high.x, low.y, high.y}, {b.x, b.y});
  mma_bf16(sum, {low.z, high.z, low.w, high.w}, {b.z, b.w});
}

__device__ __forceinline__ uint4 read(const uint16_t* from, bool once) {
  return once ? load_once(reinterpret_cast<const uint4*>(from)) : *reinterpret_cast<const uint4*>(from);
}

// A warp: a tile of 16 queries, all its parts or one of them, and kValueTiles * 8 dimensions of the values.
template <int kSpans, int kValueTiles, bool kSplit>
__global__ void __launch_bounds__(kThreads, 1) attend_tiles(Walk walk) {
  begin_kernel();
  const PagedAttentionArgs& args = walk.args;
  const PagedCacheView& cache = args.cache;
  const int lane = static_cast<int>(threadIdx.x % kWarp), warp = static_cast<int>(threadIdx.x / kWarp);
  const int quad = lane / 4, place = lane % 4;
  const int64_t tile_index = kSplit ? int64_t{blockIdx.x} : int64_t{blockIdx.x} * kWarps + warp;
  if (tile_index >= args.tile_count) return;  // no barrier in this kernel
  const AttentionTile tile = args.tiles[tile_index];
  const PagedSequence sequence = args.batch.sequences[tile.sequence];
  const int head_dim = static_cast<int>(cache.head_dim);
  const int kv_heads = static_cast<int>(cache.kv_heads), kv_head = static_cast<int>(blockIdx.y) % kv_heads;
  const int first_dim = static_cast<int>(blockIdx.y) / kv_heads * (kValueTiles * 8);
  const int group = static_cast<int>(args.heads) / kv_heads;

  // The lane's two queries, rows `quad` and `quad + 8` of the tile.
  const int queries =
      static_cast<int>(min(int64_t{sequence.row_count}, args.end - sequence.context_length)) * group;
  if (tile.first_query >= queries) return;
  Sight sees[2];  // nothing: the tile has no such query
  const auto query_head =
      [&](int i) {  // [row][head] counted through; of a query too many that of the last one
        const int query = min(tile.first_query + quad + 8 * i, queries - 1);
        return int64_t{sequence.first_row + query / group} * args.heads + kv_head * group + query % group;
      };
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int query = tile.first_query + quad + 8 * i;
    sees[i] = query < queries ? sight(args.window, sequence.context_length + query / group) : Sight{0, -1};
  }
  const int last_query = min(tile.first_query + static_cast<int>(kTileQueries), queries) - 1;
  const int first = sight(args.window, sequence.context_length + tile.first_query / group).first;
  const int last = sequence.context_length + last_query / group;
  constexpr int kPart = static_cast<int>(kAttentionPart);
  const int part_here = static_cast<int>(blockIdx.z) * kWarps + warp;
  const int first_part = kSplit ? part_here : first / kPart, last_part = kSplit ? part_here : last / kPart;
  if (kSplit && (part_here < first / kPart || part_here > last / kPart)) return;

  // The queries as A's fragments, in shared memory: what a lane wrote itself it reads, 16 bytes at a time. So do totals of a walk
  // over several parts: in registers they would leave none to load into.
  uint4* const fragments = shared_memory<uint4>() + (warp * kSpans * 2) * kWarp + lane;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float* const q = args.q + query_head(i) * head_dim;
#pragma unroll 1
    for (int span = 0; span < kSpans; ++span) {
      const auto number = [&](int d) {
        const int at = span * 32 + place * 8 + d;
        const float value = q[min(at, head_dim - 1)];
        return at < head_dim ? value : 0.0f;
      };
      fragments[(span * 2 + i) * kWarp] =
          make_uint4(to_bf16x2(number(0), number(1)), to_bf16x2(number(2), number(3)),
                     to_bf16x2(number(4), number(5)), to_bf16x2(number(6), number(7)));
    }
  }

  float4* const totals = shared_memory<float4>() + (kWarps * kSpans * 2 + warp * kValueTiles) * kWarp + lane;
  for (int n = 0; !kSplit && n < kValueTiles; ++n) totals[n * kWarp] = make_float4(0, 0, 0, 0);
  float total_maximum[2] = {kNone, kNone}, total_sum[2] = {};
  for (int part = first_part; part <= last_part; ++part) {
    float sums[kValueTiles][4] = {}, maximum[2] = {kNone, kNone}, sum[2] = {};
    const int end = min((part + 1) * kPart, last + 1);
    for (int at = max(part * kPart, first / kBlock * kBlock); at < end; at += kBlock) {
      const int64_t block = int64_t{args.batch.tables[sequence.table + at / kBlock]} * kv_heads + kv_head;
      const uint16_t* const keys =
          static_cast<const uint16_t*>(cache.keys) + block * kBlock * (kSpans * 32) + place * 8;
      float scores[4][4] = {};
      constexpr int kAtOnce = kSplit && kSpans <= 4 ? kSpans : kSpans % 2 == 0 ? 2 : 1;  // spans of four loads
#pragma unroll
      for (int span = 0; span < kSpans; span += kAtOnce) {
        uint4 k[kAtOnce][4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint16_t* const key = keys + (8 * (quad / 2) + 2 * j + quad % 2) * (kSpans * 32);
#pragma unroll
          for (int s = 0; s < kAtOnce; ++s) k[s][j] = read(key + (span + s) * 32, kSplit);
        }
#pragma unroll
        for (int s = 0; s < kAtOnce; ++s) {
          const uint4 low = fragments[(span + s) * 2 * kWarp], high = fragments[((span + s) * 2 + 1) * kWarp];
#pragma unroll
          for (int j = 0; j < 4; ++j) multiply(scores[j], low, high, k[s][j]);
        }
      }

      // The first values, before anything waits for the scores.
      const uint16_t* const values = static_cast<const uint16_t*>(cache.values) +
                                     (block * (kSpans * 32) + first_dim + quad) * kBlock + place * 8;
      constexpr int kTilesAtOnce = kValueTiles % 8 == 0 ? 8 : kValueTiles % 4 == 0 ? 4 : 2;
      uint4 v[kTilesAtOnce];
      const auto read_values = [&](int first_tile) {
#pragma unroll
        for (int i = 0; i < kTilesAtOnce; ++i) v[i] = read(values + (first_tile + i) * 8 * kBlock, kSplit);
      };
      read_values(0);

      uint4 probabilities[2];  // A's fragments of the lane's two queries
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float top = kNone;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const int position = at + place * 8 + j * 2 + c;
            float& score = scores[j][i * 2 + c];
            score = position >= sees[i].first && position <= sees[i].last ? score * args.scale : kNone;
            top = fmaxf(top, score);
          }
        }
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        top = fmaxf(top, maximum[i]);
        const float earlier = softmax_weight(maximum[i], top);
        maximum[i] = top;
        float p[8], block_sum = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int c = 0; c < 2; ++c) block_sum += p[j * 2 + c] = softmax_weight(scores[j][i * 2 + c], top);
        }
        sum[i] = fmaf(sum[i], earlier, block_sum);
#pragma unroll
        for (int n = 0; n < kValueTiles; ++n) {
          sums[n][i * 2] *= earlier;
          sums[n][i * 2 + 1] *= earlier;
        }
        probabilities[i] = make_uint4(to_bf16x2(p[0], p[1]), to_bf16x2(p[2], p[3]), to_bf16x2(p[4], p[5]),
                                      to_bf16x2(p[6], p[7]));
      }

      // What nobody of the tile sees may never have been written.
      const int known = last + 1 - (at + place * 8);
      const auto of_known = [&](int index) {
        return index + 1 < known ? ~0u : index < known ? 0xffffu : 0;
      };
      const uint4 mask = make_uint4(of_known(0), of_known(2), of_known(4), of_known(6));
#pragma unroll
      for (int n = 0; n < kValueTiles; n += kTilesAtOnce) {
        if (n > 0) read_values(n);
#pragma unroll
        for (int i = 0; i < kTilesAtOnce; ++i) {
          v[i] = make_uint4(v[i].x & mask.x, v[i].y & mask.y, v[i].z & mask.z, v[i].w & mask.w);
          multiply(sums[n + i], probabilities[0], probabilities[1], v[i]);
        }
      }
    }

    float earlier[2], now[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum[i] += __shfl_xor_sync(~0u, sum[i], 1);
      sum[i] += __shfl_xor_sync(~0u, sum[i], 2);
      if constexpr (kSplit) {
        if (sees[i].last < 0) continue;
        float* const to = partial(walk, query_head(i), part);
        if (first_dim == 0 && place == 0) {
          to[0] = maximum[i];
          to[1] = sum[i];
        }
#pragma unroll
        for (int n = 0; n < kValueTiles; ++n) {
          const int dim = first_dim + n * 8 + place * 2;
          if (dim < head_dim) to[2 + dim] = sums[n][i * 2];
          if (dim + 1 < head_dim) to[3 + dim] = sums[n][i * 2 + 1];
        }
      } else {
        const float top = fmaxf(total_maximum[i], maximum[i]);
        earlier[i] = softmax_weight(total_maximum[i], top);
        now[i] = softmax_weight(maximum[i], top);
        total_maximum[i] = top;
        total_sum[i] = merge(total_sum[i], earlier[i], sum[i], now[i]);
      }
    }
    if constexpr (!kSplit) {
#pragma unroll
      for (int n = 0; n < kValueTiles; ++n) {
        const float4 before = totals[n * kWarp];
        totals[n * kWarp] = make_float4(
            merge(before.x, earlier[0], sums[n][0], now[0]), merge(before.y, earlier[0], sums[n][1], now[0]),
            merge(before.z, earlier[1], sums[n][2], now[1]), merge(before.w, earlier[1], sums[n][3], now[1]));
      }
    }
  }
  for (int n = 0; !kSplit && n < kValueTiles; ++n) {
    const float4 total = totals[n * kWarp];
    const int dim = first_dim + n * 8 + place * 2;
    const auto put = [&](int i, float first_number, float second_number) {
      const int64_t to = query_head(i) * head_dim + dim;
      if (sees[i].last < 0) return;
      if (dim < head_dim) store(args.out, args.out_element, to, finished(first_number, total_sum[i]));
      if (dim + 1 < head_dim)
        store(args.out, args.out_element, to + 1, finished(second_number, total_sum[i]));
    };
    put(0, total.x, total.y);
    put(1, total.z, total.w);
  }
}

// A warp: one query, all its parts or one of them. Scores: a lane for each position of a block; values: one for each 32nd dimension.
template <int kDims, bool kSplit>
__global__ void __launch_bounds__(kThreads, 1) attend_rows(Walk walk) {
  begin_kernel();
  const PagedAttentionArgs& args = walk.args;
  const PagedCacheView& cache = args.cache;
  const int lane = static_cast<int>(threadIdx.x % kWarp), warp = static_cast<int>(threadIdx.x / kWarp);
  const int64_t item = kSplit ? int64_t{blockIdx.x} : int64_t{blockIdx.x} * kWarps + warp;
  const int64_t row = item / args.heads, head = item % args.heads;
  if (row >= args.batch.rows || args.batch.row_sequence[row] < 0) return;  // no barrier in this kernel
  const PagedSequence sequence = args.batch.sequences[args.batch.row_sequence[row]];
  const int32_t position = sequence.context_length + static_cast<int32_t>(row - sequence.first_row);
  if (position >= args.end) return;
  const int head_dim = static_cast<int>(cache.head_dim);
  const int64_t kv_head = head / (args.heads / cache.kv_heads);
  const Sight sees = sight(args.window, position);
  constexpr int kPart = static_cast<int>(kAttentionPart);
  const int part_here = static_cast<int>(blockIdx.z) * kWarps + warp;
  const int first_part = kSplit ? part_here : sees.first / kPart,
            last_part = kSplit ? part_here : sees.last / kPart;
  if (kSplit && (part_here < sees.first / kPart || part_here > sees.last / kPart)) return;
  const float* const q = args.q + item * head_dim;
  float* const probabilities = shared_memory<float>() + warp * kWarp;  // of a block's positions

  float totals[kDims] = {}, total_maximum = kNone, total_sum = 0;
  for (int part = first_part; part <= last_part; ++part) {
    float sums[kDims] = {}, maximum = kNone, sum = 0;
    const int end = min((part + 1) * kPart, sees.last + 1);
    for (int at = max(part * kPart, sees.first / kBlock * kBlock); at < end; at += kBlock) {
      const int64_t block = args.batch.tables[sequence.table + at / kBlock] * cache.kv_heads + kv_head;
      const float* const key = static_cast<const float*>(cache.keys) + (block * kBlock + lane) * cache.width;
      float score = kNone;
      if (at + lane >= sees.first && at + lane <= sees.last) {
        score = 0;
        int d = 0;
        for (; d + 4 <= head_dim; d += 4) {
          const float4 k = *reinterpret_cast<const float4*>(key + d);
          score = fmaf(q[d + 3], k.w, fmaf(q[d + 2], k.z, fmaf(q[d + 1], k.y, fmaf(q[d], k.x, score))));
        }
        for (; d < head_dim; ++d) score = fmaf(q[d], key[d], score);
        score *= args.scale;
      }
      const float top = fmaxf(maximum, warp_max(score));
      const float earlier = softmax_weight(maximum, top), probability = softmax_weight(score, top);
      maximum = top;
      sum = fmaf(sum, earlier, warp_sum(probability));
#pragma unroll
      for (int i = 0; i < kDims; ++i) sums[i] *= earlier;
      const float* const values = static_cast<const float*>(cache.values) + block * cache.width * kBlock;
      __syncwarp();  // all have read those of the block before
      probabilities[lane] = probability;
      __syncwarp();
      for (int j = max(at, sees.first); j < min(at + kBlock, sees.last + 1); ++j) {
#pragma unroll
        for (int i = 0; i < kDims; ++i) {
          const int dim = i * kWarp + lane;
          if (dim < head_dim) sums[i] = fmaf(probabilities[j - at], values[dim * kBlock + (j - at)], sums[i]);
        }
      }
    }
    if constexpr (kSplit) {
      float* const to = partial(walk, item, part);
      if (lane == 0) {
        to[0] = maximum;
        to[1] = sum;
      }
#pragma unroll
      for (int i = 0; i < kDims; ++i)
        if (i * kWarp + lane < head_dim) to[2 + i * kWarp + lane] = sums[i];
    } else {
      const float top = fmaxf(total_maximum, maximum);
      const float earlier = softmax_weight(total_maximum, top), now = softmax_weight(maximum, top);
      total_maximum = top;
      total_sum = merge(total_sum, earlier, sum, now);
#pragma unroll
      for (int i = 0; i < kDims; ++i) totals[i] = merge(totals[i], earlier, sums[i], now);
    }
  }
  if constexpr (!kSplit) {
#pragma unroll
    for (int i = 0; i < kDims; ++i) {
      const int dim = i * kWarp + lane;
      if (dim < head_dim)
        store(args.out, args.out_element, item * head_dim + dim, finished(totals[i], total_sum));
    }
  }
}

// A warp: the parts of one query, 32 dimensions.
__global__ void __launch_bounds__(kThreads) merge_parts(Walk walk) {
  begin_kernel();
  const PagedAttentionArgs& args = walk.args;
  const int head_dim = static_cast<int>(args.cache.head_dim);
  const int64_t item = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  const int64_t row = item / args.heads;
  if (row >= args.batch.rows || args.batch.row_sequence[row] < 0) return;  // no barrier in this kernel
  const int dim = static_cast<int>(blockIdx.y) * kWarp + static_cast<int>(threadIdx.x % kWarp);
  if (dim >= head_dim) return;
  const PagedSequence sequence = args.batch.sequences[args.batch.row_sequence[row]];
  const int32_t position = sequence.context_length + static_cast<int32_t>(row - sequence.first_row);
  if (position >= args.end) return;
  const Sight sees = sight(args.window, position);
  constexpr int kPart = static_cast<int>(kAttentionPart);
  float total = 0, total_maximum = kNone, total_sum = 0;
  const int last = sees.last / kPart;
  constexpr int kAtOnce = 8;  // parts on their way together: this waits for little else
  for (int first = sees.first / kPart; first <= last; first += kAtOnce) {
    float maxima[kAtOnce], sums[kAtOnce], values[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const float* const from = partial(walk, item, min(first + i, last));
      maxima[i] = from[0];
      sums[i] = from[1];
      values[i] = from[2 + dim];
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i > last) break;
      const float top = fmaxf(total_maximum, maxima[i]);
      const float earlier = softmax_weight(total_maximum, top), now = softmax_weight(maxima[i], top);
      total_maximum = top;
      total_sum = merge(total_sum, earlier, sums[i], now);
      total = merge(total, earlier, values[i], now);
    }
  }
  store(args.out, args.out_element, item * head_dim + dim, finished(total, total_sum));
}

int64_t pieces(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

template <int kSpans, bool kSplit>
void launch_tiles(Stream& stream, const Walk& walk) {
  constexpr int kValueTiles =
      kSpans <= 4 ? kSpans * 4 : kSpans * 2;  // all would not fit the registers: a second warp
  const PagedAttentionArgs& args = walk.args;
  constexpr int64_t kValuePieces = kSpans * 4 / kValueTiles;
  const Grid grid(kSplit ? args.tile_count : pieces(args.tile_count, kWarps),
                  args.cache.kv_heads * kValuePieces, kSplit ? pieces(walk.parts, kWarps) : 1);
  launch(stream, attend_tiles<kSpans, kValueTiles, kSplit>, grid, kThreads,
         size_t{kWarps} * (kSpans * 2 + (kSplit ? 0 : kValueTiles)) * kWarp * sizeof(uint4), walk);
}

template <int kDims, bool kSplit>
void launch_rows(Stream& stream, const Walk& walk) {
  const int64_t items = walk.args.batch.rows * walk.args.heads;
  const Grid grid(kSplit ? items : pieces(items, kWarps), 1, kSplit ? pieces(walk.parts, kWarps) : 1);
  launch(stream, attend_rows<kDims, kSplit>, grid, kThreads, kThreads * sizeof(float), walk);
}

template <int kSpans>
void attend(Stream& stream, const Walk& walk, bool split) {
  if (walk.args.cache.element == Element::bf16)
    return split ? launch_tiles<kSpans, true>(stream, walk) : launch_tiles<kSpans, false>(stream, walk);
  return split ? launch_rows<kSpans, true>(stream, walk) : launch_rows<kSpans, false>(stream, walk);
}

// Warps that walk alone are enough to keep the GPU reading: from there on splitting only adds work.
constexpr int64_t kEnoughWarps = 4;  // per multiprocessor

}  // namespace

void list_attention_tiles(std::span<const PagedSequence> sequences, int64_t group,
                          std::vector<AttentionTile>& tiles) {
  tiles.clear();
  for (size_t s = 0; s < sequences.size(); ++s) {
    const int64_t queries = sequences[s].row_count * group;
    for (int64_t tile = attention_tiles(queries) - 1; tile >= 0; --tile)
      tiles.push_back({static_cast<int32_t>(s), static_cast<int32_t>(tile * kTileQueries)});
  }
}

void paged_attention(Stream& stream, const PagedAttentionArgs& args) {
  const int64_t head_dim = args.cache.head_dim;
  const Walk walk = {args, static_cast<int>(attention_parts(args.most_positions))};
  const int64_t warps = args.cache.element == Element::bf16 ? args.tile_count * args.cache.kv_heads
                                                            : args.batch.rows * args.heads;
  const bool split = walk.parts > 1 && warps < kEnoughWarps * args.multiprocessors &&
                     attention_scratch_floats(args.batch.rows, args.heads, head_dim, args.most_positions) <=
                         args.scratch_floats;
  switch ((head_dim + 31) / 32) {
    case 1:
      attend<1>(stream, walk, split);
      break;
    case 2:
      attend<2>(stream, walk, split);
      break;
    case 3:
      attend<3>(stream, walk, split);
      break;
    case 4:
      attend<4>(stream, walk, split);
      break;
    case 5:
      attend<5>(stream, walk, split);
      break;
    case 6:
      attend<6>(stream, walk, split);
      break;
    case 7:
      attend<7>(stream, walk, split);
      break;
    case 8:
      attend<8>(stream, walk, split);
      break;
    default:
      fail(Status::unsupported, "heads of ", head_dim, " dimensions; on a GPU they may have at most ",
           kMostHeadDim);
  }
  if (split)
    launch(stream, merge_parts, Grid(pieces(args.batch.rows * args.heads, kWarps), pieces(head_dim, kWarp)),
           kThreads, 0, walk);
}

}  // namespace qwen::cuda
