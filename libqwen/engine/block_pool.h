// The blocks of one cache group: given out, shared, taken back, and found again by what they hold. Used by the step thread
// only.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace qwen {

// The name of what a block holds: a hash of its tokens and of all tokens before it. 128 bits from secret, per-process keys, so
// that nobody can make two prompts collide.
struct BlockKey {
  uint64_t low = 0, high = 0;
  bool operator==(const BlockKey&) const = default;
};

// The key of `tokens` in a block that follows the block `previous` ({} for the first one without an adapter).
BlockKey next_key(const BlockKey& previous, std::span<const int32_t> tokens);

class BlockPool {
 public:
  explicit BlockPool(int64_t blocks);

  int64_t total() const { return static_cast<int64_t>(blocks_.size()); }
  // Blocks that nobody uses; some of them may be named, and are forgotten when they are taken.
  int64_t available() const { return available_; }

  // A block of one's own: never used if there is one, else the one that was given back first. Precondition:
  // available() > 0.
  int32_t take();
  // One more user of a block that find() has found.
  void share(int32_t block);
  // The same for a block that is not full and has no users: it loses its name, for its new owner will write on in it.
  void take_over(int32_t block);
  // One user less. Without users a block waits to be taken; named, it can be found until then.
  void give_back(int32_t block);

  // From now on find(key) finds this block. A key that names another block already stays with that one; where there is no
  // memory for a name, the block has none: it saves a computation, no more.
  void name(int32_t block, const BlockKey& key) noexcept;
  // -1: no block of that name.
  int32_t find(const BlockKey& key) const;

 private:
  struct Block {
    int32_t users = 0;
    bool named = false;
    int32_t older = -1, newer = -1;  // neighbours in the list of named blocks without users
    BlockKey key;
  };
  struct KeyHash {
    size_t operator()(const BlockKey& key) const { return static_cast<size_t>(key.low); }
  };
  void unlink(int32_t block);

  std::vector<Block> blocks_;
  std::vector<int32_t> free_;          // without users and without a name
  int32_t oldest_ = -1, newest_ = -1;  // of the named ones without users
  int64_t available_ = 0;
  std::unordered_map<BlockKey, int32_t, KeyHash> named_;
};

}  // namespace qwen
