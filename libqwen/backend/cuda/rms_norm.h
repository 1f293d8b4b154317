// out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight[r % norms]. A row's width alone decides the order of its sum.
#pragma once

#include <cstdint>

#include "backend/cuda/device.h"
#include "backend/cuda/element.h"

namespace qwen::cuda {

struct RmsNormArgs {
  const float* x = nullptr;       // [rows, width]
  const float* weight = nullptr;  // [norms, width]
  int64_t norms = 1;
  int64_t rows = 0;
  int64_t width = 0;
  float eps = 0;
  void* out = nullptr;  // [rows, width]; float32: may be x; bf16: rounded
  Element out_element = Element::f32;
};
void rms_norm(Stream& stream, const RmsNormArgs& args);

}  // namespace qwen::cuda
