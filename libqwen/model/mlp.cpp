#include "model/mlp.h"

#include "base/error.h"
#include "model/weight_loader.h"

namespace qwen {

void GatedMlp::declare(WeightLoader& loader, int64_t hidden, int64_t intermediate, std::string_view prefix) {
  inner = intermediate;
  gate_proj = loader.linear(cat(prefix, "gate_proj"), inner, hidden);
  up_proj = loader.linear(cat(prefix, "up_proj"), inner, hidden);
  down_proj = loader.linear(cat(prefix, "down_proj"), hidden, inner);
}

void GatedMlp::forward(const Step& step, Rows h, Rows out, bool accumulate) const {
  const bool together = step.adapters.empty() && !gate_proj.bias && !up_proj.bias;
  const Rows gate = together ? input_rows(step, h.rows, inner, {&gate_proj, &up_proj, &down_proj})
                             : step.workspace.rows(h.rows, inner);
  const Rows up = gate.form == Form::operand ? Rows{} : step.workspace.rows(h.rows, inner);
  if (together) {
    step.backend.gated_linear(h, *gate_proj.weight, *up_proj.weight, up, gate);
  } else {
    project(step, h, {{gate_proj, gate}, {up_proj, up}});
    step.backend.silu_mul(gate, up, gate);
  }
  project(step, gate, {{down_proj, out, accumulate}});
}

void MixtureOfExperts::declare(WeightLoader& loader, int64_t hidden, const MoeConfig& config,
                               std::string_view prefix) {
  router = loader.matrix(cat(prefix, "gate.weight"), config.num_experts, hidden);
  experts.resize(static_cast<size_t>(config.num_experts));
  const std::string stack = cat(prefix, "experts.gate_up_proj");
  const int64_t inner = config.moe_intermediate_size;
  for (size_t e = 0; e < experts.size(); ++e) {
    ExpertWeights& expert = experts[e];
    if (loader.has(stack)) {  // [experts, 2 * inner, hidden] and [experts, hidden, inner], or both transposed
      WeightLoader::StackPart part{.count = config.num_experts,
                                   .rows = 2 * inner,
                                   .in = hidden,
                                   .index = static_cast<int64_t>(e),
                                   .first = 0,
                                   .out = inner,
                                   .transposed = config.transposed_experts};
      expert.gate_proj = loader.stacked(stack, part);
      part.first = inner;
      expert.up_proj = loader.stacked(stack, part);
      part.first = 0;
      part.rows = part.out = hidden;
      part.in = inner;
      expert.down_proj = loader.stacked(cat(prefix, "experts.down_proj"), part);
    } else {
      const std::string name = cat(prefix, "experts.", e, ".");
      expert.gate_proj = loader.matrix(cat(name, "gate_proj.weight"), inner, hidden);
      expert.up_proj = loader.matrix(cat(name, "up_proj.weight"), inner, hidden);
      expert.down_proj = loader.matrix(cat(name, "down_proj.weight"), hidden, inner);
    }
    expert_weights_.push_back(
        {.gate = expert.gate_proj.get(), .up = expert.up_proj.get(), .down = expert.down_proj.get()});
  }
  if (config.shared_expert_intermediate_size == 0) return;
  shared_expert.declare(loader, hidden, config.shared_expert_intermediate_size,
                        cat(prefix, "shared_expert."));
  shared_expert_gate = loader.linear(cat(prefix, "shared_expert_gate"), 1, hidden);
}

void MixtureOfExperts::forward(const Step& step, const MoeConfig& config, Rows h, Rows x,
                               bool accumulate) const {
  const auto& [backend, workspace, batch, caches, adapters, capture_hidden] = step;
  const Rows y = accumulate ? workspace.rows(h.rows, h.width) : x;
  backend.moe(workspace, h,
              {.router = router.get(),
               .experts = expert_weights_,
               .inner = config.moe_intermediate_size,
               .top_k = config.num_experts_per_tok,
               .normalise = config.norm_topk_prob},
              y);
  if (shared_expert_gate) {
    const Rows gate = workspace.rows(h.rows, 1);
    project(step, h, {{shared_expert_gate, gate}});
    const Rows shared = workspace.rows(h.rows, h.width);
    shared_expert.forward(step, h, shared, false);
    backend.add(shared, &gate, y);
  }
  if (accumulate) backend.add(y, nullptr, x);
}

void MlpBlock::declare(WeightLoader& loader, const ModelConfig& config, bool sparse,
                       std::string_view prefix) {
  norm = loader.norm(cat(prefix, "post_attention_layernorm.weight"), config.hidden_size,
                     config.zero_centred_norms);
  const std::string name = cat(prefix, "mlp.");
  if (sparse) {
    mlp.emplace<MixtureOfExperts>().declare(loader, config.hidden_size, *config.moe, name);
  } else {
    mlp.emplace<GatedMlp>().declare(loader, config.hidden_size, config.intermediate_size, name);
  }
}

void MlpBlock::forward(const Step& step, const ModelConfig& config, Rows x) const {
  const auto* const dense = std::get_if<GatedMlp>(&mlp);
  const Rows h = dense ? input_rows(step, x.rows, x.width, {&dense->gate_proj, &dense->up_proj})
                       : step.workspace.rows(x.rows, x.width);
  step.backend.rms_norm(x, *norm, static_cast<float>(config.rms_norm_eps), h);
  if (dense) {
    dense->forward(step, h, x, true);
  } else {
    std::get<MixtureOfExperts>(mlp).forward(step, *config.moe, h, x);
  }
}

}  // namespace qwen
