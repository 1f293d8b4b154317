// Attention to what an indexer picks (Backend::store_index_keys() and indexed_attention()): keys of groups of positions, the groups
// that a row picks, and their keys and values gathered into a small cache of the row's own, which attention walks as any other.
// All of it hangs on the row's position and the positions before it only.
#pragma once

#include <cstdint>

#include "backend/cuda/attention.h"
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

// From this position on a row has more whole groups than it may pick. Before it picks all there is: the bits of attention to the cache.
constexpr int64_t picks_from(const IndexerShape& shape) {
  return shape.budget + shape.ratio - 1;
}
// Positions that a row further on attends to, and blocks that take them.
constexpr int64_t gathered_positions(const IndexerShape& shape, int64_t position) {
  return shape.budget + (position + 1) % shape.ratio;
}
constexpr int64_t gathered_blocks(const IndexerShape& shape) {
  return (shape.budget + shape.ratio - 1 + kCacheBlock - 1) / kCacheBlock;
}

// Of `count` rows what they pick, and a batch of as many sequences of one row each for paged_attention(), of which those that do not
// pick have no row. Which these are the device sees: the host knows how many rows there are and nothing of them.
struct PickedRows {
  int32_t* groups = nullptr;           // [count, budget / ratio] ascending
  PagedSequence* sequences = nullptr;  // [count]
  int32_t* row_sequence = nullptr;     // [count] i, or -1
  int32_t* tables = nullptr;           // [count, gathered_blocks()]: block i of all
  AttentionTile* tiles = nullptr;      // [count, tiles_each]
  int64_t tiles_each = 0;
};

struct PickArgs {
  IndexerShape shape;
  PagedRows batch;
  int64_t first = 0;        // row of the batch
  int64_t count = 0;        // of rows from there on
  int64_t most_groups = 0;  // whole ones, at any of their positions
  const float* index = nullptr;
  const float* queries = nullptr;  // [all rows of the batch, heads * head_dim]
  float* scores = nullptr;         // scratch [count, most_groups]
  PickedRows to = {};
};
// Groups with the largest sum over the heads of max(0, query . key), of equal ones the first. NaN counts as 0.
void pick_groups(Stream& stream, const PickArgs& args);

struct GatherArgs {
  IndexerShape shape;
  PagedRows batch;
  int64_t first = 0, count = 0;     // as in PickArgs
  const int32_t* groups = nullptr;  // of PickedRows
  PagedCacheView from;
  PagedCacheView to;  // row first + i's blocks: i * gathered_blocks() and on
};
void gather_positions(Stream& stream, const GatherArgs& args);

}  // namespace qwen::cuda
