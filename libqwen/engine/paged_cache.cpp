#include "engine/paged_cache.h"

#include <algorithm>

#include "engine/request.h"

namespace qwen {
namespace {

constexpr int64_t kBlocksPerChunk = kStateChunk / kCacheBlock;
static_assert(kStateChunk % kCacheBlock == 0);

// A state is large, about as large as the keys and values of a thousand tokens, so not every one is kept that a long prompt
// passes: those at these positions, and the last one before the prompt's end.
constexpr int64_t kSnapshotInterval = 256;

// Of the blocks before position `next`, the first one that a row at `next` sees: itself and window - 1 positions before it.
int64_t first_block_seen(const CacheGroupSpec& group, int64_t next) {
  return group.window == 0 ? 0 : std::max<int64_t>(0, next - group.window + 1) / kCacheBlock;
}

int64_t blocks_for(int64_t positions) {
  return (positions + kCacheBlock - 1) / kCacheBlock;
}

}  // namespace

PagedCache::PagedCache(std::span<const CacheGroupSpec> groups, CacheSizes sizes, bool finds_prefixes)
    : finds_prefixes_(finds_prefixes) {
  for (const CacheGroupSpec& spec : groups) {
    groups_.push_back({spec, BlockPool(spec.recurrent() ? sizes.states : sizes.blocks)});
    recurrent_ = recurrent_ || spec.recurrent();
  }
  if (!recurrent_) return;
  for (int64_t slot = sizes.states - 1; slot >= 0; --slot) free_slots_.push_back(static_cast<int32_t>(slot));
}

int64_t PagedCache::blocks_total() const {
  int64_t total = 0;
  for (const Group& group : groups_) total += group.pool.total();
  return total;
}

int64_t PagedCache::blocks_used() const {
  int64_t used = 0;
  for (const Group& group : groups_) used += group.pool.total() - group.pool.available();
  return used;
}

// The longest head whose blocks are all found.
PagedCache::Prefix PagedCache::find_prefix(Sequence& sequence, int64_t most) const {
  Prefix prefix{.blocks = most / kCacheBlock, .found = {}};
  for (const Group& group : groups_) {
    auto& found = prefix.found.emplace_back();
    if (group.spec.recurrent()) continue;
    for (int64_t block = 0; block < prefix.blocks; ++block) {
      found.push_back(group.pool.find(sequence.key(block)));
      if (found.back() < 0 && group.spec.window == 0) prefix.blocks = block;
    }
  }
  while (prefix.blocks > 0 && !complete(sequence, prefix)) --prefix.blocks;
  return prefix;
}

// A row behind these blocks finds all that it sees.
bool PagedCache::complete(Sequence& sequence, const Prefix& prefix) const {
  for (size_t i = 0; i < groups_.size(); ++i) {
    const auto& [spec, pool] = groups_[i];
    if (spec.recurrent()) {
      if (prefix.blocks % kBlocksPerChunk != 0 || pool.find(sequence.key(prefix.blocks - 1)) < 0)
        return false;
      continue;
    }
    const auto& found = prefix.found[i];
    const int64_t first = first_block_seen(spec, prefix.blocks * kCacheBlock);
    if (std::any_of(found.begin() + first, found.begin() + prefix.blocks, [](int32_t id) { return id < 0; }))
      return false;
  }
  return true;
}

void PagedCache::adopt_prefix(Sequence& sequence, int64_t most) {
  if (!finds_prefixes_) return;
  const Prefix prefix = find_prefix(sequence, most);
  std::vector<std::vector<int32_t>> tables(groups_.size());
  for (size_t i = 0; i < groups_.size(); ++i) {
    const bool recurrent = groups_[i].spec.recurrent();
    const int64_t entries = recurrent ? prefix.blocks / kBlocksPerChunk + 1 : prefix.blocks;
    tables[i].reserve(static_cast<size_t>(entries) + 1);
    tables[i].assign(static_cast<size_t>(entries), -1);
  }
  sequence.block_tables = std::move(tables);  // nothing below allocates
  for (size_t i = 0; i < groups_.size(); ++i) {
    auto& [spec, pool] = groups_[i];
    auto& table = sequence.block_tables[i];
    if (spec.recurrent()) {
      if (prefix.blocks == 0) continue;
      table.back() = pool.find(sequence.key(prefix.blocks - 1));
      pool.share(table.back());
      continue;
    }
    for (int64_t block = first_block_seen(spec, prefix.blocks * kCacheBlock); block < prefix.blocks;
         ++block) {
      const int32_t id = prefix.found[i][static_cast<size_t>(block)];
      pool.share(id);
      table[static_cast<size_t>(block)] = id;
    }
  }
  sequence.computed = prefix.blocks * kCacheBlock;
  sequence.named_blocks = prefix.blocks;
  sequence.state_chunk = sequence.computed / kStateChunk;
  if (!recurrent_) adopt_part(sequence, most);
}

void PagedCache::adopt_part(Sequence& sequence, int64_t most) {
  for (int64_t rows = std::min(most - sequence.computed, kCacheBlock - 1); rows > 0; --rows) {
    const BlockKey key = sequence.key_of_part(rows);
    if (!std::all_of(groups_.begin(), groups_.end(),
                     [&](const Group& group) { return group.pool.find(key) >= 0; }))
      continue;
    for (size_t i = 0; i < groups_.size(); ++i) {
      const int32_t id = groups_[i].pool.find(key);
      groups_[i].pool.take_over(id);
      sequence.block_tables[i].push_back(id);
    }
    sequence.computed += rows;
    return;
  }
}

// Whether the state at the beginning of this chunk is worth keeping for others.
bool PagedCache::keeps(const Sequence& sequence, int64_t chunk) const {
  const auto prompt = static_cast<int64_t>(sequence.request().input().prompt.size());
  return finds_prefixes_ &&
         (chunk * kStateChunk % kSnapshotInterval == 0 || chunk == (prompt - 1) / kStateChunk);
}

// How many blocks must be taken so that the table reaches `positions`.
int64_t PagedCache::lacking(const Group& group, const std::vector<int32_t>& table, int64_t positions) const {
  const auto have = static_cast<int64_t>(table.size());
  if (!group.spec.recurrent()) return std::max<int64_t>(0, blocks_for(positions) - have);
  const int64_t chunk = positions / kStateChunk;
  return chunk > 0 && chunk >= have ? 1 : 0;
}

// Precondition: the table has memory for its entries, the pool has the blocks that are lacking.
void PagedCache::take(Group& group, const Sequence& sequence, std::vector<int32_t>& table,
                      int64_t positions) {
  if (!group.spec.recurrent()) {
    while (static_cast<int64_t>(table.size()) < blocks_for(positions)) table.push_back(group.pool.take());
    return;
  }
  const int64_t last = positions / kStateChunk;
  for (auto chunk = static_cast<int64_t>(table.size()); chunk <= last; ++chunk) {
    // One on the way is kept as long as that leaves those who run what they need.
    const bool spare = group.pool.available() > group.pool.total() / 2 + 1;
    const bool wanted = chunk == last || (spare && keeps(sequence, chunk));
    table.push_back(chunk > 0 && wanted ? group.pool.take() : -1);
  }
}

bool PagedCache::reserve(Sequence& sequence, int64_t positions) {
  sequence.block_tables.resize(groups_.size());
  for (size_t i = 0; i < groups_.size(); ++i)
    if (lacking(groups_[i], sequence.block_tables[i], positions) > groups_[i].pool.available()) return false;
  if (recurrent_ && sequence.state_slot < 0 && free_slots_.empty()) return false;
  for (auto& table : sequence.block_tables) table.reserve(static_cast<size_t>(blocks_for(positions)) + 1);
  for (size_t i = 0; i < groups_.size(); ++i) take(groups_[i], sequence, sequence.block_tables[i], positions);
  if (recurrent_ && sequence.state_slot < 0) {
    sequence.state_slot = free_slots_.back();
    free_slots_.pop_back();
  }
  return true;
}

void PagedCache::name(Sequence& sequence) {
  if (!finds_prefixes_) return;
  for (; (sequence.named_blocks + 1) * kCacheBlock <= sequence.computed; ++sequence.named_blocks) {
    const BlockKey& key = sequence.key(sequence.named_blocks);
    for (size_t i = 0; i < groups_.size(); ++i) {
      if (groups_[i].spec.recurrent()) continue;
      const int32_t id = sequence.block_tables[i][static_cast<size_t>(sequence.named_blocks)];
      if (id >= 0) groups_[i].pool.name(id, key);
    }
  }
  for (int64_t chunk = sequence.state_chunk; chunk <= sequence.computed / kStateChunk; ++chunk)
    if (keeps(sequence, chunk)) name_states(sequence, chunk);
}

// Precondition: the keys of the blocks before the chunk are known, so that nothing allocates.
void PagedCache::name_states(Sequence& sequence, int64_t chunk) {
  if (chunk == 0) return;
  for (size_t i = 0; i < groups_.size(); ++i) {
    if (!groups_[i].spec.recurrent()) continue;
    const int32_t id = sequence.block_tables[i][static_cast<size_t>(chunk)];
    if (id >= 0) groups_[i].pool.name(id, sequence.key(chunk * kBlocksPerChunk - 1));
  }
}

void PagedCache::trim(Sequence& sequence) noexcept {
  const int64_t chunk = sequence.computed / kStateChunk;
  for (size_t i = 0; i < groups_.size(); ++i) {
    auto& [spec, pool] = groups_[i];
    auto& table = sequence.block_tables[i];
    const int64_t end = spec.recurrent() ? chunk : first_block_seen(spec, sequence.computed);
    const int64_t first = spec.recurrent() ? sequence.state_chunk : 0;
    for (int64_t block = end; block-- > first;) {
      int32_t& id = table[static_cast<size_t>(block)];
      if (id < 0 && !spec.recurrent()) break;  // so are all before it
      if (id >= 0) pool.give_back(id);
      id = -1;
    }
  }
  sequence.state_chunk = chunk;
}

// The last blocks first: what is given back first is forgotten first, and a head is worth more than its tail.
void PagedCache::release(Sequence& sequence) noexcept {
  const int64_t part = sequence.computed - sequence.named_blocks * kCacheBlock;
  if (finds_prefixes_ && !recurrent_ && part > 0 && part < kCacheBlock) {
    const BlockKey key = sequence.key_of_part(part);
    for (size_t i = 0; i < groups_.size(); ++i)
      groups_[i].pool.name(sequence.block_tables[i][static_cast<size_t>(sequence.named_blocks)], key);
  }
  const int64_t chunk = sequence.computed / kStateChunk;
  if (finds_prefixes_ && recurrent_ && sequence.named_blocks >= chunk * kBlocksPerChunk)
    name_states(sequence, chunk);  // what follows this answer begins with it
  for (size_t i = 0; i < sequence.block_tables.size(); ++i) {
    const auto& table = sequence.block_tables[i];
    for (auto block = table.rbegin(); block != table.rend(); ++block)
      if (*block >= 0) groups_[i].pool.give_back(*block);
  }
  if (sequence.state_slot >= 0) free_slots_.push_back(sequence.state_slot);  // has room: it came from there
  sequence.state_slot = -1;
  sequence.block_tables.clear();
  sequence.computed = 0;
  sequence.named_blocks = 0;
  sequence.state_chunk = 0;
}

}  // namespace qwen
