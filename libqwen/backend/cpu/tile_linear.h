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
  const std::byte* x = task.x;
  for (int64_t chunk = 0; chunk < chunks; ++chunk, x += tile_bytes) {
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
    for (int64_t g = 0; g < Groups; ++g)
      write(task, sums + g * kSums, g * kTileRows, at_most(kTileRows, task.rows - g * kTileRows), output,
            at_most(kTileRows, task.outputs - output));
  }
}

// The activations of the next rows: on their way to L2 while those of these rows are multiplied, some lines with every chunk.
struct Ahead {
  const std::byte* group = nullptr;
  int64_t stride = 0;  // to the next group
  int64_t lines = 0;   // of a group
  int64_t per_chunk = 0;
  int64_t line = 0;

  void ask() {
    for (int64_t i = 0; i < per_chunk; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(group + line * 64), _MM_HINT_T1);
      if (++line == lines) {
        line = 0;
        group += stride;
      }
    }
  }
};

// sums[m][n] of M weight tiles, side by side, and N groups of activations over some chunks. Six sums take more products per tile
// read from L2 than four would, and leave a register for either side: activations are gone through forth and back, so that the
// last one is the first of the next weights (alone, in a loop: 4.1 against 3.4 TFLOP/s on two cores, 512 rows of 1024 inputs; in an engine memory hides most of it).
template <int M, int N>
void block(const std::byte* weight, const std::byte* x, int64_t x_group, int64_t chunks, bool resume,
           Ahead& next, float* sums) {
  const auto each = [&](auto run) __attribute__((always_inline)) {
    run.template operator()<0>(sums);
    if constexpr (N > 1) run.template operator()<1>(sums + kSums);
    if constexpr (N > 2) run.template operator()<2>(sums + 2 * kSums);
    if constexpr (M > 1) run.template operator()<3>(sums + 3 * kSums);
    if constexpr (M > 1 && N > 1) run.template operator()<4>(sums + 4 * kSums);
    if constexpr (M > 1 && N > 2) run.template operator()<5>(sums + 5 * kSums);
  };
  if (resume) {
    each([]<int T>(float* at) __attribute__((always_inline)) { load<T>(at, 64); });
  } else {
    each([]<int T>(float*) __attribute__((always_inline)) { clear<T>(); });
  }
  for (int64_t chunk = 0; chunk < chunks; ++chunk, weight += M * kTileBytes, x += kTileBytes) {
    next.ask();
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

// Inputs [first_chunk * 32, last_chunk * 32) of 16 outputs as tiles, `step` bytes from one to the next.
inline void copy_tiles(const TileLinearTask& task, const std::byte* matrix, int64_t output,
                       int64_t first_chunk, int64_t last_chunk, std::byte* to, int64_t step) {
  const int64_t whole =
      task.outputs - output < kTileRows ? first_chunk : at_most(last_chunk, task.k / kTileInputs);
  for (int64_t r = 0; r < kTileRows && whole > first_chunk;
       ++r) {  // row by row, as the hardware's prefetcher likes it
    const std::byte* from = matrix + (output + r) * task.weight_stride;
    for (int64_t chunk = first_chunk; chunk < whole; ++chunk)
      _mm512_store_si512(to + (chunk - first_chunk) * step + r * 64, _mm512_loadu_si512(from + chunk * 64));
  }
  for (int64_t chunk = whole; chunk < last_chunk; ++chunk)
    copy_tile(task, matrix, output, chunk * kTileInputs, to + (chunk - first_chunk) * step);
}

// A slice of the panel, two tiles side by side: [pair][chunk][2]. A pair are 16 outputs and the next 16; or with `up` the same
// 16 outputs of both matrices.
inline void copy_slice(const TileLinearTask& task, int64_t first_chunk, int64_t last_chunk, std::byte* to) {
  const bool gated = task.up != nullptr;
  for (int64_t output = 0; output < task.outputs; output += gated ? kTileRows : 2 * kTileRows) {
    const int64_t tiles = gated || task.outputs - output > kTileRows ? 2 : 1;
    copy_tiles(task, task.weight, output, first_chunk, last_chunk, to, tiles * kTileBytes);
    if (tiles == 2)
      copy_tiles(task, gated ? task.up : task.weight, gated ? output : output + kTileRows, first_chunk,
                 last_chunk, to + kTileBytes, tiles * kTileBytes);
    to += tiles * (last_chunk - first_chunk) * kTileBytes;
  }
}

// Rows [row, row + rows), all outputs.
inline void many_rows(const TileLinearTask& task, int64_t row, int64_t rows) {
  const int64_t chunks = packed_chunks(task.k), x_group = chunks * kTileBytes;
  const int64_t groups = (rows + kTileRows - 1) / kTileRows,
                tiles = (task.outputs + kTileRows - 1) / kTileRows * (task.up != nullptr ? 2 : 1);
  constexpr int64_t kSliceChunks = kTileSlice / kTileInputs;
  std::byte* const panel = task.scratch;
  auto* const all_sums = reinterpret_cast<float*>(task.scratch + tiles * kSliceChunks * kTileBytes);
  for (int64_t first = 0; first < chunks; first += kSliceChunks) {
    const int64_t last = at_most(first + kSliceChunks, chunks);
    copy_slice(task, first, last, panel);
    float* sums = all_sums;
    for (int64_t g = 0; g < groups; g += 3) {
      const std::byte* const x = task.x + (row / kTileRows + g) * x_group + first * kTileBytes;
      const int64_t next_lines = at_most(3, groups - g - 3) * kTileBytes / 64;  // per chunk of the slice
      Ahead next{.group = x + 3 * x_group,
                 .stride = x_group,
                 .lines = (last - first) * kTileBytes / 64,
                 .per_chunk = (at_least(next_lines, 0) + (tiles + 1) / 2 - 1) / ((tiles + 1) / 2)};
      const std::byte* weight = panel;
      for (int64_t t = 0; t < tiles; t += 2) {
        const int64_t m = at_most(2, tiles - t), n = at_most(3, groups - g);
        constexpr decltype(&block<1, 1>) kBlocks[] = {block<1, 1>, block<1, 2>, block<1, 3>,
                                                      block<2, 1>, block<2, 2>, block<2, 3>};
        kBlocks[3 * (m - 1) + n - 1](weight, x, x_group, last - first, first > 0, next, sums);
        if (last == chunks) {
          if (task.up != nullptr) gate(sums, sums + 3 * kSums, n * kSums);
          for (int64_t i = 0; i < (task.up != nullptr ? 1 : m); ++i) {
            const int64_t output = task.up != nullptr ? t / 2 * kTileRows : (t + i) * kTileRows;
            for (int64_t j = 0; j < n; ++j)
              write(task, sums + (3 * i + j) * kSums, row + (g + j) * kTileRows,
                    at_most(kTileRows, rows - (g + j) * kTileRows), output,
                    at_most(kTileRows, task.outputs - output));
          }
        }
        weight += m * (last - first) * kTileBytes;
        if (chunks > kSliceChunks) sums += 6 * kSums;  // to be resumed
      }
    }
  }
}

void tile_linear(const TileLinearTask& task) {
  configure(config_for(packed_columns(task.rows)));
  if (task.rows <= kFewTileRows) {
    constexpr decltype(&few_rows<1>) kFew[] = {few_rows<1>, few_rows<2>, few_rows<3>, few_rows<4>};
    kFew[(task.rows - 1) / kTileRows](task);
  } else {
    for (int64_t row = 0; row < task.rows; row += kTileRowsAtOnce)
      many_rows(task, row, at_most(kTileRowsAtOnce, task.rows - row));
  }
  release_tiles();
}

}  // namespace
}  // namespace qwen::cpu
