// Attention to what an indexer picks (Backend::store_index_keys() and indexed_attention()): keys of groups of positions, the groups
// that a row picks, and their keys and values gathered into a small cache of the row's own, which attention walks as any other.
// All of it hangs on the row's position and the positions before it only.
#pragma once

#include <cstdint>

#include "backend/cuda/device.h"
#include "backend/cuda/paged.h"
#include "checkpoint/indexer_shape.h"

namespace qwen::cuda {

// Of a block of one layer, float32 whatever the precision, as the CPU's: the index key of every position, as it was projected
// [kCacheBlock][head_dim]; of every group of `ratio` positions its key, and the cosines and sines of its first position, which may
// have come in an earlier step [kCacheBlock / ratio][head_dim + rotary_dim].
constexpr int64_t index_block_floats(const IndexerShape& shape) {
  return kCacheBlock * shape.head_dim + kCacheBlock / shape.ratio * (shape.head_dim + shape.rotary_dim);
}

struct StoreIndexKeysArgs {
  PagedRows batch;
  IndexerShape shape;
  float* index = nullptr;         // [blocks][index_block_floats()]
  const float* keys = nullptr;    // [rows, head_dim]
  const float* angles = nullptr;  // [rows, rotary_dim]
  const float* norm = nullptr;    // [head_dim]
  float eps = 0;
};
void store_index_keys(Stream& stream, const StoreIndexKeysArgs& args);

// A row that has more whole groups than it may pick.
struct SparseRow {
  int32_t row = 0;
  int32_t position = 0;
  int32_t table = 0;  // where in `tables` its sequence's begins
};

// Positions that such a row attends to, and blocks that take them.
constexpr int64_t gathered_positions(const IndexerShape& shape, int64_t position) {
  return shape.budget + (position + 1) % shape.ratio;
}
constexpr int64_t gathered_blocks(const IndexerShape& shape) {
  return (shape.budget + shape.ratio - 1 + kCacheBlock - 1) / kCacheBlock;
}

struct PickArgs {
  IndexerShape shape;
  const SparseRow* rows = nullptr;
  int64_t count = 0;        // of them
  int64_t most_groups = 0;  // whole ones, at any of their positions
  const int32_t* tables = nullptr;
  const float* index = nullptr;
  const float* queries = nullptr;  // [all rows of the step, heads * head_dim]
  float* scores = nullptr;         // scratch [count, most_groups]
  int32_t* picked = nullptr;       // [count, budget / ratio] groups, ascending
};
// Those with the largest sum over the heads of max(0, query . key), of equal ones the first. NaN counts as 0.
void pick_groups(Stream& stream, const PickArgs& args);

struct GatherArgs {
  IndexerShape shape;
  const SparseRow* rows = nullptr;
  int64_t count = 0;
  const int32_t* tables = nullptr;
  const int32_t* picked = nullptr;
  PagedCacheView from;
  PagedCacheView to;  // row i's blocks: i * gathered_blocks() and on
};
void gather_positions(Stream& stream, const GatherArgs& args);

}  // namespace qwen::cuda
