// The tokens: id -> bytes and flags, and bytes -> id for the tokens that byte-level BPE can produce.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

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
  int32_t find(std::string_view bytes) const { return find(bytes, hash(bytes)); }

 private:
  struct Slot {
    uint32_t tag = 0;
    int32_t id = -1;  // -1: empty
  };
  static uint64_t hash(std::string_view bytes);
  int32_t find(std::string_view bytes, uint64_t hash) const;

  std::vector<Token> tokens_;
  std::string arena_;
  std::vector<Slot> slots_;  // open addressing, linear probing, a power of two
  int32_t byte_tokens_[256] = {};
  size_t longest_ = 0;
};

}  // namespace qwen
