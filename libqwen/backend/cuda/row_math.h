// What several kernels compute, each in one place and in one order, so that fused and separate ops have the same bits. Where a
// product meets a sum it says fmaf(): else it were the compiler's choice in each kernel anew.
#pragma once

#include "backend/cuda/dialect.h"
#include "backend/cuda/element.h"

namespace qwen::cuda {

// silu(gate) * up
__device__ __forceinline__ float silu_mul(float gate, float up) {
  return gate / (1.0f + expf(-gate)) * up;
}

// A pair of a head's numbers, turned by an angle.
__device__ __forceinline__ float2 rotate(float first, float second, float cosine, float sine) {
  return make_float2(fmaf(first, cosine, -(second * sine)), fmaf(second, cosine, first * sine));
}

// A norm's factor, from the sum of squares.
__device__ __forceinline__ float norm_factor(float squares, int64_t width, float eps) {
  return 1.0f / sqrtf(squares / static_cast<float>(width) + eps);
}

// The sum of squares of a row, by one warp: rows of at most kWarpRow, heads above all.
inline constexpr int64_t kWarpRow = 512;
__device__ __forceinline__ float warp_squares(const float* x, int64_t width) {
  float sum = 0;
  for (int64_t i = threadIdx.x % kWarp; i < width; i += kWarp) sum = fmaf(x[i], x[i], sum);
  return warp_sum(sum);
}

__device__ __forceinline__ void store(void* out, Element element, int64_t at, float value) {
  if (element == Element::f32)
    static_cast<float*>(out)[at] = value;
  else
    static_cast<uint16_t*>(out)[at] = to_bf16(value);
}

}  // namespace qwen::cuda
