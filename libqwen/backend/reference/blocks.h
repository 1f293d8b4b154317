// The naive twin of backend/cpu/block_kernels.h: one element of a block of a GGUF file, in double, its bits picked one by
// one. Layouts: ggml-common.h of https://github.com/ggml-org/ggml, whose field names stand in the comments.
#pragma once

#include "backend/reference/reference.h"
#include "checkpoint/tensor.h"

namespace qwen::reference {

// Element i of a block.
inline double block_element(DType dtype, const std::byte* block, int64_t i) {
  const auto byte = [&](int64_t at) { return static_cast<int>(block[at]); };
  const auto bits = [&](int64_t at, int64_t first, int count) {  // `count` bits from bit `first` of byte `at`
    return byte(at) >> first & ((1 << count) - 1);
  };
  const auto half = [&](int64_t at) { return double{element<Format::f16>(block + at, 0)}; };
  const auto nibble = [&](int64_t at) { return bits(at + i % 16, i / 16 * 4, 4); };
  static constexpr int kIq4[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  static constexpr double kE2m1[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6};
  switch (dtype) {
    case DType::q4_0:  // d, qs[16]
      return half(0) * (nibble(2) - 8);
    case DType::q4_1:  // d, m, qs[16]
      return half(0) * nibble(4) + half(2);
    case DType::q5_0:  // d, qh[4], qs[16]
      return half(0) * (nibble(6) + 16 * bits(2 + i / 8, i % 8, 1) - 16);
    case DType::q5_1:  // d, m, qh[4], qs[16]
      return half(0) * (nibble(8) + 16 * bits(4 + i / 8, i % 8, 1)) + half(2);
    case DType::q8_0:  // d, qs[32]
      return half(0) * static_cast<int8_t>(byte(2 + i));
    case DType::iq4_nl:  // d, qs[16]
      return half(0) * kIq4[nibble(2)];
    case DType::mxfp4:  // e, qs[16]
      return std::ldexp(kE2m1[nibble(1)], byte(0) - 127);
    default:
      break;
  }
  const int64_t row = i / 32, column = i % 32, k = i / 16;
  // A row's bit pair: four rows share 32 bytes.
  const auto pair = [&](int64_t at) { return bits(at + row / 4 * 32 + column, row % 4 * 2, 2); };
  if (dtype == DType::q2_k)  // scales[16], qs[64], d, dmin
    return half(80) * bits(k, 0, 4) * pair(16) - half(82) * bits(k, 4, 4);
  if (dtype == DType::q3_k) {  // hmask[32], qs[64], scales[12], d
    const int scale = bits(96 + k % 8, k / 8 * 4, 4) + 16 * bits(104 + k % 4, k / 4 * 2, 2) - 32;
    return half(108) * scale * (pair(32) - (bits(column, row, 1) ? 0 : 4));
  }
  if (dtype == DType::q6_k) {  // ql[128], qh[64], scales[16], d
    const int low = bits(row / 4 * 64 + row % 2 * 32 + column, row % 4 / 2 * 4, 4);
    return half(208) * static_cast<int8_t>(byte(192 + k)) * (low + 16 * pair(128) - 32);
  }
  if (dtype == DType::iq4_xs) {  // d, scales_h[2], scales_l[4], qs[128]
    const int scale = bits(4 + row / 2, row % 2 * 4, 4) + 16 * bits(2 + row / 4, row % 4 * 2, 2) - 32;
    return half(0) * scale * kIq4[bits(8 + row * 16 + column % 16, static_cast<int>(column / 16) * 4, 4)];
  }
  // d, dmin, scales[12], q5_k: qh[32], qs[128]
  const int64_t j = row % 4;
  const int scale = row < 4 ? bits(4 + j, 0, 6) : bits(12 + j, 0, 4) + 16 * bits(4 + j, 6, 2);
  const int minimum = row < 4 ? bits(8 + j, 0, 6) : bits(12 + j, 4, 4) + 16 * bits(8 + j, 6, 2);
  const bool five = dtype == DType::q5_k;
  int q = bits((five ? 48 : 16) + row / 2 * 32 + column, row % 2 * 4, 4);
  if (five) q += 16 * bits(16 + column, row, 1);
  return half(0) * scale * q - half(2) * minimum;
}

}  // namespace qwen::reference
