// AVX-512's instructions under the names that generic_kernels.h uses.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "backend/cpu/kernels.h"

namespace qwen::cpu {
namespace {

struct Avx512 {
  using V = __m512;
  static constexpr int kWidth = 16;
  // 6 x 4 sums take 24 of 32 registers and 10 loads per 24 multiply-adds; single rows read 8 weight rows at
  // once.
  static constexpr int kTileRows = 6;
  static constexpr int tile_outputs(int rows) { return rows >= 4 ? 4 : 8; }
  static constexpr int kScoreTile = 8;  // x 2 vectors of keys
  static constexpr int kValueTile = 4;  // x 4 vectors of dimensions
  static constexpr int kDeltaRows = 4;  // x 2 vectors of columns, x 2 sums

  static __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1); }

  static V zero() { return _mm512_setzero_ps(); }
  static V set1(float x) { return _mm512_set1_ps(x); }
  static V load(const float* p) { return _mm512_loadu_ps(p); }
  static V load_partial(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
  static void store(float* p, V v) { _mm512_storeu_ps(p, v); }
  static void store_partial(float* p, V v, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }

  static V from_bf16(__m256i v) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
  }
  template <Format F>
  static V widen(const std::byte* p) {
    if constexpr (F == Format::f32) return _mm512_loadu_ps(p);
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p));
    return F == Format::bf16 ? from_bf16(halves) : _mm512_cvtph_ps(halves);
  }
  template <Format F>
  static V widen_partial(const std::byte* p, int n) {
    if constexpr (F == Format::f32) return _mm512_maskz_loadu_ps(first_lanes(n), p);
    const __m256i halves = _mm256_maskz_loadu_epi16(first_lanes(n), p);
    return F == Format::bf16 ? from_bf16(halves) : _mm512_cvtph_ps(halves);
  }
  // To nearest even; NaN becomes quiet. (vcvtneps2bf16 flushes subnormals, so it is not used.)
  static void narrow_bf16(V v, uint16_t* to) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i result = _mm512_mask_mov_epi32(rounded, nan, quiet);
    _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(to),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(result, 16)));
  }

  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V add(V a, V b) { return _mm512_add_ps(a, b); }
  static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  static V div(V a, V b) { return _mm512_div_ps(a, b); }
  static V max(V a, V b) { return _mm512_max_ps(a, b); }  // b if either is NaN
  static V min(V a, V b) { return _mm512_min_ps(a, b); }
  static V round(V v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static V power_of_two(V n) {  // n integral in [-126, 127]
    const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
  }
  static V zero_where_less(V v, V x, V limit) {
    return _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), zero());
  }
  // v in the lanes l with first <= origin + l < last, `other` elsewhere.
  static V select_range(V v, int origin, int first, int last, V other) {
    const uint32_t mask = static_cast<uint32_t>((uint64_t{1} << last) - (uint64_t{1} << first));
    return _mm512_mask_mov_ps(other, static_cast<__mmask16>(mask >> origin), v);
  }

  static __m256 upper(V v) { return _mm512_extractf32x8_ps(v, 1); }
  static float sum(V v) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), upper(v));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
  }
  // sum() of four vectors, with the same additions in each.
  static void sum4(const V* v, float* sums) {
    const auto fold = [](V a, V b) {  // the halves of a and b added: [a, b], 8 lanes each
      return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    };
    const V ab = fold(v[0], v[1]), cd = fold(v[2], v[3]);
    V four = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    four = _mm512_add_ps(four, _mm512_permute_ps(four, 0x0e));
    four = _mm512_add_ps(four, _mm512_permute_ps(four, 0x01));
    const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm_storeu_ps(sums, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, four)));
  }
  static float largest(V v) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), upper(v));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
  }
};

}  // namespace
}  // namespace qwen::cpu
