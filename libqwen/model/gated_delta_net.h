// The linear attention of Qwen3-Next and later hybrids: a state per head, written and read by the gated delta rule
// (https://arxiv.org/abs/2412.06464), in place of keys and values that grow with the text.
#pragma once

#include <string_view>

#include "model/linear.h"

namespace qwen {

class WeightLoader;

//   q, k, v = silu(conv(h Wqkv'));  z, b, a = h Wz', h Wb', h Wa'
//   o = gated_delta(q, k, v, sigmoid(b), decay(a))                                       backend.h
//   y = (rms_norm(o) * silu(z)) Wout'                          the norm is per value head; Qwen4-Exp: sigmoid(z)
struct GatedDeltaNet {
  // Qwen3.5: [channels, hidden], [values, hidden], [value_heads, hidden] twice.
  Linear qkv_proj, z_proj, b_proj, a_proj;
  // Qwen3-Next: the same rows, those of a key head together: q, k, its v heads, their z; and b, a. In GGUF files only the last
  // two.
  Linear qkvz_proj, ba_proj;
  WeightPtr convolution;     // [channels, 1, kernel]
  WeightPtr a_log, dt_bias;  // [value_heads]
  WeightPtr norm;            // [value_dim]
  Linear out_proj;           // [hidden, values]
  int64_t group = 0;         // which cache group the layer belongs to
  int64_t index_in_group = 0;

  // prefix: "layers.7."
  void declare(WeightLoader& loader, const ModelConfig& config, std::string_view prefix);
  // Memory for h, if nothing else reads it.
  Rows input(const Step& step, const ModelConfig& config, int64_t rows) const;
  // x += gated_delta_net(h), or x = gated_delta_net(h). h and x: [rows, hidden]
  void forward(const Step& step, const ModelConfig& config, Rows h, Rows x, bool accumulate = true) const;

 private:
  struct Inputs {
    Rows qkv, z, beta, decay;
  };
  Inputs inputs(const Step& step, const ModelConfig& config, Rows h) const;
};

}  // namespace qwen
