// Tokens, one at a time, into whole UTF-8: bytes of an unfinished code point wait until it is finished, or
// are replaced by U+FFFD when the next byte shows that it never will be. The concatenation of all pieces plus
// finish() equals Tokenizer::decode of all ids.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "text/tokenizer.h"

namespace qwen {

class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  // Appends the text that became complete with this token to `out` (possibly nothing). Only whole code
  // points.
  void push(int32_t id, std::string& out);
  // Appends what is left (an unfinished code point as U+FFFD). The object is ready for a new text afterwards.
  void finish(std::string& out);

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;  // at most 3 bytes: the valid beginning of one code point
};

}  // namespace qwen
