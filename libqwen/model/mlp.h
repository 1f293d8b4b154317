// What follows the attention in a layer: the gated MLP, or a mixture of such MLPs of which every row uses a few.
#pragma once

#include <string_view>
#include <variant>
#include <vector>

#include "model/linear.h"

namespace qwen {

class WeightLoader;

// (silu(h Wgate') * (h Wup')) Wdown'
struct GatedMlp {
  Linear gate_proj, up_proj, down_proj;
  int64_t inner = 0;

  // prefix: "layers.7.mlp."
  void declare(WeightLoader& loader, int64_t hidden, int64_t intermediate, std::string_view prefix);
  // out = mlp(h), or out += mlp(h). h and out: [rows, hidden]
  void forward(const Step& step, Rows h, Rows out, bool accumulate) const;
};

//   p = softmax(h Wrouter');  y = sum of p_e mlp_e(h) over the likeliest experts e       p may be scaled to sum to 1
//   y = y + sigmoid(h wgate') mlp_shared(h)                                             Qwen2-MoE
struct MixtureOfExperts {
  struct ExpertWeights {
    WeightPtr gate_proj, up_proj, down_proj;
  };
  WeightPtr router;  // [num_experts, hidden]
  std::vector<ExpertWeights> experts;
  GatedMlp shared_expert;
  Linear shared_expert_gate;  // [1, hidden], null: there is no shared expert

  void declare(WeightLoader& loader, int64_t hidden, const MoeConfig& config, std::string_view prefix);
  // x += moe(h), or x = moe(h)
  void forward(const Step& step, const MoeConfig& config, Rows h, Rows x, bool accumulate = true) const;

 private:
  std::vector<Expert> expert_weights_;  // of `experts`, as the backend takes them
};

// x += mlp(rms_norm(x))
struct MlpBlock {
  WeightPtr norm;  // [hidden]
  std::variant<GatedMlp, MixtureOfExperts> mlp;

  // sparse: a mixture of experts. prefix: "layers.7."
  void declare(WeightLoader& loader, const ModelConfig& config, bool sparse, std::string_view prefix);
  void forward(const Step& step, const ModelConfig& config, Rows x) const;
};

}  // namespace qwen
