// The naive twin of backend/cpu/cpu_dequantize.cpp: one element of a quantised matrix, its formula (quantized_tensor.h) in
// the plainest words.
#pragma once

#include <cmath>
#include <limits>

#include "backend/reference/reference.h"
#include "checkpoint/quantized_tensor.h"

namespace qwen::reference {

inline float e4m3(uint8_t code) {
  const int sign = code >> 7, exponent = code >> 3 & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                        : std::ldexp(8.0f + static_cast<float>(mantissa), exponent - 10);
  return sign ? -magnitude : magnitude;
}

inline float float_element(const TensorView& tensor, int64_t i) {
  if (tensor.dtype == DType::f32) return element<Format::f32>(tensor.data, i);
  return tensor.dtype == DType::f16 ? element<Format::f16>(tensor.data, i)
                                    : element<Format::bf16>(tensor.data, i);
}

inline uint32_t word(const TensorView& tensor, int64_t i) {
  uint32_t value;
  std::memcpy(&value, tensor.data + i * 4, 4);
  return value;
}

// Integer i of those that `bits` bits each pack into words, from word `first` on, lowest bits first.
inline int packed(const TensorView& tensor, int64_t first, int64_t bits, int64_t i) {
  const int64_t per_word = 32 / bits;
  return static_cast<int>(word(tensor, first + i / per_word) >> (bits * (i % per_word)) & ((1u << bits) - 1));
}

// AWQ: eight columns to a word, in this order of nibbles.
inline int interleaved(const TensorView& tensor, int64_t first, int64_t column) {
  constexpr int kNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  return static_cast<int>(word(tensor, first + column / 8) >> (4 * kNibble[column % 8]) & 15);
}

// W[o, r]
inline float quantized_element(const QuantizedTensor& w, int64_t o, int64_t r) {
  const QuantizationConfig& config = w.config;
  if (config.method == QuantizationMethod::fp8) {
    const int64_t blocks = (w.in + config.block_columns - 1) / config.block_columns;
    const float scale = float_element(*w.scales, o / config.block_rows * blocks + r / config.block_columns);
    return e4m3(static_cast<uint8_t>(w.weight->data[o * w.in + r])) * scale;
  }
  if (config.method == QuantizationMethod::awq) {
    const int64_t group = r / w.group_size();
    const int q = interleaved(*w.weight, r * (w.out / 8), o),
              z = interleaved(*w.zeros, group * (w.out / 8), o);
    return static_cast<float>(q - z) * float_element(*w.scales, group * w.out + o);
  }
  const int64_t per_word = 32 / config.bits;
  const int64_t group = w.g_idx ? static_cast<int32_t>(word(*w.g_idx, r)) : r / w.group_size();
  const int q = static_cast<int>(word(*w.weight, r / per_word * w.out + o) >> (config.bits * (r % per_word)) &
                                 ((1u << config.bits) - 1));
  const int z = packed(*w.zeros, group * (w.out / per_word), config.bits, o) + config.zero_offset;
  return static_cast<float>(q - z) * float_element(*w.scales, group * w.out + o);
}

}  // namespace qwen::reference
