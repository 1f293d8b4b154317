// Matrix products with tiles: see tile_kernels.h.
#pragma once

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
inline void copy_tile(const TileLinearTask& task, int64_t output, int64_t begin, std::byte* tile) {
  const int64_t outputs = at_most(kTileRows, task.outputs - output),
                inputs = at_most(kTileInputs, task.k - begin);
  const __mmask32 mask = inputs >= 32 ? 0xffffffffu : (1u << inputs) - 1;
  const std::byte* const from = task.weight + output * task.weight_stride + begin * 2;
  for (int64_t r = 0; r < kTileRows; ++r) {
    const __m512i line =
        r < outputs ? _mm512_maskz_loadu_epi16(mask, from + r * task.weight_stride) : _mm512_setzero_si512();
    _mm512_store_si512(tile + r * 64, line);
  }
}

// 16 outputs of up to 16 * Groups rows, the weights read once and where they lie.
template <int Groups>
inline void few_rows(const TileLinearTask& task, int64_t output) {
  const int64_t columns = packed_columns(task.rows), tile_bytes = columns * 64, line = columns * 4;
  const int64_t chunks = packed_chunks(task.k), whole = task.k / kTileInputs;
  const bool all_rows = task.outputs - output >= kTileRows;
  const std::byte* const weight = task.weight + output * task.weight_stride;
  clear<0>();
  if constexpr (Groups > 1) clear<1>();
  if constexpr (Groups > 2) clear<2>();
  if constexpr (Groups > 3) clear<3>();
  const std::byte* x = task.x;
  for (int64_t chunk = 0; chunk < chunks; ++chunk, x += tile_bytes) {
    if (all_rows && chunk < whole) {
      load<4>(weight + chunk * 64, task.weight_stride);
    } else {
      copy_tile(task, output, chunk * kTileInputs, task.scratch);
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
  alignas(64) float sums[Groups][kTileRows * kTileRows];
  store<0>(sums[0], 64);
  if constexpr (Groups > 1) store<1>(sums[1], 64);
  if constexpr (Groups > 2) store<2>(sums[2], 64);
  if constexpr (Groups > 3) store<3>(sums[3], 64);
  for (int64_t g = 0; g < Groups; ++g)
    write(task, sums[g], g * kTileRows, at_most(kTileRows, task.rows - g * kTileRows), output,
          at_most(kTileRows, task.outputs - output));
}

// Weight tiles x, x + 1 KiB (M of them) times N groups of activations over some chunks, added to sums[M][N].
template <int M, int N>
inline void block(const std::byte* weight, const std::byte* x, int64_t x_group, int64_t chunks, bool resume,
                  float* sums) {
  constexpr int64_t kSums = kTileRows * kTileRows;
  const auto each = [&](auto run) __attribute__((always_inline)) {
    run.template operator()<0>(sums);
    if constexpr (N > 1) run.template operator()<1>(sums + kSums);
    if constexpr (M > 1) run.template operator()<2>(sums + 2 * kSums);
    if constexpr (M > 1 && N > 1) run.template operator()<3>(sums + 3 * kSums);
  };
  if (resume) {
    each([]<int T>(float* at) __attribute__((always_inline)) { load<T>(at, 64); });
  } else {
    each([]<int T>(float*) __attribute__((always_inline)) { clear<T>(); });
  }
  for (int64_t chunk = 0; chunk < chunks; ++chunk, weight += M * kTileBytes, x += kTileBytes) {
    load<4>(weight, 64);
    load<6>(x, 64);
    multiply<0, 4, 6>();
    if constexpr (N > 1) {
      load<7>(x + x_group, 64);
      multiply<1, 4, 7>();
    }
    if constexpr (M > 1) {
      load<5>(weight + kTileBytes, 64);
      multiply<2, 5, 6>();
    }
    if constexpr (M > 1 && N > 1) multiply<3, 5, 7>();
  }
  each([]<int T>(float* at) __attribute__((always_inline)) { store<T>(at, 64); });
}

// The panel's inputs [first_chunk, last_chunk) as tiles, two blocks of 16 outputs side by side: [pair][chunk][2].
inline void copy_slice(const TileLinearTask& task, int64_t first_chunk, int64_t last_chunk, std::byte* to) {
  const int64_t chunks = last_chunk - first_chunk;
  for (int64_t output = 0; output < task.outputs; output += 2 * kTileRows) {
    const int64_t tiles = task.outputs - output > kTileRows ? 2 : 1;
    for (int64_t t = 0; t < tiles; ++t)
      for (int64_t chunk = 0; chunk < chunks; ++chunk)
        copy_tile(task, output + t * kTileRows, (first_chunk + chunk) * kTileInputs,
                  to + (chunk * tiles + t) * kTileBytes);
    to += tiles * chunks * kTileBytes;
  }
}

// Rows [row, row + rows), all outputs.
inline void many_rows(const TileLinearTask& task, int64_t row, int64_t rows) {
  const int64_t chunks = packed_chunks(task.k), x_group = chunks * kTileBytes;
  const int64_t groups = (rows + kTileRows - 1) / kTileRows,
                tiles = (task.outputs + kTileRows - 1) / kTileRows;
  constexpr int64_t kSliceChunks = kTileSlice / kTileInputs;
  std::byte* const panel = task.scratch;
  auto* const all_sums = reinterpret_cast<float*>(task.scratch + tiles * kSliceChunks * kTileBytes);
  for (int64_t first = 0; first < chunks; first += kSliceChunks) {
    const int64_t last = at_most(first + kSliceChunks, chunks);
    copy_slice(task, first, last, panel);
    float* sums = all_sums;
    for (int64_t g = 0; g < groups; g += 2) {
      const std::byte* const x = task.x + (row / kTileRows + g) * x_group + first * kTileBytes;
      const std::byte* weight = panel;
      for (int64_t t = 0; t < tiles; t += 2) {
        const int64_t m = at_most(2, tiles - t), n = at_most(2, groups - g);
        if (m == 2 && n == 2) {
          block<2, 2>(weight, x, x_group, last - first, first > 0, sums);
        } else if (m == 2) {
          block<2, 1>(weight, x, x_group, last - first, first > 0, sums);
        } else if (n == 2) {
          block<1, 2>(weight, x, x_group, last - first, first > 0, sums);
        } else {
          block<1, 1>(weight, x, x_group, last - first, first > 0, sums);
        }
        if (last == chunks) {
          for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < n; ++j)
              write(task, sums + (2 * i + j) * kTileRows * kTileRows, row + (g + j) * kTileRows,
                    at_most(kTileRows, rows - (g + j) * kTileRows), (t + i) * kTileRows,
                    at_most(kTileRows, task.outputs - (t + i) * kTileRows));
        }
        weight += m * (last - first) * kTileBytes;
        sums += 4 * kTileRows * kTileRows;
      }
    }
  }
}

void tile_linear(const TileLinearTask& task) {
  configure(config_for(packed_columns(task.rows)));
  if (task.rows <= kFewTileRows) {
    for (int64_t output = 0; output < task.outputs; output += kTileRows) {
      if (task.rows <= 16) {
        few_rows<1>(task, output);
      } else if (task.rows <= 32) {
        few_rows<2>(task, output);
      } else if (task.rows <= 48) {
        few_rows<3>(task, output);
      } else {
        few_rows<4>(task, output);
      }
    }
  } else {
    for (int64_t row = 0; row < task.rows; row += kTileRowsAtOnce)
      many_rows(task, row, at_most(kTileRowsAtOnce, task.rows - row));
  }
  release_tiles();
}

}  // namespace
}  // namespace qwen::cpu
