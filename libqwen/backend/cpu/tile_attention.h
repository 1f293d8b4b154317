// Attention with tiles: see tile_kernels.h. Queries (rows x heads) are columns, in groups of 16.
#pragma once

#include "backend/cpu/generic_kernels.h"
#include "backend/cpu/simd_avx512.h"
#include "backend/cpu/tile_instructions.h"

namespace qwen::cpu {
namespace {

// What a group's columns see. Lane l of a vector of scores holds column l % columns, l / columns positions behind the first.
struct Columns {
  __m512 maximum;        // of the scores so far, in units of the exponent: times scale, times log2(e)
  __m512i last, before;  // a vector that begins at position p: lanes with before < p <= last are seen
};

// A task's scratch, and what all its groups share. Scores lie [position of the span][columns]: with fewer than 16 columns a
// vector holds those of several positions, which changes no bit, as only products add over positions.
struct TileAttention {
  const AttentionTask& task;
  int64_t queries, groups, columns;
  int64_t query_tiles, value_tiles;
  std::byte* packed;         // [group][query_tiles] tiles
  float* sums;               // [group][value_tiles + 1][16 dimensions][16 columns]; the last tile: of ones
  float* scores;             // [group][kSpan][columns]
  std::byte* probabilities;  // [group][kSpan / 32] tiles
  std::byte* last_values;    // a block's values, zeros where nothing is stored yet
  Columns* seen;             // [group]

  explicit TileAttention(const AttentionTask& t) : task(t) {
    queries = t.rows * t.query_heads;
    groups = (queries + kTileRows - 1) / kTileRows;
    columns = kTileRows;
    while (groups == 1 && columns / 2 >= queries) columns /= 2;
    query_tiles = packed_chunks(t.head_dim);
    value_tiles = padded_head_dim(t.head_dim) / kTileRows;
    packed = reinterpret_cast<std::byte*>(t.scratch);
    sums = reinterpret_cast<float*>(packed + groups * query_tiles * kTileBytes);
    scores = sums + groups * (value_tiles + 1) * 256;
    probabilities = reinterpret_cast<std::byte*>(scores + groups * kSpan * kTileRows);
    last_values = probabilities + groups * (kSpan / kTileInputs) * kTileBytes;
    seen = reinterpret_cast<Columns*>(last_values + value_tiles * kTileBytes);
  }

  float* group_sums(int64_t group) const { return sums + group * (value_tiles + 1) * 256; }
  float* group_scores(int64_t group) const { return scores + group * kSpan * kTileRows; }
  std::byte* group_probabilities(int64_t group) const {
    return probabilities + group * (kSpan / kTileInputs) * kTileBytes;
  }
};

inline Columns columns_of(const TileAttention& a, int64_t group) {
  alignas(64) int32_t last[16], before[16];
  for (int64_t lane = 0; lane < 16; ++lane) {
    const int64_t query = group * kTileRows + lane % a.columns, behind = lane / a.columns;
    const int64_t position = query < a.queries ? a.task.first_position + query / a.task.query_heads : -1;
    last[lane] = static_cast<int32_t>(position - behind);
    before[lane] = static_cast<int32_t>(a.task.window > 0 ? position - a.task.window - behind : -1 - behind);
  }
  return {_mm512_set1_ps(-__builtin_inff()), _mm512_load_si512(last), _mm512_load_si512(before)};
}

inline void pack_queries(const TileAttention& a) {
  for (int64_t group = 0; group < a.groups; ++group) {
    for (int64_t chunk = 0; chunk < a.query_tiles; ++chunk) {
      const int64_t begin = chunk * kTileInputs, inputs = at_most(kTileInputs, a.task.head_dim - begin);
      alignas(64) uint16_t lines[kTileRows][kTileInputs];
      for (int64_t i = 0; i < kTileRows; ++i) {
        const int64_t query = group * kTileRows + i;
        const bool real = query < a.queries;
        _mm512_store_si512(lines[i], real ? rounded(a.task.q + query_offset(a.task, query) + begin, inputs)
                                          : _mm512_setzero_si512());
      }
      pack_lines(lines, a.columns, a.packed + (group * a.query_tiles + chunk) * a.columns * 64);
    }
  }
}

// Scores of the queries of N groups with a block of keys.
template <int N>
inline void score_block(const TileAttention& a, const std::byte* keys, int64_t group, int64_t first_slot) {
  const int64_t width = tile_key_width(a.task.head_dim) * 2, line = a.columns * 4, tile = a.columns * 64;
  const std::byte* const queries = a.packed + group * a.query_tiles * tile;
  clear<0>();
  clear<2>();
  if constexpr (N > 1) clear<1>();
  if constexpr (N > 1) clear<3>();
  for (int64_t chunk = 0; chunk < a.query_tiles; ++chunk) {
    load<4>(keys + chunk * 64, width);
    load<6>(queries + chunk * tile, line);
    multiply<0, 4, 6>();
    load<5>(keys + kTileRows * width + chunk * 64, width);
    multiply<2, 5, 6>();
    if constexpr (N > 1) {
      load<7>(queries + (a.query_tiles + chunk) * tile, line);
      multiply<1, 4, 7>();
      multiply<3, 5, 7>();
    }
  }
  float* const to = a.group_scores(group) + first_slot * a.columns;
  store<0>(to, line);
  store<2>(to + kTileRows * a.columns, line);
  if constexpr (N > 1) {
    store<1>(to + kSpan * kTileRows, line);
    store<3>(to + kSpan * kTileRows + kTileRows * a.columns, line);
  }
}

// 2^x, for x up to 0: 2^round(x) and the Taylor series of the rest, whose error of 3e-6 is far below what rounding the result to
// bfloat16 loses.
inline __m512 exp2(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-200), x);  // 0 from there on, -inf included; a NaN stays one
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 rest = _mm512_sub_ps(x, whole);
  __m512 sum = _mm512_set1_ps(0.00133335581f);                                               // ln(2)^5 / 5!
  constexpr float kNext[] = {0.00961812911f, 0.0555041087f, 0.240226507f, 0.693147181f, 1};  // ln(2)^n / n!
  for (const float next : kNext) sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(next));
  return _mm512_scalef_ps(sum, whole);
}

// A group's scores of blocks [first_block, last_block) of the span become probabilities; its sums so far are brought to the
// new maximum. Masked: not every column sees all of these positions.
template <bool Masked>
void softmax_span(const TileAttention& a, int64_t group, int64_t origin, int64_t first_block,
                  int64_t last_block, __m512i interleave, Columns& columns) {
  const float* const scores = a.group_scores(group);
  const int64_t per_vector = 16 / a.columns, begin = first_block * kBlock, end = last_block * kBlock;
  const __m512 unit = _mm512_set1_ps(a.task.scale * 1.44269504f);
  const auto seen = [&](int64_t slot) __attribute__((always_inline)) {
    if constexpr (!Masked) return static_cast<__mmask16>(-1);
    const __m512i position = _mm512_set1_epi32(static_cast<int>(origin + slot));
    return static_cast<__mmask16>(_mm512_cmple_epi32_mask(position, columns.last) &
                                  _mm512_cmpgt_epi32_mask(position, columns.before));
  };
  const auto score = [&](int64_t slot) __attribute__((always_inline)) {
    return _mm512_load_ps(scores + slot * a.columns);
  };
  // Of four vectors by turns, so that none waits for the last; a block has as many. NaN is left to the exponentials.
  __m512 largest[4];
  for (__m512& one : largest) one = _mm512_set1_ps(-__builtin_inff());
  for (int64_t slot = begin; slot < end; slot += 4 * per_vector)
    for (int64_t i = 0; i < 4; ++i) {
      const int64_t at = slot + i * per_vector;
      if (at < end) largest[i] = _mm512_mask_max_ps(largest[i], seen(at), score(at), largest[i]);
    }
  const __m512 before = columns.maximum;
  __m512 now = _mm512_max_ps(_mm512_max_ps(largest[0], largest[1]), _mm512_max_ps(largest[2], largest[3]));
  now = _mm512_max_ps(_mm512_mul_ps(now, unit), before);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t distance = a.columns; distance < 16; distance *= 2) {
    const __m512i other = _mm512_xor_si512(lanes, _mm512_set1_epi32(static_cast<int>(distance)));
    now = _mm512_max_ps(now, _mm512_permutexvar_ps(other, now));
  }
  columns.maximum = now;
  const __mmask16 moved = _mm512_cmp_ps_mask(before, now, _CMP_NEQ_UQ);
  if (moved != 0) {
    const __m512 factor = _mm512_mask_mov_ps(_mm512_set1_ps(1), moved, exp2(_mm512_sub_ps(before, now)));
    float* const sums = a.group_sums(group);
    for (int64_t i = 0; i < (a.value_tiles + 1) * 256; i += 16)
      _mm512_store_ps(sums + i, _mm512_mul_ps(_mm512_load_ps(sums + i), factor));
  }
  std::byte* to = a.group_probabilities(group) + first_block * a.columns * 64;
  const auto probability = [&](int64_t slot) __attribute__((always_inline)) {
    return _mm512_maskz_mov_ps(seen(slot), exp2(_mm512_fmsub_ps(score(slot), unit, now)));
  };
  for (int64_t slot = begin; slot < end; slot += 2 * per_vector, to += 64) {
    const auto both = _mm512_cvtne2ps_pbh(probability(slot + per_vector), probability(slot));
    _mm512_store_si512(to, _mm512_permutexvar_epi16(interleave, reinterpret_cast<__m512i>(both)));
  }
}

// sums += tiles of values (M of them, side by side) x probabilities of N groups. values[b]: of the span's block b.
template <int M, int N>
inline void value_block(const TileAttention& a, const std::byte* const* values, int64_t tile, int64_t group,
                        int64_t first_block, int64_t last_block) {
  const int64_t line = a.columns * 4, p_tile = a.columns * 64;
  const int64_t next_group = (a.value_tiles + 1) * 256;
  float* const sums = a.group_sums(group) + tile * 256;
  const std::byte* const p = a.group_probabilities(group);
  load<0>(sums, 64);
  if constexpr (N > 1) load<1>(sums + next_group, 64);
  if constexpr (M > 1) load<2>(sums + 256, 64);
  if constexpr (M > 1 && N > 1) load<3>(sums + next_group + 256, 64);
  for (int64_t b = first_block; b < last_block; ++b) {
    load<4>(values[b] + tile * kTileBytes, 64);
    load<6>(p + b * p_tile, line);
    multiply<0, 4, 6>();
    if constexpr (N > 1) {
      load<7>(p + kSpan / kTileInputs * kTileBytes + b * p_tile, line);
      multiply<1, 4, 7>();
    }
    if constexpr (M > 1) {
      load<5>(values[b] + (tile + 1) * kTileBytes, 64);
      multiply<2, 5, 6>();
    }
    if constexpr (M > 1 && N > 1) multiply<3, 5, 7>();
  }
  store<0>(sums, 64);
  if constexpr (N > 1) store<1>(sums + next_group, 64);
  if constexpr (M > 1) store<2>(sums + 256, 64);
  if constexpr (M > 1 && N > 1) store<3>(sums + next_group + 256, 64);
}

template <int N>
inline void value_span(const TileAttention& a, const std::byte* const* values, const std::byte* const* ones,
                       int64_t group, int64_t first_block, int64_t last_block) {
  int64_t tile = 0;
  for (; tile + 2 <= a.value_tiles; tile += 2)
    value_block<2, N>(a, values, tile, group, first_block, last_block);
  if (tile < a.value_tiles) value_block<1, N>(a, values, tile, group, first_block, last_block);
  value_block<1, N>(a, ones, a.value_tiles, group, first_block, last_block);
}

// A group's results, rounded, go where the packed rows want them: of two dimensions, the columns of one head are neighbours there,
// from one row to the next.
inline void write_pairs(const TileAttention& a, int64_t group, __m512i interleave) {
  const AttentionTask& task = a.task;
  const int64_t first = group * kTileRows, count = at_most(a.columns, a.queries - first);
  const int64_t step = task.packed.columns * 4;
  for (int64_t head = 0; head < at_most(task.query_heads, count); ++head) {
    __mmask16 left = 0;  // columns of the same head as column `head`
    for (int64_t i = head; i < count; i += task.query_heads) left |= static_cast<__mmask16>(1 << i);
    const int64_t input = task.packed_input + (first + head) % task.query_heads * task.head_dim;
    int64_t row = task.packed_row + (first + head) / task.query_heads;
    while (left != 0) {  // twice, where the rows belong to two groups of 16
      const int64_t rows = at_most(__builtin_popcount(left), kTileRows - row % kTileRows);
      const auto columns = static_cast<__mmask16>(_pdep_u32((1u << rows) - 1, left));
      const float* sums = a.group_sums(group);
      std::byte* to = task.packed.at(row, input);
      for (int64_t d = 0; d < task.head_dim; d += 2, sums += 32, to += step) {
        const auto both = _mm512_cvtne2ps_pbh(_mm512_load_ps(sums + 16), _mm512_load_ps(sums));
        const __m512i pairs = _mm512_permutexvar_epi16(interleave, reinterpret_cast<__m512i>(both));
        _mm512_mask_storeu_epi32(to, first_lanes(rows), _mm512_maskz_compress_epi32(columns, pairs));
      }
      left &= static_cast<__mmask16>(~columns);
      row += rows;
    }
  }
}

inline void write_queries(const TileAttention& a, int64_t group) {
  float* const sums = a.group_sums(group);
  const __m512 share = _mm512_div_ps(_mm512_set1_ps(1), _mm512_load_ps(sums + a.value_tiles * 256));
  for (int64_t i = 0; i < a.value_tiles * 256; i += 16)
    _mm512_store_ps(sums + i, _mm512_mul_ps(_mm512_load_ps(sums + i), share));
  if (a.task.packed.data != nullptr) return write_pairs(a, group, pair_order(16));
  for (int64_t tile = 0; tile < a.value_tiles; ++tile) {
    const __mmask16 mask = first_lanes(at_most(kTileRows, a.task.head_dim - tile * kTileRows));
    transpose(
        sums + tile * 256, 64, [&](int i, __m512 values) __attribute__((always_inline)) {
          const int64_t query = group * kTileRows + i;
          if (i >= a.columns || query >= a.queries) return;
          _mm512_mask_storeu_ps(a.task.out + query_offset(a.task, query) + tile * kTileRows, mask, values);
        });
  }
}

void tile_attention(const AttentionTask& task) {
  const TileAttention a(task);
  constexpr int64_t kSpanBlocks = kSpan / kBlock;
  for (int64_t g = 0; g < a.groups; ++g) a.seen[g] = columns_of(a, g);
  for (int64_t i = 0; i < a.groups * (a.value_tiles + 1) * 256; i += 16)
    _mm512_store_ps(a.sums + i, _mm512_setzero_ps());
  pack_queries(a);
  const __m512i interleave = pair_order(a.columns);
  alignas(64) uint16_t one_tile[kTileRows * kTileInputs];
  for (uint16_t& one : one_tile) one = 0x3f80;
  const std::byte* ones[kSpanBlocks];
  for (const std::byte*& tile : ones)
    tile = reinterpret_cast<const std::byte*>(one_tile) - a.value_tiles * kTileBytes;

  configure(config_for(a.columns));
  const int64_t last_position = task.first_position + task.rows - 1;
  const int64_t first_seen = task.window > 0 ? at_least(task.first_position - task.window + 1, 0) : 0;
  for (int64_t origin = first_seen / kSpan * kSpan; origin <= last_position; origin += kSpan) {
    const int64_t first_block = at_least(first_seen - origin, 0) / kBlock;
    const int64_t last_block = at_most(kSpanBlocks, (last_position - origin) / kBlock + 1);
    const std::byte* values[kSpanBlocks];
    for (int64_t b = first_block; b < last_block; ++b) {
      const int64_t block = task.block_table[origin / kBlock + b];
      const std::byte* const keys = task.keys + block * task.key_block_bytes;
      values[b] = task.values + block * task.value_block_bytes;
      int64_t g = 0;
      for (; g + 2 <= a.groups; g += 2) score_block<2>(a, keys, g, b * kBlock);
      if (g < a.groups) score_block<1>(a, keys, g, b * kBlock);
    }
    // What lies behind the last position is nobody's yet: it may be NaN, which times 0 is not 0.
    const int64_t stored = last_position + 1 - (origin + (last_block - 1) * kBlock);
    if (stored < kBlock) {
      const __mmask32 mask = (__mmask32{1} << stored) - 1;
      for (int64_t d = 0; d < a.value_tiles * kTileRows; ++d)
        _mm512_store_si512(a.last_values + d * 64,
                           _mm512_maskz_loadu_epi16(mask, values[last_block - 1] + d * 64));
      values[last_block - 1] = a.last_values;
    }
    for (int64_t g = 0; g < a.groups; ++g) {
      const auto position = [&](int64_t block) {
        return _mm512_set1_epi32(static_cast<int>(origin + block * kBlock));
      };
      const bool all_seen = _mm512_cmple_epi32_mask(position(last_block), a.seen[g].last) == 0xffff &&
                            _mm512_cmpgt_epi32_mask(position(first_block), a.seen[g].before) == 0xffff;
      (all_seen ? softmax_span<false> : softmax_span<true>)(a, g, origin, first_block, last_block, interleave,
                                                            a.seen[g]);
    }
    int64_t g = 0;
    for (; g + 2 <= a.groups; g += 2) value_span<2>(a, values, ones, g, first_block, last_block);
    if (g < a.groups) value_span<1>(a, values, ones, g, first_block, last_block);
  }
  release_tiles();
  for (int64_t g = 0; g < a.groups; ++g) write_queries(a, g);
}

}  // namespace
}  // namespace qwen::cpu
