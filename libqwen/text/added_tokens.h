// Finds added tokens ("<|im_start|>") in text: leftmost, and among those the longest, as Hugging Face does.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qwen {

class AddedTokens {
 public:
  struct Match {
    size_t begin;  // npos: none
    size_t end;
    int32_t id;
  };

  void add(std::string content, int32_t id);  // content is not empty
  void finish();                              // after the last add
  bool empty() const { return tokens_.empty(); }
  Match find(std::string_view text, size_t from) const;
  int32_t id_of(std::string_view content) const;  // -1: none

 private:
  struct Token {
    std::string content;
    int32_t id;
  };
  std::vector<Token> tokens_;               // by first byte, the longest first
  std::array<uint32_t, 257> first_byte_{};  // tokens_[first_byte_[b], first_byte_[b + 1]) begin with byte b
  int only_byte_ = -1;  // the byte that all tokens begin with ('<' in Qwen's files), -1: several
};

}  // namespace qwen
