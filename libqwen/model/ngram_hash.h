// Which rows of its table an n-gram's heads take: integers that follow from config.json alone, in the arithmetic of
// transformers' Qwen4ExpTextNGramEmbedding.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/model_config.h"

namespace qwen {

struct NgramHash {
  // Of one layer, the index-th that has n-gram embeddings.
  NgramHash(const ModelConfig& config, int64_t index);

  std::vector<int64_t> vocab_sizes;  // [heads] primes: of every head, the rows of its part of the table
  std::vector<int64_t> offsets;      // [heads] where the part begins
  std::vector<int64_t> multipliers;  // [ngram_size], odd
  int64_t table_rows = 0;            // of all parts, padded

  // The rows of the n-grams that end with the last one of `tokens`, the sequence so far: to [heads].
  void rows(std::span<const int32_t> tokens, std::span<int64_t> to) const;

 private:
  int64_t heads_per_ngram_;
  int32_t eos_token_id_;
};

}  // namespace qwen
