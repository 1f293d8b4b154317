// The blocks of GGUF files as float32: formulas and layouts of the public ggml format (ggml-common.h and ggml-quants.c of
// https://github.com/ggml-org/ggml), as the gguf package's quants.py computes them in float32. Plain loops that each
// instruction-set level compiles for itself; every product is exact in float32 (a half, a scale of at most 8 bits and an
// integer of at most 8), so that only the subtraction of a minimum rounds, and all levels give the same bits.
//
// In an unnamed namespace and free of the standard library, for the reasons given in generic_kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/kernels.h"

namespace qwen::cpu {
namespace {

// IEEE half to float, by integers: the host's flush-to-zero mode changes nothing.
inline float half_at(const uint8_t* p) {
  const uint32_t half = static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8;
  const uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31, mantissa = half & 0x3ffu;
  uint32_t bits;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    __builtin_memcpy(&bits, &magnitude, 4);
    bits |= sign;
  } else {
    bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | mantissa << 13;
  }
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

// The eight scales and minima of Q4_K and Q5_K, 6 bits each in 12 bytes: four low scales, four low minima (their upper two
// bits belong to the four others), four bytes with the lower nibbles of the others.
struct SuperScales {
  float scale[8], minimum[8];
};

inline SuperScales super_scales(const uint8_t* block) {
  const float d = half_at(block), dmin = half_at(block + 2);
  const uint8_t* const s = block + 4;
  SuperScales out;
  for (int j = 0; j < 4; ++j) {
    out.scale[j] = d * static_cast<float>(s[j] & 63);
    out.minimum[j] = dmin * static_cast<float>(s[j + 4] & 63);
    out.scale[j + 4] = d * static_cast<float>((s[j + 8] & 15) | (s[j] >> 6) << 4);
    out.minimum[j + 4] = dmin * static_cast<float>(s[j + 8] >> 4 | (s[j + 4] >> 6) << 4);
  }
  return out;
}

// Q4_0, Q4_1, Q5_0, Q5_1: d (and m), the fifth bits as 32 bits, 16 bytes with elements i and i + 16 in their nibbles.
template <Format F>
inline void widen_nibbles(const uint8_t* block, float* __restrict to) {
  constexpr bool kFive = F == Format::q5_0 || F == Format::q5_1;
  constexpr bool kMinimum = F == Format::q4_1 || F == Format::q5_1;
  constexpr int kOffset = kMinimum ? 0 : kFive ? 16 : 8;
  const float d = half_at(block), m = kMinimum ? half_at(block + 2) : 0.0f;
  const uint8_t* const high = block + (kMinimum ? 4 : 2);
  const uint8_t* const low = high + (kFive ? 4 : 0);
  uint32_t fifth = 0;
  if constexpr (kFive) __builtin_memcpy(&fifth, high, 4);
#pragma GCC unroll 1
  for (int i = 0; i < 16; ++i) {
    const int a = static_cast<int>((low[i] & 15u) | (fifth >> i & 1) << 4) - kOffset;
    const int b = static_cast<int>((low[i] >> 4u) | (fifth >> (i + 16) & 1) << 4) - kOffset;
    const float first = d * static_cast<float>(a), second = d * static_cast<float>(b);
    to[i] = kMinimum ? first + m : first;
    to[i + 16] = kMinimum ? second + m : second;
  }
}

// The sixteen values that a nibble can mean: of the IQ4 types, and twice those of four-bit floats (e2m1) of the OCP
// Microscaling Formats specification.
constexpr float kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr float kE2m1Levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// 16 bytes with elements i and i + 16 in their nibbles. Measured faster than a byte shuffle of the levels.
inline void widen_levels(const uint8_t* q, const float* levels, float scale, float* __restrict to) {
  for (int i = 0; i < 16; ++i) to[i] = scale * levels[q[i] & 15];
  for (int i = 0; i < 16; ++i) to[16 + i] = scale * levels[q[i] >> 4];
}

// Half of 2^(byte - 127), which makes up for the doubled levels.
inline float half_power(uint8_t byte) {
  const uint32_t bits = byte < 2 ? 0x00200000u << byte : (byte - 1u) << 23;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

// d, 16 bits with the upper two of each scale, 4 bytes with their lower nibbles, 8 rows of 32 elements.
inline void widen_iq4_xs(const uint8_t* block, float* __restrict to) {
  const float d = half_at(block);
  const uint32_t high = static_cast<uint32_t>(block[2]) | static_cast<uint32_t>(block[3]) << 8;
  for (int row = 0; row < 8; ++row) {
    const uint32_t low = block[4 + row / 2] >> row % 2 * 4 & 15u;
    const int scale = static_cast<int>(low | (high >> 2 * row & 3) << 4) - 32;
    widen_levels(block + 8 + 16 * row, kIq4Levels, d * static_cast<float>(scale), to + 32 * row);
  }
}

inline void widen_q8_0(const uint8_t* block, float* __restrict to) {
  const float d = half_at(block);
  const auto* const q = reinterpret_cast<const int8_t*>(block + 2);
  for (int i = 0; i < 32; ++i) to[i] = d * static_cast<float>(q[i]);
}

// d, dmin, scales; Q5_K: 32 bytes of which bit g belongs to group g; 128 bytes, two groups of 32 elements in the nibbles
// of 32 bytes.
template <Format F>
inline void widen_q45_k(const uint8_t* block, float* __restrict to) {
  constexpr bool kFive = F == Format::q5_k;
  const SuperScales scales = super_scales(block);
  const uint8_t* const high = block + 16;
  const uint8_t* const low = high + (kFive ? 32 : 0);
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) {
    const float scale = scales.scale[g], minimum = scales.minimum[g];
    const uint8_t* const q = low + g / 2 * 32;
    const int shift = g % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      int value = q[i] >> shift & 15;
      if constexpr (kFive) value |= (high[i] >> g & 1) << 4;
      to[32 * g + i] = scale * static_cast<float>(value) - minimum;
    }
  }
}

// The three types with a scale for every 16 elements go row by row of 32 all the same, with two scales each: gcc takes a
// loop of 16 apart before it looks for vectors.

// 128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales, d. Rows of 32 elements: the 4 of a half share 64
// nibble bytes and 32 bytes of pairs.
inline void widen_q6_k(const uint8_t* block, float* __restrict to) {
  const auto* const scales = reinterpret_cast<const int8_t*>(block + 192);
  const float d = half_at(block + 208);
#pragma GCC unroll 8
  for (int row = 0; row < 8; ++row) {
    const uint8_t* const low = block + row / 4 * 64 + row % 2 * 32;
    const uint8_t* const high = block + 128 + row / 4 * 32;
    const int low_shift = row % 4 / 2 * 4, high_shift = row % 4 * 2;
    const float first = d * static_cast<float>(scales[row * 2]);
    const float second = d * static_cast<float>(scales[row * 2 + 1]);
    for (int i = 0; i < 32; ++i) {
      const int value = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
      to[32 * row + i] = (i < 16 ? first : second) * static_cast<float>(value - 32);
    }
  }
}

// 16 bytes of scale and minimum in nibbles, 64 bytes of bit pairs, d, dmin.
inline void widen_q2_k(const uint8_t* block, float* __restrict to) {
  const float d = half_at(block + 80), dmin = half_at(block + 82);
#pragma GCC unroll 8
  for (int row = 0; row < 8; ++row) {
    const uint8_t* const q = block + 16 + row / 4 * 32;
    const uint8_t* const both = block + row * 2;
    const int shift = row % 4 * 2;
    const float first = d * static_cast<float>(both[0] & 15), second = d * static_cast<float>(both[1] & 15);
    const float first_minimum = dmin * static_cast<float>(both[0] >> 4);
    const float second_minimum = dmin * static_cast<float>(both[1] >> 4);
    for (int i = 0; i < 32; ++i)  // two selections in one loop are no vectors to gcc
      to[32 * row + i] = (i < 16 ? first : second) * static_cast<float>(q[i] >> shift & 3);
    for (int i = 0; i < 32; ++i) to[32 * row + i] -= i < 16 ? first_minimum : second_minimum;
  }
}

// 32 bytes of which bit r belongs to row r (0: four less), 64 bytes of bit pairs, 12 bytes of 16 scales (8 bytes of lower
// nibbles, 4 of upper pairs), d.
inline void widen_q3_k(const uint8_t* block, float* __restrict to) {
  const uint8_t* const packed = block + 96;
  const float d = half_at(block + 108);
  const auto scale = [&](int k) __attribute__((always_inline)) {
    return d * static_cast<float>(
                   ((packed[k % 8] >> k / 8 * 4 & 15) | (packed[8 + k % 4] >> k / 4 * 2 & 3) << 4) - 32);
  };
#pragma GCC unroll 8
  for (int row = 0; row < 8; ++row) {
    const uint8_t* const q = block + 32 + row / 4 * 32;
    const int shift = row % 4 * 2;
    const float first = scale(row * 2), second = scale(row * 2 + 1);
    for (int i = 0; i < 32; ++i) {
      const int value = (q[i] >> shift & 3) - 4 + (block[i] >> row & 1) * 4;
      to[32 * row + i] = (i < 16 ? first : second) * static_cast<float>(value);
    }
  }
}

template <Format F>
void widen_blocks(const std::byte* from, int64_t blocks, float* to) {
  const auto* block = reinterpret_cast<const uint8_t*>(from);
  for (int64_t b = 0; b < blocks; ++b, block += block_bytes(F), to += block_elements(F)) {
    if constexpr (F == Format::q8_0)
      widen_q8_0(block, to);
    else if constexpr (F == Format::q2_k)
      widen_q2_k(block, to);
    else if constexpr (F == Format::q3_k)
      widen_q3_k(block, to);
    else if constexpr (F == Format::q4_k || F == Format::q5_k)
      widen_q45_k<F>(block, to);
    else if constexpr (F == Format::q6_k)
      widen_q6_k(block, to);
    else if constexpr (F == Format::iq4_nl)
      widen_levels(block + 2, kIq4Levels, half_at(block), to);
    else if constexpr (F == Format::mxfp4)
      widen_levels(block + 1, kE2m1Levels, half_power(block[0]), to);
    else if constexpr (F == Format::iq4_xs)
      widen_iq4_xs(block, to);
    else
      widen_nibbles<F>(block, to);
  }
}

}  // namespace
}  // namespace qwen::cpu
