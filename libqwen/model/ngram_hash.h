// The numbers by which n-grams find their rows (backend/ngrams.h): they follow from config.json alone, in the arithmetic of
// transformers' Qwen4ExpTextNGramEmbedding.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/ngrams.h"
#include "checkpoint/model_config.h"

namespace qwen {

struct NgramHash {
  // Of one layer, the index-th that has n-gram embeddings.
  NgramHash(const ModelConfig& config, int64_t index);

  std::vector<int64_t> vocab_sizes;  // [heads] primes: of every head, the rows of its part of the table
  std::vector<int64_t> offsets;      // [heads] where the part begins
  std::vector<int64_t> multipliers;  // [ngram_size], odd
  int64_t table_rows = 0;            // of all parts, padded

  // As long as this lives, in this place.
  NgramNumbers numbers() const {
    return {.heads = static_cast<int64_t>(vocab_sizes.size()),
            .heads_per_ngram = heads_per_ngram_,
            .eos_token_id = eos_token_id_,
            .multipliers = multipliers.data(),
            .vocab_sizes = vocab_sizes.data(),
            .offsets = offsets.data()};
  }

 private:
  int64_t heads_per_ngram_;
  int32_t eos_token_id_;
};

}  // namespace qwen
