// The sizes of an attention layer's indexer, which picks the positions that a row attends to: see Backend::indexed_attention().
#pragma once

#include <cstdint>

namespace qwen {

struct IndexerShape {
  int64_t heads = 0;  // of queries; all share one key
  int64_t head_dim = 0;
  int64_t rotary_dim = 0;  // of each head's elements, how many rotary positions turn: the first ones
  int64_t ratio = 0;       // neighbouring positions that share one key; divides kCacheBlock
  int64_t budget = 0;      // positions that a row picks at most, a multiple of ratio; those of an unfinished
                           // group at its end come on top
};

}  // namespace qwen
