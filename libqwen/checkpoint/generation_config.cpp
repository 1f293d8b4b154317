#include <limits>

#include "checkpoint/json_fields.h"
#include "checkpoint/model_config.h"

namespace qwen {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr Interval kProbability = {0, 1};

std::optional<int32_t> token_id(const JsonFields& root, std::string_view key) {
  const auto id = root.integer(key, 0, kMaxInt32);
  if (!id) return std::nullopt;
  return static_cast<int32_t>(*id);
}

}  // namespace

GenerationConfig parse_generation_config(std::string_view json, std::string_view source,
                                         const KeyNames* names) {
  const JsonDocument document = parse_json(json, source);
  const JsonFields root(document, source, {}, names);
  GenerationConfig config;
  config.eos_token_ids = root.token_ids("eos_token_id");
  config.bos_token_id = token_id(root, "bos_token_id");
  config.pad_token_id = token_id(root, "pad_token_id");
  config.do_sample = root.boolean("do_sample");
  config.temperature = root.number("temperature", {0, 1000});
  config.top_p = root.number("top_p", kProbability);
  config.min_p = root.number("min_p", kProbability);
  config.repetition_penalty = root.number("repetition_penalty", {0, 1000, Interval::End::excluded});
  config.top_k = root.integer("top_k", 0, kMaxInt32);
  config.max_new_tokens = root.integer("max_new_tokens", 1, kMaxInt32);
  return config;
}

std::vector<int32_t> parse_eos_token_ids(std::string_view json, std::string_view source) {
  const JsonDocument document = parse_json(json, source);
  const JsonFields root(document, source);
  auto ids = root.token_ids("eos_token_id");
  if (!ids.empty()) return ids;
  // Multimodal models keep what belongs to the text model apart.
  const JsonValue* text = root.find("text_config");
  return text ? JsonFields(*text, source, "text_config.").token_ids("eos_token_id") : ids;
}

}  // namespace qwen
