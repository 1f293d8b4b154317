// How the CPU backend keeps parameters: matrices as the file has them (mapped, never repacked, quantised and transposed
// ones included), everything small as float32.
#pragma once

#include <optional>

#include "backend/backend.h"
#include "backend/cpu/cpu_dequantize.h"
#include "backend/cpu/cpu_memory.h"
#include "backend/cpu/kernels.h"

namespace qwen::cpu {

class CpuWeight final : public Weight {
 public:
  // Throws Error: unsupported (dtype, rank), invalid_file (bytes do not fit the shape), out_of_memory.
  CpuWeight(const TensorView& tensor, WeightUse use, Precision precision, const Kernels& kernels);

  // A quantised matrix. Throws Error: invalid_file (g_idx).
  explicit CpuWeight(const QuantizedTensor& tensor);

  // Kernels can read the matrix where it lies; any other one they get in panels.
  bool in_place() const { return !is_quantized(format) && !transposed_; }

  // Part of a matrix as float32: to[n * stride + i] = weight[panel.output + n][panel.input + i].
  void widen(const Kernels& kernels, const Panel& panel, float* to, int64_t stride) const;

  // The same of a bfloat16 matrix, as it is: [panel.outputs][panel.inputs], dense.
  void copy_bf16(const Panel& panel, uint16_t* to) const;

  Format format = Format::f32;
  int64_t outputs = 0;              // of a matrix; elements of a vector
  int64_t width = 0;                // inputs of a matrix; 1 for a vector
  const std::byte* data = nullptr;  // the tensor's own bytes (any alignment) or the copy; null when quantised

  // Of matrices in place.
  int64_t element_bytes() const { return format == Format::f32 ? 4 : 2; }
  int64_t row_bytes() const { return width * element_bytes(); }
  const float* floats() const {
    return reinterpret_cast<const float*>(data);
  }  // of anything but a matrix: always an aligned copy

 private:
  void keep_as_floats(const TensorView& tensor, WeightUse use, const Kernels& kernels);
  void keep_as_bf16(const TensorView& tensor, const Kernels& kernels);
  void widen_blocks(const Kernels& kernels, const Panel& panel, float* to, int64_t stride) const;

  int64_t row_stride_ = 0;  // elements, transposed
  bool transposed_ = false;
  Buffer copy_;
  std::optional<QuantizedMatrix> quantized_;
};

// A model's weights come from this backend's load().
inline const CpuWeight& own(const Weight& weight) {
  return static_cast<const CpuWeight&>(weight);
}

}  // namespace qwen::cpu
