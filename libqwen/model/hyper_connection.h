// Hyper-connections (https://arxiv.org/abs/2409.19606, as Qwen4-Exp gates them): hc_count residual streams side by side, of
// which each block's input is mixed, and into which its output goes back with a weight for each.
#pragma once

#include <string_view>

#include "model/model.h"

namespace qwen {

class WeightLoader;

//   z = rms_norm(x), every stream by itself
//   w = sigmoid(silu(z Wdown' / n) Wup')               h = mean over streams s of w[s] * z[s]
//   g = 2 sigmoid(z Winject' / n)                      x[s] = x[s] + g[s] * block(h)
struct HyperConnection {
  WeightPtr norm;      // [n * hidden]
  WeightPtr down, up;  // [lowrank, n * hidden], [n * hidden, lowrank]
  WeightPtr inject;    // [n, n * hidden], null: nothing goes back (the mix before the head)

  // prefix: "layers.7.attn_hyper_connection."
  void declare(WeightLoader& loader, const ModelConfig& config, bool injects, std::string_view prefix);

  struct Mixed {
    Rows h;     // [rows, hidden]
    Rows gate;  // [rows, n] before the sigmoid, what add_to_streams() takes; none without inject
  };
  // x: [rows, n * hidden]
  Mixed mix(const Step& step, const ModelConfig& config, Rows x) const;
};

}  // namespace qwen
