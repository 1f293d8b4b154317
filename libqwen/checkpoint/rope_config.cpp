#include "checkpoint/rope_config.h"

#include <array>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace qwen {
namespace {

using End = Interval::End;

constexpr int64_t kMaxPositions =
    std::numeric_limits<int32_t>::max();  // a position is an int32 in the engine
constexpr Interval kTheta = {1, 1e12};
constexpr Interval kFactor = {1, 65536};
constexpr Interval kRotations = {0, 1e6, End::excluded};
constexpr Interval kPositive = {0, 1000, End::excluded};

// partial_rotary_factor x head_dim, an even number as pairs are turned.
void read_partial_rotation(const JsonFields& fields, const RopeFamily& family, ModelConfig& config) {
  const auto factor = fields.number("partial_rotary_factor", {0, 1, End::excluded});
  if (!factor) return;
  if (!family.hybrid && *factor != 1)
    fields.reject("partial_rotary_factor", cat(*factor),
                  "1 or absent: these architectures rotate whole heads", Status::unsupported);
  config.rotary_dim = static_cast<int64_t>(static_cast<double>(config.head_dim) * *factor);
  if (config.rotary_dim < 2 || config.rotary_dim % 2 != 0)
    fields.reject("partial_rotary_factor", cat(*factor),
                  cat("such that an even number of a head's ", config.head_dim, " elements is turned"));
}

// The attention factor of DeepSeek's variant: transformers applies it only when both keys are there and not
// zero.
std::optional<double> mscale_factor(const JsonFields& scaling, double factor) {
  const auto mscale = scaling.number("mscale", {0, 1000});
  const auto all_dim = scaling.number("mscale_all_dim", {0, 1000});
  if (!mscale || !all_dim || *mscale == 0 || *all_dim == 0) return std::nullopt;
  return (0.1 * *mscale * std::log(factor) + 1) / (0.1 * *all_dim * std::log(factor) + 1);
}

RopeScaling read_yarn(const JsonFields& scaling, int64_t max_position_embeddings) {
  RopeScaling yarn;
  const auto factor = scaling.number("factor", kFactor);
  if (!factor) scaling.reject("factor", "missing", cat("a number ", kFactor.text()));
  yarn.factor = *factor;
  yarn.original_max_position_embeddings =
      scaling.integer("original_max_position_embeddings", 1, kMaxPositions).value_or(max_position_embeddings);
  yarn.beta_fast = scaling.number("beta_fast", kRotations).value_or(yarn.beta_fast);
  yarn.beta_slow = scaling.number("beta_slow", kRotations).value_or(yarn.beta_slow);
  if (yarn.beta_fast < yarn.beta_slow)
    scaling.reject("beta_fast", cat(yarn.beta_fast), cat("at least beta_slow, which is ", yarn.beta_slow));
  yarn.attention_factor = scaling.number("attention_factor", kPositive);
  if (!yarn.attention_factor) yarn.attention_factor = mscale_factor(scaling, yarn.factor);
  if (scaling.boolean("truncate") == false)
    scaling.reject("truncate", "false", "true or absent", Status::unsupported);
  const double stretched = yarn.factor * static_cast<double>(yarn.original_max_position_embeddings);
  if (stretched > static_cast<double>(kMaxPositions))
    scaling.reject("factor", cat(yarn.factor),
                   cat("such that factor x original_max_position_embeddings (",
                       yarn.original_max_position_embeddings, ") is at most ", kMaxPositions));
  return yarn;
}

}  // namespace

void read_rope(const JsonFields& root, const RopeFamily& family, ModelConfig& config) {
  config.rotary_dim = family.hybrid ? config.head_dim / 8 * 2 : config.head_dim;
  read_partial_rotation(root, family, config);
  config.rope_theta = root.number("rope_theta", kTheta).value_or(config.rope_theta);

  // transformers 4 writes rope_scaling beside rope_theta, transformers 5 rope_parameters with rope_theta
  // inside. Where both are there transformers takes rope_scaling unless it is empty.
  std::string_view key = "rope_scaling";
  const JsonValue* object = root.find(key);
  if (!object || (object->IsObject() && object->ObjectEmpty())) object = root.find(key = "rope_parameters");
  if (!object) return;
  const JsonFields scaling(*object, root.source(), std::string(key) + '.', root.names());
  for (const std::string_view nested : {"full_attention", "sliding_attention"})
    if (scaling.find(nested))
      scaling.reject(nested, "present", "absent: settings per layer type are not supported by this version",
                     Status::unsupported);
  if (!family.multimodal && scaling.find("mrope_section"))
    scaling.reject("mrope_section", "present",
                   "absent: multimodal rotary positions do not belong to a text-only model",
                   Status::unsupported);
  read_partial_rotation(scaling, family, config);
  config.rope_theta = scaling.number("rope_theta", kTheta).value_or(config.rope_theta);

  auto type = scaling.text("rope_type");
  if (!type) type = scaling.text("type");
  if (!type && scaling.find("factor"))
    scaling.reject("rope_type", "missing", "'yarn' or 'default' where a factor is given");
  if (!type || *type == "default" || (family.multimodal && *type == "mrope")) return;
  if (*type != "yarn")
    scaling.reject(scaling.find("rope_type") ? "rope_type" : "type", qwen::quote(*type),
                   "'yarn' or 'default', other types are not supported by this version", Status::unsupported);
  config.rope_scaling = read_yarn(scaling, config.max_position_embeddings);
}

}  // namespace qwen
