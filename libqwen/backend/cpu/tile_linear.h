// Matrix products with tiles: see tile_kernels.h.
#pragma once

#include "backend/cpu/simd_avx512.h"
#include "backend/cpu/tile_instructions.h"

namespace qwen::cpu {
namespace {

void tile_pack(const TilePackTask& task) {
  for (int64_t chunk = task.first_chunk; chunk < task.last_chunk; ++chunk) {
    const int64_t begin = chunk * kTileInputs, inputs = at_most(kTileInputs, task.k - begin);
    alignas(64) uint16_t lines[kTileRows][kTileInputs];
    for (int64_t r = 0; r < task.rows; ++r)
      _mm512_store_si512(lines[r], rounded(task.x + r * task.x_stride + begin, inputs));
    for (int64_t r = task.rows; r < kTileRows; ++r) _mm512_store_si512(lines[r], _mm512_setzero_si512());
    std::byte* const tile = task.to + chunk * task.columns * 64;
    pack_lines(lines, task.columns, tile);
  }
}

constexpr int64_t kSums = kTileRows * kTileRows;  // in a tile

// sums [16 outputs][16 rows] to rows [row, row + rows) x outputs [output, output + outputs).
inline void write(const TileLinearTask& task, const float* sums, int64_t row, int64_t rows, int64_t output,
                  int64_t outputs) {
  const __mmask16 mask = first_lanes(outputs);
  const __m512 bias =
      task.bias != nullptr ? _mm512_maskz_loadu_ps(mask, task.bias + output) : _mm512_setzero_ps();
  float* const out = task.out + row * task.out_stride + output;
  transpose(
      sums, 64, [&](int r, __m512 value) __attribute__((always_inline)) {
        if (r >= rows) return;
        float* const to = out + r * task.out_stride;
        if (task.bias != nullptr) value = _mm512_add_ps(value, bias);
        if (task.accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), value);
        _mm512_mask_storeu_ps(to, mask, value);
      });
}

// sums [16 outputs][up to 16 rows] as inputs of what comes next: rounded, in pairs.
inline void write_packed(const TileLinearTask& task, const float* sums, int64_t row, int64_t output) {
  const __mmask16 mask = first_lanes(task.packed.columns);
  const __m512i interleave = pair_order(16);
  std::byte* to = task.packed.at(row, task.packed_input + output);
  for (int64_t pair = 0; pair < kTileRows / 2; ++pair, sums += 32, to += task.packed.columns * 4) {
    const auto both = _mm512_cvtne2ps_pbh(_mm512_load_ps(sums + 16), _mm512_load_ps(sums));
    const __m512i pairs = _mm512_permutexvar_epi16(interleave, reinterpret_cast<__m512i>(both));
    _mm512_mask_storeu_epi32(to, mask, pairs);
  }
}

inline void write_out(const TileLinearTask& task, const float* sums, int64_t row, int64_t output) {
  if (task.packed.data != nullptr) return write_packed(task, sums, row, output);
  write(task, sums, row, at_most(kTileRows, task.rows - row), output,
        at_most(kTileRows, task.outputs - output));
}

// Inputs [begin, begin + 32) of 16 outputs as a tile; zeros beyond the matrix.
inline void copy_tile(const TileLinearTask& task, const std::byte* matrix, int64_t output, int64_t begin,
                      std::byte* tile) {
  const int64_t outputs = at_most(kTileRows, task.outputs - output),
                inputs = at_most(kTileInputs, task.k - begin);
  const __mmask32 mask = inputs >= 32 ? 0xffffffffu : (1u << inputs) - 1;
  const std::byte* const from = matrix + output * task.weight_stride + begin * 2;
  for (int64_t r = 0; r < kTileRows; ++r) {
    const __m512i line =
        r < outputs ? _mm512_maskz_loadu_epi16(mask, from + r * task.weight_stride) : _mm512_setzero_si512();
    _mm512_store_si512(tile + r * 64, line);
  }
}

// sums = silu(sums) * up, as the kernel silu_mul has it.
inline void gate(float* sums, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    const __m512 g = _mm512_load_ps(sums + i);
    const __m512 silu = _mm512_div_ps(g, sigmoid_denominator<Avx512>(g));
    _mm512_store_ps(sums + i, _mm512_mul_ps(silu, _mm512_load_ps(up + i)));
  }
}

// Storing a tile after a microsecond in which none was stored takes 0.3 us longer (measured; not documented): so something is
// stored now and then.
constexpr int64_t kStoreEvery = 8;  // chunks

// Sums of 16 outputs of up to 16 * Groups rows, the weights read once and where they lie.
template <int Groups>
inline void few_sums(const TileLinearTask& task, const std::byte* matrix, int64_t output, float* sums) {
  const int64_t columns = packed_columns(task.rows), tile_bytes = columns * 64, line = columns * 4;
  const int64_t chunks = packed_chunks(task.k), whole = task.k / kTileInputs;
  const bool all_rows = task.outputs - output >= kTileRows;
  const std::byte* const weight = matrix + output * task.weight_stride;
  clear<0>();
  if constexpr (Groups > 1) clear<1>();
  if constexpr (Groups > 2) clear<2>();
  if constexpr (Groups > 3) clear<3>();
  alignas(64) std::byte unread[kTileBytes];
  const std::byte* x = task.x;
  for (int64_t chunk = 0; chunk < chunks; ++chunk, x += tile_bytes) {
    if (chunk % kStoreEvery == kStoreEvery - 1) store<4>(unread, 64);
    if (all_rows && chunk < whole) {
      load<4>(weight + chunk * 64, task.weight_stride);
    } else {
      copy_tile(task, matrix, output, chunk * kTileInputs, task.scratch);
      load<4>(task.scratch, 64);
    }
    load<6>(x, line);
    multiply<0, 4, 6>();
    if constexpr (Groups > 1) {
      load<7>(x + chunks * tile_bytes, line);
      multiply<1, 4, 7>();
    }
    if constexpr (Groups > 2) {
      load<6>(x + 2 * chunks * tile_bytes, line);
      multiply<2, 4, 6>();
    }
    if constexpr (Groups > 3) {
      load<7>(x + 3 * chunks * tile_bytes, line);
      multiply<3, 4, 7>();
    }
  }
  store<0>(sums, 64);
  if constexpr (Groups > 1) store<1>(sums + kSums, 64);
  if constexpr (Groups > 2) store<2>(sums + 2 * kSums, 64);
  if constexpr (Groups > 3) store<3>(sums + 3 * kSums, 64);
}

template <int Groups>
void few_rows(const TileLinearTask& task) {
  alignas(64) float sums[Groups * kSums], up[Groups * kSums];
  for (int64_t output = 0; output < task.outputs; output += kTileRows) {
    few_sums<Groups>(task, task.weight, output, sums);
    if (task.up != nullptr) {
      few_sums<Groups>(task, task.up, output, up);
      gate(sums, up, Groups * kSums);
    }
    for (int64_t g = 0; g < Groups; ++g) write_out(task, sums + g * kSums, g * kTileRows, output);
  }
}

// The activations of the next rows: on their way to L2 while those of these rows are multiplied, some lines with every chunk.
struct Ahead {
  const std::byte* group = nullptr;
  int64_t step = 0;  // bytes from one group's to the next
  int64_t groups = 0;
  int64_t lines = 0;  // of a group
  int64_t per_chunk = 0;
  int64_t line = 0;

  void ask() {
    for (int64_t i = per_chunk; i > 0 && groups > 0; --i) {
      _mm_prefetch(reinterpret_cast<const char*>(group + line * 64), _MM_HINT_T1);
      if (++line < lines) continue;
      line = 0;
      group += step;
      --groups;
    }
  }
};

// sums[m][n] of M weight tiles, side by side, and N groups of activations over all chunks. Six sums take more products per tile
// read from L2 than four would, and leave a register for either side: activations are gone through forth and back, so that the
// last one is the first of the next weights. resume: what is there is added to.
template <int M, int N>
void block(const std::byte* weight, const std::byte* x, int64_t x_group, int64_t chunks, Ahead& next,
           bool resume, float* sums) {
  const auto each = [&](auto run) __attribute__((always_inline)) {
    run.template operator()<0>(sums);
    if constexpr (N > 1) run.template operator()<1>(sums + kSums);
    if constexpr (N > 2) run.template operator()<2>(sums + 2 * kSums);
    if constexpr (M > 1) run.template operator()<3>(sums + 3 * kSums);
    if constexpr (M > 1 && N > 1) run.template operator()<4>(sums + 4 * kSums);
    if constexpr (M > 1 && N > 2) run.template operator()<5>(sums + 5 * kSums);
  };
  alignas(64) std::byte unread[kTileBytes];
  if (resume)
    each([]<int T>(float* at) __attribute__((always_inline)) { load<T>(at, 64); });
  else
    each([]<int T>(float*) __attribute__((always_inline)) { clear<T>(); });
  for (int64_t chunk = 0; chunk < chunks; ++chunk, weight += M * kTileBytes, x += kTileBytes) {
    next.ask();
    if (chunk % kStoreEvery == kStoreEvery - 1) store<7>(unread, 64);
    load<6>(weight, 64);
    load<7>(x, 64);
    multiply<0, 6, 7>();
    if constexpr (N > 1) {
      load<7>(x + x_group, 64);
      multiply<1, 6, 7>();
    }
    if constexpr (N > 2) {
      load<7>(x + 2 * x_group, 64);
      multiply<2, 6, 7>();
    }
    if constexpr (M > 1) {
      load<6>(weight + kTileBytes, 64);
      multiply<3 + N - 1, 6, 7>();
    }
    if constexpr (M > 1 && N > 2) {
      load<7>(x + x_group, 64);
      multiply<4, 6, 7>();
    }
    if constexpr (M > 1 && N > 1) {
      load<7>(x, 64);
      multiply<3, 6, 7>();
    }
  }
  each([]<int T>(float* at) __attribute__((always_inline)) { store<T>(at, 64); });
}

// Some inputs of all outputs: a slice of the matrix.
struct Slice {
  int64_t first = 0;  // chunk
  int64_t chunks = 0;
};

// A slice of 16 outputs as tiles, `step` bytes from one to the next: written in order, as stores like it best.
inline void copy_tiles(const TileLinearTask& task, const std::byte* matrix, int64_t output, Slice slice,
                       std::byte* to, int64_t step) {
  constexpr int64_t kAtOnce = 4;
  int64_t chunk = slice.first;
  const int64_t last = slice.first + slice.chunks;
  if (task.outputs - output >= kTileRows) {
    for (; chunk + kAtOnce <= last && (chunk + kAtOnce) * kTileInputs <= task.k;
         chunk += kAtOnce, to += kAtOnce * step) {
      const std::byte* from = matrix + output * task.weight_stride + chunk * 64;
      for (int64_t r = 0; r < kTileRows; ++r, from += task.weight_stride)
#pragma GCC unroll 4
        for (int64_t i = 0; i < kAtOnce; ++i)
          _mm512_store_si512(to + i * step + r * 64, _mm512_loadu_si512(from + i * 64));
    }
  }
  for (; chunk < last; ++chunk, to += step) copy_tile(task, matrix, output, chunk * kTileInputs, to);
}

// The panel, two tiles side by side: [pair][chunk][2]. A pair are 16 outputs and the next 16; or with `up` the same 16 outputs of
// both matrices.
inline void copy_panel(const TileLinearTask& task, Slice slice, std::byte* to) {
  const bool gated = task.up != nullptr;
  for (int64_t output = 0; output < task.outputs; output += gated ? kTileRows : 2 * kTileRows) {
    const int64_t tiles = gated || task.outputs - output > kTileRows ? 2 : 1;
    copy_tiles(task, task.weight, output, slice, to, tiles * kTileBytes);
    if (tiles == 2)
      copy_tiles(task, gated ? task.up : task.weight, gated ? output : output + kTileRows, slice,
                 to + kTileBytes, tiles * kTileBytes);
    to += tiles * slice.chunks * kTileBytes;
  }
}

void many_rows(const TileLinearTask& task) {
  const bool gated = task.up != nullptr;
  const int64_t chunks = packed_chunks(task.k), slice_size = slice_chunks(task.k),
                x_group = chunks * kTileBytes;
  const int64_t groups = (task.rows + kTileRows - 1) / kTileRows,
                tiles = (task.outputs + kTileRows - 1) / kTileRows * (gated ? 2 : 1);
  std::byte* const panel = task.scratch;
  auto* const all_sums = reinterpret_cast<float*>(panel + tiles * slice_size * kTileBytes);
  for (Slice slice{0, slice_size}; slice.first < chunks; slice.first += slice_size) {
    slice.chunks = at_most(slice_size, chunks - slice.first);
    const bool last = slice.first + slice.chunks == chunks;
    copy_panel(task, slice, panel);
    for (int64_t g = 0; g < groups; g += 3) {
      const int64_t n = at_most(3, groups - g), asks = (tiles + 1) / 2 * slice.chunks;
      const std::byte* const x = task.x + g * x_group + slice.first * kTileBytes;
      Ahead next{.group = x + 3 * x_group,
                 .step = x_group,
                 .groups = at_least(at_most(3, groups - g - 3), 0),
                 .lines = slice.chunks * kTileBytes / 64};
      next.per_chunk = (next.groups * next.lines + asks - 1) / asks;
      // [pair][2][3]; of every three groups their own where they wait for the next slice.
      float* const sums = all_sums + (slice_size < chunks ? g / 3 : 0) * 3 * (tiles + 1) * kSums;
      const std::byte* weight = panel;
      for (int64_t t = 0; t < tiles; t += 2) {
        const int64_t m = at_most(2, tiles - t);
        constexpr decltype(&block<1, 1>) kBlocks[] = {block<1, 1>, block<1, 2>, block<1, 3>,
                                                      block<2, 1>, block<2, 2>, block<2, 3>};
        float* const own = sums + 3 * t * kSums;
        kBlocks[3 * (m - 1) + n - 1](weight, x, x_group, slice.chunks, next, slice.first > 0, own);
        if (gated && last) gate(own, own + 3 * kSums, n * kSums);
        weight += m * slice.chunks * kTileBytes;
      }
      if (!last) continue;
      for (int64_t j = 0; j < n; ++j)
        for (int64_t t = 0; t < tiles; t += gated ? 2 : 1)
          write_out(task, sums + (3 * t + j) * kSums, (g + j) * kTileRows, (gated ? t / 2 : t) * kTileRows);
    }
  }
}

void tile_linear(const TileLinearTask& task) {
  configure(config_for(packed_columns(task.rows)));
  if (task.rows <= kFewTileRows) {
    constexpr decltype(&few_rows<1>) kFew[] = {few_rows<1>, few_rows<2>, few_rows<3>, few_rows<4>};
    kFew[(task.rows - 1) / kTileRows](task);
  } else {
    many_rows(task);
  }
  release_tiles();
}

}  // namespace
}  // namespace qwen::cpu
