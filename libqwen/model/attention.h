// The attention of Qwen's decoders: grouped queries over a paged cache, causal, with rotary positions.
#pragma once

#include <string_view>

#include "model/model.h"

namespace qwen {

class WeightLoader;

struct Attention {
  WeightPtr norm;  // [hidden]
  WeightPtr q_proj, k_proj, v_proj, o_proj;
  WeightPtr q_bias, k_bias, v_bias;  // null where config.attention_bias is false
  WeightPtr q_norm, k_norm;          // [head_dim], null where config.query_key_norm is false
  int64_t group = 0;                 // which cache group the layer belongs to
  int64_t index_in_group = 0;

  // prefix: "layers.7."
  void declare(WeightLoader& loader, const ModelConfig& config, std::string_view prefix);
  // x += attention(rms_norm(x)). x: [rows, hidden]; angles: [rows, head_dim], each row's cosines and sines.
  void forward(const Step& step, const ModelConfig& config, const CacheGroupSpec& spec, Rows x,
               Rows angles) const;
};

}  // namespace qwen
