// The cache of keys and values on the device, and where a step's rows stand in it.
//
// A block holds kCacheBlock positions, kv head by kv head, as attention's tensor-core fragments want them, 16 bytes a lane and
// nothing through shared memory:
//   keys    [block][kv_head][kCacheBlock][width]     zeros from head_dim on, in every position that was written
//   values  [block][kv_head][width][kCacheBlock]     transposed: the sum runs over positions
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/batch.h"
#include "backend/cuda/element.h"

namespace qwen::cuda {

// head_dim, rounded up to what two mma sum over.
constexpr int64_t cache_width(int64_t head_dim) {
  return (head_dim + 31) / 32 * 32;
}

// One layer of a cache group. Both planes are aligned to 16 bytes.
struct PagedCacheView {
  void* keys = nullptr;
  void* values = nullptr;
  Element element = Element::f32;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t width = 0;  // cache_width(head_dim)
};

// Of one block, in keys and in values.
constexpr int64_t cache_block_elements(int64_t kv_heads, int64_t head_dim) {
  return kv_heads * kCacheBlock * cache_width(head_dim);
}

// A sequence's rows of the step: row first_row + i is at position context_length + i.
struct PagedSequence {
  int32_t first_row = 0;
  int32_t row_count = 0;
  int32_t context_length = 0;
  int32_t table = 0;  // where in PagedRows::tables its block table begins
  int32_t slot = -1;  // for its current chunk, in groups of recurrent states
};

// All of it in device memory.
struct PagedRows {
  const PagedSequence* sequences = nullptr;
  const int32_t* row_sequence = nullptr;  // [rows]
  const int32_t* tables = nullptr;        // block ids of all sequences, one table behind the other
  int64_t rows = 0;
};

}  // namespace qwen::cuda
