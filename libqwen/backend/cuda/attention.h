// Causal softmax(q k' scale) v over each sequence's cache. A row's position alone decides the order of its sums (attention.cu): it has
// the same bits alone, in a prompt, among other sequences, and whether the walk over its positions was split over the GPU or not.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/cuda/device.h"
#include "backend/cuda/paged.h"

namespace qwen::cuda {

// 16 queries of one sequence and kv head: rows and the heads of a group, head by head, row by row.
struct AttentionTile {
  int32_t sequence = 0;
  int32_t first_query = 0;
};
inline constexpr int64_t kTileQueries = 16;
constexpr int64_t attention_tiles(int64_t queries) {
  return (queries + kTileQueries - 1) / kTileQueries;
}

// Positions whose softmax is one partial result.
inline constexpr int64_t kAttentionPart = 128;
constexpr int64_t attention_parts(int64_t positions) {
  return (positions + kAttentionPart - 1) / kAttentionPart;
}
// Floats of scratch with which the walk can be split.
constexpr int64_t attention_scratch_floats(int64_t rows, int64_t heads, int64_t head_dim,
                                           int64_t most_positions) {
  return rows * heads * attention_parts(most_positions) * (head_dim + 2);
}

struct PagedAttentionArgs {
  PagedRows batch;          // rows of sequence -1 are left alone, and tiles behind the rows of their sequence
  int64_t end = INT32_MAX;  // rows from this position on are left alone too
  PagedCacheView cache;
  const float* q = nullptr;  // [rows, heads * head_dim]
  int64_t heads = 0;
  int64_t window = 0;  // positions a row sees, its own included; 0: all
  float scale = 1;
  const AttentionTile* tiles = nullptr;  // of list_attention_tiles(), in device memory
  int64_t tile_count = 0;
  int64_t most_positions = 0;  // of any sequence, the step's included
  float* scratch = nullptr;    // 0 floats: every walk is one warp's
  int64_t scratch_floats = 0;
  void* out = nullptr;  // [rows, heads * head_dim]
  Element out_element = Element::f32;
  int multiprocessors = kUsualMultiprocessors;  // whether to split hangs on it, no bit does
};
// Throws Error(unsupported): heads of more than kMostHeadDim.
void paged_attention(Stream& stream, const PagedAttentionArgs& args);
inline constexpr int64_t kMostHeadDim = 256;

// All tiles of a step, of each sequence those with most to do first. group: heads of one kv head.
void list_attention_tiles(std::span<const PagedSequence> sequences, int64_t group,
                          std::vector<AttentionTile>& tiles);

}  // namespace qwen::cuda
