// Tile instructions as functions, and what goes with them.
//
// Tiles are named by number in the instructions, so the wrappers take numbers as template arguments. They are written in
// assembly because gcc 12's intrinsics do not tell the compiler which memory they read and write.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "backend/cpu/generic_kernels.h"
#include "backend/cpu/tile_kernels.h"

namespace qwen::cpu {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

inline void configure(const TileConfig& config) {
  asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
}
inline void release_tiles() {
  asm volatile("tilerelease" : : : "memory");
}
template <int T>
inline void clear() {
  asm volatile("tilezero %%tmm%c0" : : "i"(T));
}
template <int T>
inline void load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
inline void store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(T) : "memory");
}
// Sums[m][n] += the products of row m of A and column n of B.
template <int Sums, int A, int B>
inline void multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(A), "i"(B));
}

// Tiles 0-3 hold sums, 4 and 5 weights, 6 and 7 activations of `columns` rows.
TileConfig config_for(int64_t columns) {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.rows[tile] = kTileRows;
    config.row_bytes[tile] = static_cast<uint16_t>(tile == 4 || tile == 5 ? 64 : columns * 4);
  }
  return config;
}

inline __mmask16 first_lanes(int64_t n) {
  return static_cast<__mmask16>((1u << n) - 1);
}

// A block of 16 lines of 16 32-bit elements, `stride` bytes apart, turned: use(i, element i of every line).
template <class Use>
inline void transpose(const void* from, int64_t stride, Use use) {
  const auto quarter = [&](int line, int column) __attribute__((always_inline)) {
    return _mm_loadu_ps(
        reinterpret_cast<const float*>(static_cast<const char*>(from) + line * stride + column * 16));
  };
#pragma GCC unroll 4
  for (int column = 0; column < 4; ++column) {
    // quarters[j]: four elements of each of the lines j, j + 4, j + 8, j + 12.
    __m512d pairs[4];
    __m512 quarters[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      __m512 v = _mm512_castps128_ps512(quarter(j, column));
      v = _mm512_insertf32x4(v, quarter(j + 4, column), 1);
      v = _mm512_insertf32x4(v, quarter(j + 8, column), 2);
      quarters[j] = _mm512_insertf32x4(v, quarter(j + 12, column), 3);
    }
    pairs[0] = _mm512_castps_pd(_mm512_unpacklo_ps(quarters[0], quarters[1]));
    pairs[1] = _mm512_castps_pd(_mm512_unpackhi_ps(quarters[0], quarters[1]));
    pairs[2] = _mm512_castps_pd(_mm512_unpacklo_ps(quarters[2], quarters[3]));
    pairs[3] = _mm512_castps_pd(_mm512_unpackhi_ps(quarters[2], quarters[3]));
    use(column * 4 + 0, _mm512_castpd_ps(_mm512_unpacklo_pd(pairs[0], pairs[2])));
    use(column * 4 + 1, _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[0], pairs[2])));
    use(column * 4 + 2, _mm512_castpd_ps(_mm512_unpacklo_pd(pairs[1], pairs[3])));
    use(column * 4 + 3, _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[1], pairs[3])));
  }
}

inline __m512i rounded(const float* x, int64_t n) {  // 32 floats, or n and zeros behind them
  const __m512 low = _mm512_maskz_loadu_ps(n >= 16 ? 0xffff : first_lanes(n), x);
  const __m512 high =
      n > 16 ? _mm512_maskz_loadu_ps(n >= 32 ? 0xffff : first_lanes(n - 16), x + 16) : _mm512_setzero_ps();
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// The order in which two vectors of bfloat16 numbers, one behind the other, are pairs for each column: of its numbers in two
// rows of `columns`, rows 2p and 2p + 1.
inline __m512i pair_order(int64_t columns) {
  alignas(64) uint16_t order[32];
  for (int64_t i = 0; i < 32; ++i) {
    const int64_t pair = i / (2 * columns), column = i / 2 % columns;
    order[i] = static_cast<uint16_t>((2 * pair + i % 2) * columns + column);
  }
  return _mm512_load_si512(order);
}

// Rounded inputs of 16 rows as a tile of `columns` rows.
inline void pack_lines(const uint16_t (*lines)[kTileInputs], int64_t columns, std::byte* tile) {
  transpose(
      lines, 64, [&](int pair, __m512 line) __attribute__((always_inline)) {
        _mm512_mask_storeu_ps(tile + pair * columns * 4, first_lanes(columns), line);
      });
}

}  // namespace
}  // namespace qwen::cpu
