// Stop strings in text that arrives in pieces: what can no longer be part of one is released at once, what may still
// become one is held, and nothing of the one that ends the text, or behind it, ever comes out.
//
// The match is the stop string that is complete first: of "ab" and "abc" it is always "ab", and of "abcd" and "bc" in
// "abcd" it is "bc". Of several that end at the same byte it is the longest, so that the text ends as early as it
// can. Where the pieces were cut makes no difference, neither to the match nor to the text.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qwen {

class StopStrings {
 public:
  // None: all text passes through. Throws Error(invalid_argument) for a stop string that is empty or not UTF-8. Memory
  // and time are linear in the strings' bytes.
  explicit StopStrings(std::vector<std::string> stops);

  // The text that became certain, possibly none: whole code points, as `text` must be. Held back is only the longest
  // end of all text so far that begins a stop string. Empty once matched().
  std::string push(std::string_view text);
  // The text ends here: what is held, or nothing once matched(). A text pushed later begins anew.
  std::string finish();
  // Index of the stop string that ended the text; of equal ones the first.
  std::optional<size_t> matched() const { return matched_; }

 private:
  // The automaton of Aho and Corasick (1975): a node stands for the longest end of the text that begins a stop string.
  struct Node {
    uint32_t stop = 0;      // a stop string that begins with this node's text,
    uint32_t depth = 0;     // of which it is this many bytes
    uint32_t fallback = 0;  // the node of the longest proper end of this text that begins a stop string
    uint32_t complete = 0;  // the longest stop string that this text ends with: its node, 0 for none
    uint32_t first_child = 0, next_sibling = 0;
    char byte = 0;  // the last of this node's text
  };

  uint32_t child(uint32_t node, char byte) const;  // 0: none
  uint32_t next(uint32_t node, char byte) const;
  void insert(uint32_t stop);
  void link();
  std::string_view held() const;

  std::vector<std::string> stops_;
  std::vector<Node> nodes_;                 // [0] is the empty text
  std::array<uint32_t, 256> first_byte_{};  // the root's children: plain text is spent here
  uint32_t node_ = 0;
  std::optional<size_t> matched_;
};

}  // namespace qwen
