#include <algorithm>
#include <cmath>
#include <numbers>

#include "model/model.h"

namespace qwen {

// inverse_frequencies[i] = theta^(-2i / d). YaRN (arXiv 2309.00071, transformers' _compute_yarn_parameters) divides the slow
// ones by `factor` and leaves the fast ones, with a ramp in between; a pair counts as fast when it turns more than
// beta_fast times over the original context, as slow when it turns less than beta_slow times.
RopeTable make_rope_table(const ModelConfig& config) {
  const int64_t d = config.rotary_dim;
  RopeTable table;
  table.inverse_frequencies.resize(static_cast<size_t>(d / 2));
  table.axis.assign(static_cast<size_t>(d / 2), 0);
  for (int64_t i = 0; i < d / 2; ++i)
    table.inverse_frequencies[i] = static_cast<float>(std::pow(config.rope_theta, -2.0 * i / d));
  if (!config.rope_scaling) return table;

  const RopeScaling& yarn = *config.rope_scaling;
  const auto pair_that_turns = [&](double times) {
    return d * std::log(yarn.original_max_position_embeddings / (times * 2 * std::numbers::pi)) /
           (2 * std::log(config.rope_theta));
  };
  const double low = std::max(std::floor(pair_that_turns(yarn.beta_fast)), 0.0);
  const double high = std::min(std::ceil(pair_that_turns(yarn.beta_slow)), static_cast<double>(d - 1));
  const double width = low == high ? 0.001 : high - low;
  for (int64_t i = 0; i < d / 2; ++i) {
    const double ramp = std::clamp((i - low) / width, 0.0, 1.0);  // 0: fast, 1: slow
    const double frequency = std::pow(config.rope_theta, -2.0 * i / d);
    table.inverse_frequencies[i] =
        static_cast<float>(frequency / yarn.factor * ramp + frequency * (1 - ramp));
  }
  table.scale = static_cast<float>(
      yarn.attention_factor.value_or(yarn.factor <= 1 ? 1.0 : 0.1 * std::log(yarn.factor) + 1.0));
  return table;
}

}  // namespace qwen
