// The kernels with AVX2, FMA and F16C.
#include <immintrin.h>

#include "backend/cpu/generic_kernels.h"

namespace qwen::cpu {
namespace {

struct Avx2 {
  using V = __m256;
  static constexpr int kWidth = 8;
  // 6 x 2 sums, two weights and one activation fill 15 of 16 registers; single rows read 8 weight rows at
  // once.
  static constexpr int kTileRows = 6;
  static constexpr int tile_outputs(int rows) { return rows >= 4 ? 2 : rows == 2 ? 4 : 8; }
  static constexpr int kScoreTile = 2;  // x 4 vectors of keys
  static constexpr int kValueTile = 2;  // x 4 vectors of dimensions
  static constexpr int kDeltaRows = 2;  // x 2 vectors of columns, x 2 sums

  static __m256i lanes() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static __m256i first_lanes(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes()); }

  static V zero() { return _mm256_setzero_ps(); }
  static V set1(float x) { return _mm256_set1_ps(x); }
  static V load(const float* p) { return _mm256_loadu_ps(p); }
  static V load_partial(const float* p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
  static void store(float* p, V v) { _mm256_storeu_ps(p, v); }
  static void store_partial(float* p, V v, int n) { _mm256_maskstore_ps(p, first_lanes(n), v); }

  template <Format F>
  static V widen(const std::byte* p) {
    if constexpr (F == Format::f32)
      return _mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(p)));
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(p));
    if constexpr (F == Format::f16) return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  }
  template <Format F>
  static V widen_partial(const std::byte* p, int n) {
    std::byte whole[32] = {};
    for (int i = 0; i < n * element_bytes(F); ++i) whole[i] = p[i];
    return widen<F>(whole);
  }
  // To nearest even; NaN becomes quiet.
  static void narrow_bf16(V v, uint16_t* to) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i result = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    const __m128i packed =
        _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i_u*>(to), packed);
  }

  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static V add(V a, V b) { return _mm256_add_ps(a, b); }
  static V sub(V a, V b) { return _mm256_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm256_mul_ps(a, b); }
  static V div(V a, V b) { return _mm256_div_ps(a, b); }
  static V max(V a, V b) { return _mm256_max_ps(a, b); }  // b if either is NaN
  static V min(V a, V b) { return _mm256_min_ps(a, b); }
  static V round(V v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static V power_of_two(V n) {  // n integral in [-126, 127]
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  }
  static V zero_where_less(V v, V x, V limit) {
    return _mm256_blendv_ps(v, zero(), _mm256_cmp_ps(x, limit, _CMP_LT_OQ));
  }
  // v in the lanes l with first <= origin + l < last, `other` elsewhere.
  static V select_range(V v, int origin, int first, int last, V other) {
    const __m256i inside = _mm256_andnot_si256(first_lanes(first - origin), first_lanes(last - origin));
    return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(inside));
  }

  static float sum(V v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
  }
  // sum() of four vectors, with the same additions in each.
  static void sum4(const V* v, float* sums) {
    const auto fold = [](V a, V b) {  // the halves of a and b added: [a, b], 4 lanes each
      return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    };
    const V ab = fold(v[0], v[1]), cd = fold(v[2], v[3]);
    // In each half, lanes (0 + 2, 1 + 3) of both: [a a c c], [b b d d].
    const V two = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    const V one = _mm256_add_ps(two, _mm256_movehdup_ps(two));  // a . c . | b . d .
    const __m128 ac = _mm256_castps256_ps128(one), bd = _mm256_extractf128_ps(one, 1);
    _mm_storeu_ps(sums, _mm_unpacklo_ps(_mm_shuffle_ps(ac, ac, 0x08), _mm_shuffle_ps(bd, bd, 0x08)));
  }
  static float largest(V v) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
  }
};

}  // namespace

const Kernels& avx2_kernels() {
  static constexpr Kernels table = vector_kernels<Avx2>();
  return table;
}

}  // namespace qwen::cpu
