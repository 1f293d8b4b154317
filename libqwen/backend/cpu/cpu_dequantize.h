// Quantised matrices on the CPU: the file's own bytes, and panels of them as float32 wherever they are multiplied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/cpu/kernels.h"
#include "checkpoint/quantized_tensor.h"

namespace qwen::cpu {

// Outputs [output, output + outputs) and inputs [input, input + inputs) of a matrix.
struct Panel {
  int64_t output = 0;
  int64_t outputs = 0;
  int64_t input = 0;
  int64_t inputs = 0;
};

class QuantizedMatrix {
 public:
  // Borrows the tensors' data (any alignment). Throws Error(invalid_file): an entry of g_idx that is no group.
  explicit QuantizedMatrix(const QuantizedTensor& tensor);

  Format format() const { return format_; }
  // to[n * stride + i] = W[panel.output + n, panel.input + i], each by the formula in quantized_tensor.h with one
  // rounding (the product): the same bits in every panel and at every instruction-set level.
  void dequantize(const Kernels& kernels, const Panel& panel, float* to, int64_t stride) const;

 private:
  void dequantize_fp8(const Kernels& kernels, const Panel& panel, float* to, int64_t stride) const;
  template <Format F, int kBits>
  void dequantize_groups(const Kernels& kernels, const Panel& panel, float* to, int64_t stride) const;
  void keep_groups(const TensorView& g_idx, int64_t groups);

  Format format_, scale_format_;
  int64_t out_, in_;
  int64_t block_rows_, block_columns_, column_blocks_;  // fp8
  int64_t bits_, group_size_;                           // gptq, awq
  int32_t zero_offset_;
  const std::byte *weight_, *scales_, *zeros_;
  // [in] which group an input belongs to, where that is not input / group_size (desc_act). A copy: it was checked, and
  // a mapped file may change.
  std::vector<int32_t> input_groups_;
};

}  // namespace qwen::cpu
