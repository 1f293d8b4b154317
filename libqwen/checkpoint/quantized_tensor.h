// One quantised matrix as the file has it: the tensors that hold it together, found by name and checked against
// config.json. Views only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "checkpoint/quantization_config.h"
#include "checkpoint/tensor.h"

namespace qwen {

// W [out, in] of y = x W'. Borrowed: valid as long as the TensorSource. Sources of the layouts: transformers'
// finegrained_fp8, AutoGPTQ and GPTQModel, AutoAWQ. All arithmetic is float32, q and z are unsigned:
//
//   fp8   W[o, r] = float(weight[o, r]) * scales[o / block_rows, r / block_columns]
//   gptq  W[o, r] = (q[r, o] - (z[g, o] + zero_offset)) * scales[g, o],  g = g_idx[r], or r / group_size without g_idx;
//         q[r, o] is bits * (r % (32 / bits)) of word [r / (32 / bits), o], lowest first; z likewise along the outputs
//   awq   W[o, r] = (q[r, o] - z[r / group_size, o]) * scales[r / group_size, o];
//         q[r, o] is bits 4 * [0, 4, 1, 5, 2, 6, 3, 7][o % 8] of word [r, o / 8]; z likewise
struct QuantizedTensor {
  std::string name;  // "model.layers.0.mlp.up_proj"
  QuantizationConfig config;
  int64_t out = 0;
  int64_t in = 0;
  const TensorView* weight =
      nullptr;  // fp8: F8_E4M3 [out, in]; gptq: I32 [in * bits / 32, out]; awq: I32 [in, out / 8]
  const TensorView* scales = nullptr;  // F16, BF16 or F32; fp8: a scale per block, else [groups, out]
  const TensorView* zeros = nullptr;   // gptq, awq: I32 [groups, out * bits / 32]
  const TensorView* g_idx = nullptr;   // gptq: I32 [in]; null where the file has none and desc_act is false

  int64_t group_size() const { return config.group_size < 0 ? in : config.group_size; }
  int64_t groups() const { return (in + group_size() - 1) / group_size(); }  // the last may be partial
  size_t bytes() const;                                                      // stored, of all its tensors
};

// The matrix behind `name` ("….up_proj.weight") if the file keeps it quantised, nothing if it is an ordinary tensor or
// missing. Throws Error(invalid_file) naming the tensor that is missing or has the wrong dtype or shape, and what is
// right. Touches no tensor's data.
std::optional<QuantizedTensor> find_quantized(const TensorSource& source, const QuantizationConfig& config,
                                              std::string_view name, int64_t out, int64_t in);

}  // namespace qwen
