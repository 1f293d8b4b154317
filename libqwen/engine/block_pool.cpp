#include "engine/block_pool.h"

#include <array>
#include <new>

#include "base/entropy.h"

namespace qwen {
namespace {

// 64 x 64 -> 128 bits, folded: the mixing step of wyhash (Wang Yi, public domain).
uint64_t mix(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

const std::array<uint64_t, 4>& secrets() {
  static const std::array<uint64_t, 4> drawn = [] {
    std::array<uint64_t, 4> values;
    for (uint64_t& value : values) value = entropy() | 1;
    return values;
  }();
  return drawn;
}

}  // namespace

BlockKey next_key(const BlockKey& previous, std::span<const int32_t> tokens) {
  const auto& secret = secrets();
  BlockKey key = {previous.low ^ secret[0], previous.high ^ secret[1]};
  for (const int32_t token : tokens) {
    const auto value = static_cast<uint64_t>(static_cast<uint32_t>(token)) + 1;
    key.low = mix(key.low ^ value, secret[2]);
    key.high = mix(key.high + value, secret[3] ^ key.low);
  }
  return key;
}

BlockPool::BlockPool(int64_t blocks) : blocks_(static_cast<size_t>(blocks)), available_(blocks) {
  secrets();  // now, while an error has somewhere to go
  free_.reserve(static_cast<size_t>(blocks));
  // Low ids on top, and last in first out: untouched memory stays untouched.
  for (int64_t id = blocks - 1; id >= 0; --id) free_.push_back(static_cast<int32_t>(id));
  named_.reserve(static_cast<size_t>(blocks));
}

int32_t BlockPool::take() {
  int32_t id;
  if (!free_.empty()) {
    id = free_.back();
    free_.pop_back();
  } else {
    id = oldest_;
    unlink(id);
    Block& block = blocks_[static_cast<size_t>(id)];
    named_.erase(block.key);
    block.named = false;
  }
  blocks_[static_cast<size_t>(id)].users = 1;
  --available_;
  return id;
}

void BlockPool::share(int32_t id) {
  Block& block = blocks_[static_cast<size_t>(id)];
  if (block.users++ > 0) return;
  unlink(id);
  --available_;
}

void BlockPool::take_over(int32_t id) {
  share(id);
  Block& block = blocks_[static_cast<size_t>(id)];
  named_.erase(block.key);
  block.named = false;
}

void BlockPool::give_back(int32_t id) {
  Block& block = blocks_[static_cast<size_t>(id)];
  if (--block.users > 0) return;
  ++available_;
  if (!block.named) {
    free_.push_back(id);
    return;
  }
  block.older = newest_;
  block.newer = -1;
  (newest_ < 0 ? oldest_ : blocks_[static_cast<size_t>(newest_)].newer) = id;
  newest_ = id;
}

void BlockPool::name(int32_t id, const BlockKey& key) noexcept {
  Block& block = blocks_[static_cast<size_t>(id)];
  try {
    if (block.named || !named_.emplace(key, id).second) return;
  } catch (const std::bad_alloc&) {
    return;
  }
  block.named = true;
  block.key = key;
}

int32_t BlockPool::find(const BlockKey& key) const {
  const auto found = named_.find(key);
  return found == named_.end() ? -1 : found->second;
}

void BlockPool::unlink(int32_t id) {
  const Block& block = blocks_[static_cast<size_t>(id)];
  (block.older < 0 ? oldest_ : blocks_[static_cast<size_t>(block.older)].newer) = block.newer;
  (block.newer < 0 ? newest_ : blocks_[static_cast<size_t>(block.newer)].older) = block.older;
}

}  // namespace qwen
