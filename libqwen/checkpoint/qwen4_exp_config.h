// What a config.json says of Qwen4-Exp that no other family has.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/indexer_shape.h"

namespace qwen {

class JsonFields;
struct ModelConfig;

struct Qwen4ExpConfig {
  // Hyper-connections: residual streams side by side, and the rank of what mixes them into a layer's input.
  int64_t hc_count = 0;
  int64_t hc_lowrank = 0;
  // Embeddings of hashed n-grams, added in some layers.
  std::vector<int64_t> ple_layers;   // counted from 0, ascending
  int64_t ple_embed_dim = 0;         // of all heads together
  int64_t ple_conv_kernel_size = 0;  // positions that its convolution sees, ngram_size apart
  int64_t ngram_size = 0;            // n-grams of 2 to so many tokens
  int64_t heads_per_ngram = 0;
  int64_t ngram_vocab_size_base = 0;               // every head has its own prime, from here on, of rows
  int64_t make_ngram_vocab_size_divisible_by = 0;  // the rows of all heads together
  int64_t seed = 0;                                // of the hashes' multipliers
  int64_t split_ngram_parts = 0;                   // tensors that a table is stored as
  int32_t eos_token_id = 0;                        // no n-gram reaches beyond it
  IndexerShape indexer;

  int64_t ngram_heads() const { return (ngram_size - 1) * heads_per_ngram; }
  // Of the convolution, before the position itself.
  int64_t ple_window() const { return (ple_conv_kernel_size - 1) * ngram_size; }
};

// Sets config.qwen4_exp; the sizes, layer kinds and rotary_dim must be set already. Inside checkpoint/ only.
void read_qwen4_exp(const JsonFields& text, ModelConfig& config);

}  // namespace qwen
