// The tokens: id -> bytes and flags, and bytes -> id for the tokens that byte-level BPE can produce.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/large_pages.h"

namespace qwen {

class Vocabulary {
 public:
  // Ids above this are refused: pair keys (bpe.h) hold ids of 21 bits. Ten times the largest Qwen vocabulary.
  static constexpr int64_t kMaxId = (1 << 21) - 1;

  struct Token {
    uint32_t offset = 0;  // into the arena
    uint32_t length = 0;
    bool present = false;  // false: a hole in the numbering, or padding
    bool indexed = false;  // find() knows it
    bool added = false;
    bool special = false;
  };

  // Building. `bytes` is copied; the id must be free.
  void reserve(size_t tokens, size_t bytes);
  bool contains(int32_t id) const { return id < size() && tokens_[static_cast<size_t>(id)].present; }
  void add(int32_t id, std::string_view bytes, bool added, bool special);
  void mark_added(int32_t id, bool special);  // a base token that the file also lists as an added token
  // Makes the token findable by its bytes: an id there already with these bytes is returned instead, else -1.
  // make_index first, with the number of tokens to come.
  void make_index(size_t tokens);
  int32_t index(int32_t id);

  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }
  const Token& token(int32_t id) const { return tokens_[static_cast<size_t>(id)]; }
  std::string_view bytes(int32_t id) const {
    const Token& t = token(id);
    return {arena_.data() + t.offset, t.length};
  }
  int32_t byte_token(unsigned char byte) const { return byte_tokens_[byte]; }
  size_t longest() const { return longest_; }  // bytes of the longest indexed token

  // Id of the token with exactly these bytes (not empty), -1: none.
  int32_t find(std::string_view bytes) const;
  // Starts to fetch what find(bytes) will read: a table of megabytes is a cache miss for nearly every word.
  void prefetch(std::string_view bytes) const {
    __builtin_prefetch(&slots_[key_of(bytes).hash & (slots_.size() - 1)]);
  }

 private:
  // A token of up to 8 bytes is compared in its slot, at the cost of the one cache miss that finding it is
  // anyway; for longer ones the word is a hash, and the bytes in the arena decide.
  struct Slot {
    uint64_t word = 0;
    uint32_t length = 0;
    int32_t id = -1;  // -1: empty
  };
  struct Key {
    uint64_t word, hash;
  };
  static Key key_of(std::string_view bytes);
  int32_t find(std::string_view bytes, const Key& key) const;

  LargeVector<Token> tokens_;
  std::string arena_;
  LargeVector<Slot> slots_ = LargeVector<Slot>(1);  // open addressing, linear probing, a power of two
  int32_t byte_tokens_[256] = {};
  size_t longest_ = 0;
};

}  // namespace qwen
