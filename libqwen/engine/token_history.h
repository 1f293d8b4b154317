// How often a sequence's tokens have occurred, as far as the penalties of its request look back. It follows the sequence token by
// token, so that the next token costs what there are different tokens, and nothing where there is no penalty.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/sampling_params.h"

namespace qwen {

class TokenHistory {
 public:
  struct Count {
    int32_t id;
    int32_t all = 0;        // in prompt and answer: the repetition penalty's
    int32_t generated = 0;  // in the answer: the presence and frequency penalties'
  };

  // tokens: the prompt's prompt_size and what was generated. They have only become more since the last call.
  void follow(const SamplingParams& params, std::span<const int32_t> tokens, size_t prompt_size);
  std::span<const Count> counts() const { return counts_; }  // ids ascending

 private:
  // Of the tokens, those that are counted.
  struct Window {
    size_t begin = 0, end = 0;
  };
  void move(Window& window, size_t begin, std::span<const int32_t> tokens, int32_t Count::*kind);
  void add(std::span<const int32_t> tokens, int32_t Count::*kind);
  void remove(std::span<const int32_t> tokens, int32_t Count::*kind);

  std::vector<Count> counts_;
  Window all_, generated_;
};

}  // namespace qwen
