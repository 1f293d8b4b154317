// Which blocks of the cache hold which sequence: given out before a step, named by their contents after it, found again by
// later sequences that begin alike. One pool of blocks per cache group; the blocks' memory is the backend's.
// Used by the step thread only. What throws (std::bad_alloc) changes nothing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "engine/block_pool.h"
#include "engine/sequence.h"

namespace qwen {

struct CacheSizes {
  int64_t blocks = 0;  // in every group of keys and values
  int64_t states = 0;  // in every group of recurrent states; as many sequences can run
};

class PagedCache {
 public:
  PagedCache(std::span<const CacheGroupSpec> groups, CacheSizes sizes, bool finds_prefixes);

  int64_t blocks_total() const;
  int64_t blocks_used() const;

  // Shares the blocks of the longest head of the sequence that the cache still holds, at most `most` of its tokens, and goes
  // on in the block that an ended sequence left unfinished behind it. The sequence has no blocks yet.
  void adopt_prefix(Sequence& sequence, int64_t most);
  // Blocks for the first `positions` positions in every group, or none at all.
  bool reserve(Sequence& sequence, int64_t positions);
  // Names what the sequence has computed.
  void name(Sequence& sequence);
  // Gives back what no later row of the sequence sees.
  void trim(Sequence& sequence) noexcept;
  // Gives everything back.
  void release(Sequence& sequence) noexcept;

 private:
  struct Group {
    CacheGroupSpec spec;
    BlockPool pool;
  };
  // The blocks that a head of some length shares.
  struct Prefix {
    int64_t blocks = 0;                       // of kCacheBlock positions
    std::vector<std::vector<int32_t>> found;  // [group of keys and values][block], -1: not found
  };
  Prefix find_prefix(Sequence& sequence, int64_t most) const;
  bool complete(Sequence& sequence, const Prefix& prefix) const;
  void adopt_part(Sequence& sequence, int64_t most);
  bool keeps(const Sequence& sequence, int64_t chunk) const;
  int64_t lacking(const Group& group, const std::vector<int32_t>& table, int64_t positions) const;
  void take(Group& group, const Sequence& sequence, std::vector<int32_t>& table, int64_t positions);
  void name_states(Sequence& sequence, int64_t first_chunk);

  std::vector<Group> groups_;
  bool finds_prefixes_;
  bool recurrent_ = false;           // a group is
  std::vector<int32_t> free_slots_;  // of the recurrent groups
};

}  // namespace qwen
