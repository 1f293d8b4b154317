#include "model/mtp_head.h"

#include <array>

#include "model/weight_loader.h"

namespace qwen {

void MtpHead::declare(WeightLoader& loader, const ModelConfig& config) {
  const WeightLoader::Beside beside(loader, "mtp.");
  const int64_t hidden = config.hidden_size;
  const auto norm_of = [&](std::string_view name) {
    return loader.norm(name, hidden, config.zero_centred_norms);
  };
  for (const std::string_view own : {"embed_tokens.weight", "lm_head.weight"})
    loader.refuse(own, "a multi-token-prediction head with an embedding or an output of its own");
  embedding_norm = norm_of("pre_fc_norm_embedding.weight");
  hidden_norm = norm_of("pre_fc_norm_hidden.weight");
  fc = loader.matrix("fc.weight", hidden, 2 * hidden);
  layer_norm = norm_of("layers.0.input_layernorm.weight");
  attention.declare(loader, config, "layers.0.");
  // Its experts, if the model has any, are as the decoder's sparse layers, though stored one by one.
  mlp.declare(loader, config, config.moe.has_value(), "layers.0.");
  norm = norm_of("norm.weight");
}

Rows MtpHead::forward(const Step& step, const ModelConfig& config, const CacheGroupSpec& spec, Rows next,
                      Rows hidden, Rows angles) const {
  Backend& backend = step.backend;
  const float eps = static_cast<float>(config.rms_norm_eps);
  const int64_t rows = hidden.rows, width = hidden.width;
  const Rows both = step.workspace.rows(rows, 2 * width), normed = step.workspace.rows(rows, width);
  backend.rms_norm(next, *embedding_norm, eps, normed);
  backend.split(normed, 1, std::array{SplitPart{.width = width, .out = both, .column = 0}});
  backend.rms_norm(hidden, *hidden_norm, eps, normed);
  backend.split(normed, 1, std::array{SplitPart{.width = width, .out = both, .column = width}});
  const Rows x = step.workspace.rows(rows, width);
  backend.linear(both, std::array{Projection{.weight = fc.get(), .out = x}});
  backend.rms_norm(x, *layer_norm, eps, normed);
  attention.forward(step, config, spec, normed, angles, x);
  mlp.forward(step, config, x);
  backend.rms_norm(x, *norm, eps, x);
  return x;
}

}  // namespace qwen
