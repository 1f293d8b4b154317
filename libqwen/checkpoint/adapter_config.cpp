// adapter_config.json: PEFT's LoraConfig.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "checkpoint/adapter_checkpoint.h"
#include "checkpoint/json_fields.h"

namespace qwen {
namespace {

constexpr int64_t kMostRank = int64_t{1} << 16;
constexpr Interval kAlpha = {-1e9, 1e9};

// Settings that change what an adapter computes, or what it brings, in ways that this version does not know.
constexpr std::string_view kMustBeOff[] = {
    "use_dora",          "use_qalora",       "use_bdlora",        "fan_in_fan_out",
    "lora_bias",         "modules_to_save",  "layer_replication", "trainable_token_indices",
    "target_parameters", "megatron_config",  "arrow_config",      "alora_invocation_tokens",
    "kasa_config",       "monteclora_config"};

// Ways to begin the training that leave the base model as it is. Others take something out of its weights, which the adapter
// then brings back.
constexpr std::string_view kHarmlessInit[] = {"gaussian", "eva", "orthogonal"};

bool is_off(const JsonValue& value) {
  return value.IsFalse() || (value.IsArray() && value.Empty()) || (value.IsObject() && value.ObjectEmpty());
}

void check_kind(const JsonFields& fields) {
  const std::string type = fields.text("peft_type").value_or("missing");
  if (type != "LORA") fields.reject("peft_type", quote(type), "'LORA'", Status::unsupported);
  for (const std::string_view key : kMustBeOff)
    if (const JsonValue* value = fields.find(key); value && !is_off(*value))
      fields.reject(key, json_value_text(*value), "null, false or empty: this version does not support it",
                    Status::unsupported);
  const std::string bias = fields.text("bias").value_or("none");
  if (bias != "none") fields.reject("bias", quote(bias), "'none'", Status::unsupported);
  const JsonValue* init = fields.find("init_lora_weights");
  if (!init || init->IsBool()) return;
  const std::string way = fields.text("init_lora_weights").value_or("");
  if (std::find(std::begin(kHarmlessInit), std::end(kHarmlessInit), way) == std::end(kHarmlessInit))
    fields.reject("init_lora_weights", quote(way),
                  "true, false, 'gaussian', 'eva' or 'orthogonal': other ways change the base model too; "
                  "save the adapter with path_initial_model_for_weight_conversion",
                  Status::unsupported);
}

std::vector<std::string> names(const JsonFields& fields, std::string_view key) {
  std::vector<std::string> list;
  const JsonValue* value = fields.find(key);
  if (!value) return list;
  if (!value->IsArray()) fields.reject(key, json_value_text(*value), "a list of module names");
  for (const JsonValue& name : value->GetArray()) {
    if (!name.IsString())
      fields.reject(key, cat("a list with ", json_value_text(name)), "a list of module names");
    list.emplace_back(json_text(name));
  }
  return list;
}

// PEFT takes these keys as regular expressions. Names are taken here, with their dots escaped or not, and ^ at the beginning.
std::string checked_pattern(const JsonFields& fields, std::string_view pattern) {
  std::string name(pattern.substr(0, pattern.starts_with('^')));
  for (size_t i = name.size(); i < pattern.size(); ++i) {
    if (pattern.substr(i).starts_with("\\.")) continue;
    const auto c = static_cast<unsigned char>(pattern[i]);
    if (!std::isalnum(c) && c != '_' && c != '.')
      fields.reject(pattern, "a regular expression",
                    "a module's name, or the end of one: 'layers.0.self_attn.q_proj'", Status::unsupported);
    name += pattern[i];
  }
  return name;
}

// What a key "q_proj" means for "model.layers.0.self_attn.q_proj": the whole name or the end of it, "^model…" the whole only.
bool matches(std::string_view pattern, std::string_view module) {
  if (pattern.starts_with('^')) return module == pattern.substr(1);
  return module == pattern ||
         (module.ends_with(pattern) && module[module.size() - pattern.size() - 1] == '.');
}

bool matches_one(const std::vector<std::string>& patterns, std::string_view module) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return matches(pattern, module); });
}

template <class Value, class Read>
AdapterConfig::Patterns<Value> patterns(const JsonFields& fields, std::string_view source,
                                        std::string_view key, Read read) {
  AdapterConfig::Patterns<Value> list;
  const JsonValue* value = fields.find(key);
  if (!value) return list;
  const JsonFields inner(*value, source, cat(key, "."));
  for (const auto& member : value->GetObject()) {
    const std::string_view name = json_text(member.name);
    list.emplace_back(checked_pattern(inner, name), read(inner, name));
  }
  return list;
}

template <class Value>
Value value_of(const AdapterConfig::Patterns<Value>& patterns, std::string_view module, Value otherwise) {
  for (const auto& [pattern, value] : patterns)
    if (matches(pattern, module)) return value;
  return otherwise;
}

int64_t rank(const JsonFields& fields, std::string_view key) {
  return fields.required_integer(key, 1, kMostRank);
}

double alpha(const JsonFields& fields, std::string_view key) {
  const auto value = fields.number(key, kAlpha);
  if (!value) fields.reject(key, "missing", cat("a number ", kAlpha.text()));
  return *value;
}

// Which modules there must be tensors for. Regular expressions are left to the tensors that are there.
void read_targets(const JsonFields& fields, AdapterConfig& config) {
  const auto is = [&](std::string_view key, auto kind) {
    const JsonValue* value = fields.find(key);
    return value && kind(*value);
  };
  const auto text = [](const JsonValue& value) { return value.IsString(); };
  if (is("target_modules", text) || is("exclude_modules", text) ||
      is("layers_pattern", [](const JsonValue& value) { return !is_off(value); }))
    return;
  config.target_modules = names(fields, "target_modules");
  config.exclude_modules = names(fields, "exclude_modules");
  const JsonValue* layers = fields.find("layers_to_transform");
  if (!layers) return;
  static constexpr std::string_view kWanted = "a layer's number or a list of them";
  const auto add = [&](const JsonValue& layer) {
    if (!layer.IsInt64()) fields.reject("layers_to_transform", json_value_text(layer), kWanted);
    config.layers_to_transform.push_back(layer.GetInt64());
  };
  if (!layers->IsArray()) return add(*layers);
  for (const JsonValue& layer : layers->GetArray()) add(layer);
}

}  // namespace

int64_t AdapterConfig::rank_of(std::string_view module) const {
  return value_of(rank_pattern, module, r);
}

float AdapterConfig::scale_of(std::string_view module) const {
  const double alpha = value_of(alpha_pattern, module, lora_alpha);
  const auto rank = static_cast<double>(rank_of(module));
  return static_cast<float>(alpha / (use_rslora ? std::sqrt(rank) : rank));
}

bool AdapterConfig::targets(std::string_view module, int64_t layer) const {
  if (!matches_one(target_modules, module) || matches_one(exclude_modules, module)) return false;
  // A module that is named in full is meant whatever its layer.
  if (std::find(target_modules.begin(), target_modules.end(), module) != target_modules.end()) return true;
  return layers_to_transform.empty() || std::find(layers_to_transform.begin(), layers_to_transform.end(),
                                                  layer) != layers_to_transform.end();
}

AdapterConfig parse_adapter_config(std::string_view text, std::string_view source) {
  const JsonDocument document = parse_json(text, source);
  const JsonFields fields(document, source);
  check_kind(fields);
  AdapterConfig config;
  config.r = rank(fields, "r");
  config.lora_alpha = alpha(fields, "lora_alpha");
  config.use_rslora = fields.boolean("use_rslora").value_or(false);
  config.rank_pattern = patterns<int64_t>(fields, source, "rank_pattern", rank);
  config.alpha_pattern = patterns<double>(fields, source, "alpha_pattern", alpha);
  read_targets(fields, config);
  return config;
}

}  // namespace qwen
