// The kernels of the level with matrix tiles (Intel AMX, bf16), beside those of kernels.h. They read bfloat16 matrices as the
// file has them; activations are rounded to bfloat16 when they are packed.
//
// One order of accumulation for every row count: an output is one float32 accumulator that takes 32 inputs at a time, in
// ascending order, by the tile instruction (https://www.intel.com/content/www/us/en/docs/intrinsics-guide, TDPBF16PS).
//
// Included by translation units compiled for one instruction set: see kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/kernels.h"

namespace qwen::cpu {

static constexpr int64_t kTileRows = 16;    // of weights, or of activations, in a tile
static constexpr int64_t kTileInputs = 32;  // bfloat16 numbers in a row of a tile
static constexpr int64_t kTileBytes = 1024;

// Activations as the tile instruction wants them: groups of 16 rows, of each group [k / 32] tiles, a tile
// [16 pairs of inputs][rows of the group][2]. A single group has as many columns as it has rows, all others 16; inputs are
// padded with zeros to whole tiles.
static constexpr int64_t packed_columns(int64_t rows) {
  return rows < kTileRows ? rows : kTileRows;
}
static constexpr int64_t packed_chunks(int64_t k) {
  return (k + kTileInputs - 1) / kTileInputs;
}
static constexpr int64_t packed_bytes(int64_t rows, int64_t k) {
  return (rows + kTileRows - 1) / kTileRows * packed_chunks(k) * packed_columns(rows) * 64;
}

// Part of packing: inputs [first_chunk * 32, last_chunk * 32) of the 16 rows of one group.
struct TilePackTask {
  const float* x = nullptr;  // [rows, k], the group's first row
  int64_t x_stride = 0;      // in elements
  int64_t rows = 0;          // of the group, at most 16
  int64_t columns = 0;       // packed_columns()
  int64_t k = 0;
  int64_t first_chunk = 0;
  int64_t last_chunk = 0;
  std::byte* to = nullptr;  // the group's first tile
};

// As LinearTask (kernels.h), of bfloat16 weights and packed activations.
struct TileLinearTask {
  const std::byte* x = nullptr;  // packed, 64-byte aligned
  int64_t rows = 0;
  const std::byte* weight = nullptr;  // [outputs, k], any alignment
  const std::byte* up = nullptr;      // likewise; if there is one: out = silu(x weight^T) * (x up^T)
  int64_t weight_stride = 0;          // in bytes
  int64_t outputs = 0;
  int64_t k = 0;
  const float* bias = nullptr;  // [outputs]
  float* out = nullptr;         // [rows, outputs]
  int64_t out_stride = 0;       // in elements
  PackedRows packed;  // or, with `up`, out goes there: to inputs from packed_input on, a multiple of 16
  int64_t packed_input = 0;
  bool accumulate = false;
  std::byte* scratch = nullptr;  // tile_scratch_bytes(), 64-byte aligned
};

// Up to here the weights are read where they lie; with more rows a panel of them is first copied into tiles.
static constexpr int64_t kFewTileRows = 64;

// Rows of more than 2048 inputs are multiplied slice by slice, about 1024 inputs each, the sums kept in between: a panel that
// stays in L2 then has outputs enough that the activations, which do not, are not fetched too often.
static constexpr int64_t slice_chunks(int64_t k) {
  const int64_t chunks = packed_chunks(k), slices = chunks > 64 ? chunks / 32 : 1;
  return (chunks + slices - 1) / slices;
}

// outputs: those of `up` count, too.
static constexpr int64_t tile_scratch_bytes(int64_t rows, int64_t outputs, int64_t k) {
  if (rows <= kFewTileRows) return kTileBytes;
  const int64_t tiles = (outputs + kTileRows - 1) / kTileRows, slice = slice_chunks(k);
  const int64_t kept = slice < packed_chunks(k) ? (rows + 3 * kTileRows - 1) / (3 * kTileRows) : 1;
  return (tiles * slice + 3 * (tiles + 1) * kept) *
         kTileBytes;  // the panel, and sums of three groups at a time
}

// Attention (AttentionTask of kernels.h) reads keys and values as tiles' first operand: of a block of the cache, keys lie
// [kBlock][tile_key_width], padded with zeros, and values [padded_head_dim][kBlock].
static constexpr int64_t tile_key_width(int64_t head_dim) {
  return packed_chunks(head_dim) * kTileInputs;
}

// It walks the cache in spans from position 0: of each span scores, then probabilities relative to the maximum so far, then
// products with the values; the sum of the probabilities is a product with ones. Probabilities are rounded to bfloat16.
static constexpr int64_t kSpan = 256;

static constexpr int64_t tile_attention_bytes(int64_t queries, int64_t head_dim) {
  const int64_t groups = (queries + kTileRows - 1) / kTileRows;
  const int64_t query_tiles = packed_chunks(head_dim), sum_tiles = padded_head_dim(head_dim) / kTileRows + 1;
  const int64_t span_tiles = kSpan / kTileRows + kSpan / kTileInputs;  // scores, probabilities
  return (groups * (query_tiles + sum_tiles + span_tiles + 1) + padded_head_dim(head_dim) / kTileRows) *
         kTileBytes;
}

struct TileKernels {
  void (*pack)(const TilePackTask& task);
  void (*linear)(const TileLinearTask& task);
  void (*attention)(const AttentionTask& task);
};

}  // namespace qwen::cpu
