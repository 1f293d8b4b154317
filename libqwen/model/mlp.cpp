#include "model/mlp.h"

#include <array>

#include "base/error.h"
#include "model/weight_loader.h"

namespace qwen {

void GatedMlp::declare(WeightLoader& loader, int64_t hidden, int64_t intermediate, std::string_view prefix) {
  inner = intermediate;
  gate_proj = loader.matrix(cat(prefix, "gate_proj.weight"), inner, hidden);
  up_proj = loader.matrix(cat(prefix, "up_proj.weight"), inner, hidden);
  down_proj = loader.matrix(cat(prefix, "down_proj.weight"), hidden, inner);
}

void GatedMlp::forward(const Step& step, Rows h, Rows out, bool accumulate) const {
  const Rows gate = step.workspace.rows(h.rows, inner), up = step.workspace.rows(h.rows, inner);
  step.backend.linear(h, std::array{Projection{.weight = gate_proj.get(), .out = gate},
                                    Projection{.weight = up_proj.get(), .out = up}});
  step.backend.silu_mul(gate, up, gate);
  step.backend.linear(
      gate, std::array{Projection{.weight = down_proj.get(), .out = out, .accumulate = accumulate}});
}

void MixtureOfExperts::declare(WeightLoader& loader, int64_t hidden, const MoeConfig& config,
                               std::string_view prefix) {
  router = loader.matrix(cat(prefix, "gate.weight"), config.num_experts, hidden);
  experts.resize(static_cast<size_t>(config.num_experts));
  const std::string stack = cat(prefix, "experts.gate_up_proj");
  const int64_t inner = config.moe_intermediate_size;
  for (size_t e = 0; e < experts.size(); ++e) {
    GatedMlp& expert = experts[e];
    if (loader.has(stack)) {  // [experts, 2 * inner, hidden] and [experts, hidden, inner], or both transposed
      WeightLoader::StackPart part{.count = config.num_experts,
                                   .rows = 2 * inner,
                                   .in = hidden,
                                   .index = static_cast<int64_t>(e),
                                   .first = 0,
                                   .out = inner,
                                   .transposed = config.transposed_experts};
      expert.inner = inner;
      expert.gate_proj = loader.stacked(stack, part);
      part.first = inner;
      expert.up_proj = loader.stacked(stack, part);
      part.first = 0;
      part.rows = part.out = hidden;
      part.in = inner;
      expert.down_proj = loader.stacked(cat(prefix, "experts.down_proj"), part);
    } else {
      expert.declare(loader, hidden, inner, cat(prefix, "experts.", e, "."));
    }
    expert_weights_.push_back(
        {.gate = expert.gate_proj.get(), .up = expert.up_proj.get(), .down = expert.down_proj.get()});
  }
  if (config.shared_expert_intermediate_size == 0) return;
  shared_expert.declare(loader, hidden, config.shared_expert_intermediate_size,
                        cat(prefix, "shared_expert."));
  shared_expert_gate = loader.matrix(cat(prefix, "shared_expert_gate.weight"), 1, hidden);
}

void MixtureOfExperts::forward(const Step& step, const MoeConfig& config, Rows h, Rows x) const {
  const auto& [backend, workspace, batch, caches, capture_hidden] = step;
  const Rows y = workspace.rows(h.rows, h.width);
  backend.moe(workspace, h,
              {.router = router.get(),
               .experts = expert_weights_,
               .inner = config.moe_intermediate_size,
               .top_k = config.num_experts_per_tok,
               .normalise = config.norm_topk_prob},
              y);
  if (shared_expert_gate) {
    const Rows gate = workspace.rows(h.rows, 1);
    backend.linear(h, std::array{Projection{.weight = shared_expert_gate.get(), .out = gate}});
    const Rows shared = workspace.rows(h.rows, h.width);
    shared_expert.forward(step, h, shared, false);
    backend.add(shared, &gate, y);
  }
  backend.add(y, nullptr, x);
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
  const Rows h = step.workspace.rows(x.rows, x.width);
  step.backend.rms_norm(x, *norm, static_cast<float>(config.rms_norm_eps), h);
  if (const auto* moe = std::get_if<MixtureOfExperts>(&mlp)) {
    moe->forward(step, *config.moe, h, x);
  } else {
    std::get<GatedMlp>(mlp).forward(step, h, x, true);
  }
}

}  // namespace qwen
