// config.json's quantization_config, read and checked: how the file keeps the matrices that it does not keep in 16 or
// 32 bits. The formats are those of the official releases; a variation that would need other arithmetic is refused by
// name.
#pragma once

#include <cstdint>
#include <string_view>

#include "checkpoint/json_fields.h"

namespace qwen {

enum class QuantizationMethod : uint8_t {
  fp8,   // blocks of e4m3 with one scale each (Qwen3-*-FP8)
  gptq,  // integers packed along the inputs, scale and zero per group of inputs (Qwen*-GPTQ-Int4, -Int8)
  awq,   // integers packed along the outputs in an interleaved order (Qwen*-AWQ)
};

struct QuantizationConfig {
  QuantizationMethod method = QuantizationMethod::fp8;
  int64_t block_rows = 128;  // fp8: outputs and inputs that share a scale; blocks at the edges may be partial
  int64_t block_columns = 128;
  int64_t bits = 4;          // gptq: 4 or 8; awq: 4
  int64_t group_size = 128;  // gptq, awq: inputs that share scale and zero; -1: all
  bool desc_act = false;  // gptq: the groups are not in the order of the inputs, so that g_idx must be there
  // gptq: what a stored zero lacks. The first version of the format (checkpoint_format "gptq") stores zero - 1, the
  // second ("gptq_v2") the zero itself.
  int32_t zero_offset = 0;
};

// `value`: the value of the key. Throws Error: invalid_file (key, value, what is right), unsupported (by name).
QuantizationConfig parse_quantization_config(const JsonValue& value, std::string_view source);

std::string_view quantization_method_name(QuantizationMethod method);  // "fp8"

}  // namespace qwen
