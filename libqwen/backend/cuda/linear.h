// Matrix products: out[r][n] = x[r] . weight[n], for several matrices of one input in one launch, and the two of a gated one.
//
// What the input is decides the arithmetic, and the arithmetic and the sizes of the matrix alone decide the order of every sum
// (linear.cu): a row has the same bits alone, among any others, and in linear() and gated_linear().
#pragma once

#include <cstdint>

#include "backend/cuda/device.h"
#include "backend/cuda/element.h"

namespace qwen::cuda {

// Rows are dense and row-major. All of it is device memory; 16-byte alignment of x and the weights is what makes it fast.
struct LinearProjection {
  const void* weight = nullptr;  // [outputs, k]
  const float* bias = nullptr;   // [outputs], null: none
  float* out = nullptr;          // [rows, outputs]
  int64_t outputs = 0;
  bool accumulate = false;  // out += x weight' + bias
};

inline constexpr int kMostProjections = 8;

// x bf16: the weights are bf16 too, tensor cores multiply. x f32: weights of either kind, fused multiply-adds in float32.
struct LinearArgs {
  const void* x = nullptr;  // [rows, k]
  Element x_element = Element::f32;
  Element weight_element = Element::f32;
  int64_t rows = 0;
  int64_t k = 0;
  int count = 0;  // of projections
  LinearProjection projections[kMostProjections];
  int multiprocessors = kUsualMultiprocessors;  // which kernel is fastest hangs on it, no bit does
};
void linear(Stream& stream, const LinearArgs& args);

// out = silu(x gate') * (x up').
struct GatedLinearArgs {
  const void* x = nullptr;  // [rows, k]
  Element x_element = Element::f32;
  Element weight_element = Element::f32;
  int64_t rows = 0;
  int64_t k = 0;
  const void* gate = nullptr;  // [outputs, k]
  const void* up = nullptr;    // [outputs, k]
  int64_t outputs = 0;
  void* out = nullptr;  // [rows, outputs], bf16: rounded
  Element out_element = Element::f32;
  int multiprocessors = kUsualMultiprocessors;
};
void gated_linear(Stream& stream, const GatedLinearArgs& args);

// How many slices a sum over k inputs has at most, and how many inputs a slice: for linear.cu and its tests.
inline constexpr int kSlices = 8;
constexpr int64_t slice_length(int64_t k) {
  return (k + kSlices * 64 - 1) / (kSlices * 64) * 64;
}

}  // namespace qwen::cuda
