// The attention of Qwen's decoders: grouped queries over a paged cache, causal, with rotary positions.
#pragma once

#include <string_view>

#include "model/linear.h"

namespace qwen {

class WeightLoader;

// A row's queries to its layer's indexer, whose keys are in the cache: it attends to what they pick.
struct IndexQueries {
  IndexerArgs args;
  Rows queries;  // [rows, indexer heads * head_dim]
};

struct Attention {
  Linear q_proj, k_proj, v_proj, o_proj;  // q, k and v with a bias where config.attention_bias says so
  WeightPtr q_norm, k_norm;               // [head_dim], null where config.query_key_norm is false
  int64_t group = 0;                      // which cache group the layer belongs to
  int64_t index_in_group = 0;

  // prefix: "layers.7."
  void declare(WeightLoader& loader, const ModelConfig& config, std::string_view prefix);
  // The layer's place in its cache group.
  AttentionArgs args(const ModelConfig& config, const CacheGroupSpec& spec) const;
  // Memory for h, if nothing else reads it.
  Rows input(const Step& step, const ModelConfig& config, int64_t rows) const;
  // x += attention(h), or x = attention(h). h and x: [rows, hidden]; angles: [rows, rotary_dim], each row's cosines and sines.
  // index null: every row attends to all that it sees.
  void forward(const Step& step, const ModelConfig& config, const CacheGroupSpec& spec, Rows h, Rows angles,
               Rows x, bool accumulate = true, const IndexQueries* index = nullptr) const;
};

}  // namespace qwen
