#include "model/hyper_connection.h"

#include <array>

#include "base/error.h"
#include "model/weight_loader.h"

namespace qwen {

void HyperConnection::declare(WeightLoader& loader, const ModelConfig& config, bool injects,
                              std::string_view prefix) {
  const int64_t streams = config.qwen4_exp->hc_count, width = streams * config.hidden_size;
  const int64_t lowrank = config.qwen4_exp->hc_lowrank;
  norm = loader.norm(cat(prefix, "hc_norm.weight"), width, config.zero_centred_norms);
  down = loader.matrix(cat(prefix, "input_mix_weight_down.weight"), lowrank, width);
  up = loader.matrix(cat(prefix, "input_mix_weight_up.weight"), width, lowrank);
  if (injects) inject = loader.matrix(cat(prefix, "block_inject_weight.weight"), streams, width);
}

HyperConnection::Mixed HyperConnection::mix(const Step& step, const ModelConfig& config, Rows x) const {
  Backend& backend = step.backend;
  const int64_t streams = config.qwen4_exp->hc_count;
  const auto rows = [&](int64_t width) { return step.workspace.rows(x.rows, width); };
  const Mixed mixed = {.h = rows(config.hidden_size), .gate = inject ? rows(streams) : Rows{}};
  const Rows z = rows(x.width), low = rows(config.qwen4_exp->hc_lowrank), weights = rows(x.width);
  backend.rms_norm(x.reshaped(config.hidden_size), *norm, static_cast<float>(config.rms_norm_eps),
                   z.reshaped(config.hidden_size));
  backend.linear(z, std::array{Projection{.weight = down.get(), .out = low}});
  if (inject) backend.linear(z, std::array{Projection{.weight = inject.get(), .out = mixed.gate}});
  backend.silu(low, static_cast<float>(1.0 / static_cast<double>(streams)), low);
  backend.linear(low, std::array{Projection{.weight = up.get(), .out = weights}});
  backend.sigmoid_mul(weights, z, weights);
  backend.mean_of_streams(weights, mixed.h);
  return mixed;
}

}  // namespace qwen
