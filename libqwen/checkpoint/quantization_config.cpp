#include "checkpoint/quantization_config.h"

#include <string>

#include "base/error.h"

namespace qwen {
namespace {

constexpr int64_t kMaxSize = int64_t{1} << 24;  // of a block or group: the widest matrix (model_config.cpp)

// Keys that may say one thing only, or be absent.
void require_text(const JsonFields& fields, std::string_view key, std::string_view allowed) {
  const auto value = fields.text(key);
  if (value && *value != allowed)
    fields.reject(key, qwen::quote(*value), cat(quote(allowed), " or absent"), Status::unsupported);
}

void require_boolean(const JsonFields& fields, std::string_view key, bool wanted) {
  if (fields.boolean(key).value_or(wanted) != wanted)
    fields.reject(key, wanted ? "false" : "true", cat(wanted, " or absent"), Status::unsupported);
}

// Which matrices are quantised shows in the tensors, so this list is checked and not needed.
void check_module_list(const JsonFields& fields, std::string_view key) {
  const JsonValue* list = fields.find(key);
  if (!list) return;
  if (!list->IsArray()) fields.reject(key, json_value_text(*list), "a list of module names, or null");
  for (const JsonValue& name : list->GetArray())
    if (!name.IsString())
      fields.reject(key, cat("a list with ", json_value_text(name)), "a list of module names, or null");
}

int64_t group_size(const JsonFields& fields) {
  const int64_t size = fields.required_integer("group_size", -1, kMaxSize);
  if (size == 0) fields.reject("group_size", "0", cat("-1 (one group) or from 1 to ", kMaxSize));
  return size;
}

void read_fp8(const JsonFields& fields, QuantizationConfig& config) {
  require_text(fields, "fmt", "e4m3");
  require_text(fields, "activation_scheme", "dynamic");
  static constexpr std::string_view kWanted = "a list of two integers from 1 to 16777216";
  const JsonValue* block = fields.find("weight_block_size");
  // Without blocks a matrix has one scale under another name.
  if (!block) fields.reject("weight_block_size", "missing", kWanted, Status::unsupported);
  if (!block->IsArray() || block->Size() != 2)
    fields.reject("weight_block_size", json_value_text(*block), kWanted);
  for (const JsonValue& size : block->GetArray())
    if (!size.IsInt64() || size.GetInt64() < 1 || size.GetInt64() > kMaxSize)
      fields.reject("weight_block_size", cat("a list with ", json_value_text(size)), kWanted);
  config.block_rows = (*block)[0].GetInt64();
  config.block_columns = (*block)[1].GetInt64();
}

void read_gptq(const JsonFields& fields, QuantizationConfig& config) {
  config.bits = fields.required_integer("bits", 1, 32);
  if (config.bits != 4 && config.bits != 8)
    fields.reject("bits", cat(config.bits), "4 or 8", Status::unsupported);
  config.group_size = group_size(fields);
  config.desc_act = fields.boolean("desc_act").value_or(false);
  fields.boolean("sym");  // checked only: the zeros are stored either way
  require_text(fields, "pack_dtype", "int32");
  require_boolean(fields, "lm_head", false);
  require_boolean(fields, "is_marlin_format", false);
  config.zero_offset = 1;
  for (const std::string_view key : {"checkpoint_format", "format"}) {
    const auto format = fields.text(key);
    if (!format || *format == "gptq") continue;
    if (*format != "gptq_v2")
      fields.reject(key, quote(*format), "'gptq' or 'gptq_v2', or absent", Status::unsupported);
    config.zero_offset = 0;
  }
  if (const JsonValue* dynamic = fields.find("dynamic"))
    if (!dynamic->IsObject() || !dynamic->ObjectEmpty())
      fields.reject("dynamic", json_value_text(*dynamic),
                    "empty or absent: modules with settings of their own are not supported by this version",
                    Status::unsupported);
}

void read_awq(const JsonFields& fields, QuantizationConfig& config) {
  config.bits = fields.required_integer("bits", 1, 32);
  if (config.bits != 4) fields.reject("bits", cat(config.bits), "4", Status::unsupported);
  config.group_size = group_size(fields);
  require_boolean(fields, "zero_point", true);
  const std::string version = fields.text("version").value_or("gemm");
  if (version != "gemm" && version != "GEMM")
    fields.reject("version", quote(version), "'gemm' or absent", Status::unsupported);
}

}  // namespace

QuantizationConfig parse_quantization_config(const JsonValue& value, std::string_view source) {
  const JsonFields fields(value, source, "quantization_config.");
  const std::string method = fields.text("quant_method").value_or("(no quant_method)");
  QuantizationConfig config;
  if (method == "fp8") {
    config.method = QuantizationMethod::fp8;
    read_fp8(fields, config);
  } else if (method == "gptq") {
    config.method = QuantizationMethod::gptq;
    read_gptq(fields, config);
  } else if (method == "awq") {
    config.method = QuantizationMethod::awq;
    read_awq(fields, config);
  } else {
    fail(Status::unsupported, source, ": quantization ", quote(method),
         " is not supported by this version (supported: 'fp8', 'gptq', 'awq', and weights in BF16, F16 or "
         "F32)");
  }
  check_module_list(fields, "modules_to_not_convert");
  return config;
}

std::string_view quantization_method_name(QuantizationMethod method) {
  switch (method) {
    case QuantizationMethod::fp8:
      return "fp8";
    case QuantizationMethod::gptq:
      return "gptq";
    case QuantizationMethod::awq:
      return "awq";
  }
  fail(Status::internal, "quantization method ", static_cast<int>(method), " has no name");
}

}  // namespace qwen
