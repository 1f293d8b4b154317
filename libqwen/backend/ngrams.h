// Which rows of a table the n-grams take that end at a token: integers, in the arithmetic of transformers' Qwen4ExpTextNGramEmbedding,
// of which no bit may differ. The CPU's rule and the GPU's.
#pragma once

#include <cstdint>

namespace qwen {

// Heads of the n-grams of 2 tokens, of 3, and so on; every head has a part of the table's rows.
struct NgramNumbers {
  int64_t heads = 0;  // of all n-grams together
  int64_t heads_per_ngram = 0;
  int32_t eos_token_id = 0;              // no n-gram reaches beyond it
  const int64_t* multipliers = nullptr;  // [tokens()], odd
  const int64_t* vocab_sizes = nullptr;  // [heads] rows of its part
  const int64_t* offsets = nullptr;      // [heads] where the part begins

  constexpr int64_t tokens() const { return heads / heads_per_ngram + 1; }  // of the longest n-gram
};

// The row of one head. token(0) is where the n-gram ends, token(i) the i-th before it; below 0: the text begins behind it.
template <class Token>
constexpr int64_t ngram_row(const NgramNumbers& numbers, int64_t head, const Token& token) {
  const int64_t first = head / numbers.heads_per_ngram + 1;  // how far back the n-gram begins
  uint64_t hash = 0;
  bool ended = false;  // behind the text's beginning and behind eos everything counts as eos
  for (int64_t back = 0; back <= first; ++back) {
    int32_t id = numbers.eos_token_id;
    if (!ended) {
      const int32_t there = token(back);
      ended = back > 0 && (there < 0 || there == numbers.eos_token_id);
      if (!ended) id = there;
    }
    hash ^= static_cast<uint64_t>(id) * static_cast<uint64_t>(numbers.multipliers[back]);
  }
  const int64_t size = numbers.vocab_sizes[head], rest = static_cast<int64_t>(hash) % size;
  return numbers.offsets[head] + (rest < 0 ? rest + size : rest);
}

}  // namespace qwen
