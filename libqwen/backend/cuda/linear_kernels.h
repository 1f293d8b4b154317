// The kernels of linear() and gated_linear(), and of experts (moe.cu). There is one order of summation, however many rows there are:
// the k inputs are cut into at most kSlices slices of slice_length(k); a slice is summed from its first input to its last, the
// slices' sums are added in their order.
//  - bfloat16: by mma, weights as the 16 rows of A, rows of x as the 8 columns of B, kSpan inputs after kSpan inputs. The order
//    inside one mma is the hardware's own, but the same in every row and column of it. Which of the kSpan inputs is which k of its
//    two mma is free as long as both operands agree: multiply() takes them so that the 8 neighbours which a lane of the quad needs
//    are 16 bytes of one row, in both operands.
//  - float32: one fused multiply-add after the other.
//
// What limits the kernels (of bytes in flight an H200 wants 23 kB per SM: 4.3 TB/s x 0.7 us / 132):
//  - few_rows: the reading of weights. A warp has 2 x kDepth loads of 512 bytes on the way, a block 8 warps. Rows of x come out of
//    L1 and L2, each by one warp of a block only, which from some 32 rows on is more than the weights' own bytes.
//  - many_rows: shared memory as much as mma.sync: a warp's 64 x 32 tile wants 6 kB of 128 B/clock for 32 products. Slices
//    cost a second set of accumulators, which is what keeps the warp's tile from being 64 x 64.
//  - fma_rows: for exactness. One row is near memory speed; many rows are bound by loads from L1.
#pragma once

#include <type_traits>

#include "backend/cuda/linear.h"
#include "backend/cuda/row_math.h"

namespace qwen::cuda {
namespace {  // of each of the two that include this

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
static_assert(kWarps == kSlices);
constexpr int kSpan = 32;  // inputs that a quad's four 16-byte loads cover
static_assert(slice_length(1) % kSpan == 0);

// What becomes of the 16 rows of A. whole: 16 outputs; half: 8, where a matrix is so small that more blocks are worth it; gated:
// of 8 outputs the gates, then the ups.
enum class Rows16 : uint8_t { whole, half, gated };

constexpr int kRowStride = 20;  // floats of 16 sums in shared memory: without bank conflicts

template <Rows16 kKind>
constexpr int kOutputsOf = kKind == Rows16::whole ? 16 : 8;

// Rows sorted by the expert that they go to. A member a of an expert is its work for one row: row a / of_x of x becomes row a of out.
struct Grouping {
  const int32_t* active = nullptr;   // [grid's z] an expert, -1: none
  const int32_t* counts = nullptr;   // [experts] members of each
  const int32_t* members = nullptr;  // [experts, capacity]
  int64_t capacity = 0;
  int of_x = 1;
  const void* const* weights = nullptr;  // [experts]
  const void* const* ups = nullptr;
};

struct Work {
  const void* x;
  int64_t rows, k;
  int64_t slice;  // slice_length(k)
  int slices;
  int count;
  LinearProjection projections[kMostProjections];
  const void* up;  // of the only projection, gated
  void* gated_out;
  Element out_element;
  Grouping grouping = {};
};

// What a block works on: all rows and one of the projections, or an expert's.
struct Target {
  LinearProjection p;
  const void* up;
  int64_t first_output;
  int64_t rows;
  const int32_t* members;
  int of_x;

  template <bool kGrouped>
  __device__ __forceinline__ int64_t out_row(int64_t row) const {
    return kGrouped ? members[row] : row;
  }
  template <bool kGrouped>
  __device__ __forceinline__ int64_t x_row(int64_t row) const {
    return kGrouped ? members[row] / of_x : row;
  }
};

// That of the tile of `size` outputs. Unrolled: parameters cannot be indexed. No rows: there is nothing to do.
template <bool kGrouped>
__device__ __forceinline__ Target target(const Work& work, int64_t tile, int size) {
  Target found = {work.projections[0], work.up, tile * size, work.rows, nullptr, 1};
  if constexpr (kGrouped) {
    const Grouping& grouping = work.grouping;
    const int expert = grouping.active[blockIdx.z];
    found.rows = expert < 0 ? 0 : grouping.counts[expert];
    if (found.rows == 0) return found;
    found.p.weight = grouping.weights[expert];
    if (grouping.ups != nullptr) found.up = grouping.ups[expert];
    found.members = grouping.members + expert * grouping.capacity;
    found.of_x = grouping.of_x;
  } else {
#pragma unroll
    for (int i = 1; i < kMostProjections; ++i) {
      const int64_t tiles = (found.p.outputs + size - 1) / size * size;
      if (i >= work.count || found.first_output < tiles) break;
      found.first_output -= tiles;
      found.p = work.projections[i];
    }
  }
  return found;
}

__device__ __forceinline__ void finish(const LinearProjection& p, int64_t row, int64_t output, float value) {
  if (p.bias != nullptr) value += p.bias[output];
  float& out = p.out[row * p.outputs + output];
  out = p.accumulate ? out + value : value;
}

__device__ __forceinline__ void finish_gated(const Work& work, int64_t row, int64_t output, float gate,
                                             float up) {
  store(work.gated_out, work.out_element, row * work.projections[0].outputs + output, silu_mul(gate, up));
}

// kSpan inputs of 16 weight rows (the lane's two: low and high) times the same of 8 rows of x (the lane's one).
__device__ __forceinline__ void multiply(float (&sum)[4], uint4 low, uint4 high, uint4 x) {
  mma_bf16(sum, {low.x, high.x, low.y, high.y}, {x.x, x.y});
  mma_bf16(sum, {low.z, high.z, low.w, high.w}, {x.z, x.w});
}

// 8 inputs of a row; kWhole: all of them before `end`, else zeros stand for those behind it.
template <bool kAligned, bool kWeights, bool kWhole>
__device__ __forceinline__ uint4 inputs(const uint16_t* row, int at, int end) {
  if constexpr (kAligned) {
    if (!kWhole && at >= end) return make_uint4(0, 0, 0, 0);
    const uint4* const from = reinterpret_cast<const uint4*>(row + at);
    return kWeights ? load_weight(from) : *from;
  } else {
    const auto pair = [&](int i) {
      const uint32_t first = at + i < end ? row[at + i] : 0, second = at + i + 1 < end ? row[at + i + 1] : 0;
      return first | second << 16;
    };
    return make_uint4(pair(0), pair(2), pair(4), pair(6));
  }
}

// A block: one tile of outputs, up to 8 * kRowTiles rows; each warp a slice of k. Rows and outputs too many are the last one again,
// and are not written.
template <Rows16 kKind, int kRowTiles, bool kAligned, bool kGrouped>
__global__ void __launch_bounds__(kThreads, kAligned ? 2 : 1) few_rows(Work work) {
  let_dependents_begin();
  if constexpr (kGrouped) await_predecessors();  // which weights these are, launches before have written
  constexpr int kDepth = kRowTiles == 1 ? 4 : kRowTiles == 2 ? 2 : 1;  // spans per turn, a turn ahead
  const int lane = static_cast<int>(threadIdx.x % kWarp), warp = static_cast<int>(threadIdx.x / kWarp);
  const int quad = lane / 4, place = lane % 4;
  const Target on = target<kGrouped>(work, blockIdx.x, kOutputsOf<kKind>);
  const LinearProjection& p = on.p;
  const int64_t first_output = on.first_output, first_row = int64_t{blockIdx.y} * (8 * kRowTiles);
  if (kGrouped && first_row >= on.rows) return;  // the whole block

  // Each row from the lane's first input on; in a row 32 bits count. With more the loop were mostly arithmetic of addresses.
  const auto weight_row = [&](const void* matrix, int64_t output) {
    return static_cast<const uint16_t*>(matrix) + (output < p.outputs ? output : p.outputs - 1) * work.k +
           place * 8;
  };
  const uint16_t* const low_row = weight_row(p.weight, first_output + quad);
  const uint16_t* const high_row = kKind == Rows16::gated ? weight_row(on.up, first_output + quad)
                                                          : weight_row(p.weight, first_output + 8 + quad);
  const uint16_t* x_rows[kRowTiles];
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
    const int64_t row = first_row + n * 8 + quad;
    x_rows[n] = static_cast<const uint16_t*>(work.x) +
                on.x_row<kGrouped>(row < on.rows ? row : on.rows - 1) * work.k + place * 8;
  }

  const int k = static_cast<int>(work.k), slice = static_cast<int>(work.slice);
  const int begin = warp * slice, end = min(begin + slice, (k + 63) / 64 * 64), readable = min(end, k);
  constexpr int kTurn = kDepth * kSpan;
  struct Turn {
    uint4 low[kDepth], high[kDepth], x[kDepth][kRowTiles];
  };
  const int of_lane = readable - place * 8;
  const auto weights = [&]<bool kWhole>(Turn& turn, int at, std::bool_constant<kWhole>) {
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      turn.low[d] = inputs<kAligned, true, kWhole>(low_row, at + d * kSpan, of_lane);
      turn.high[d] = kKind == Rows16::half
                         ? make_uint4(0, 0, 0, 0)
                         : inputs<kAligned, true, kWhole>(high_row, at + d * kSpan, of_lane);
    }
  };
  const auto x = [&]<bool kWhole>(Turn& turn, int at, std::bool_constant<kWhole>) {
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n)
        turn.x[d][n] = inputs<kAligned, false, kWhole>(x_rows[n], at + d * kSpan, of_lane);
    }
  };
  const auto load = [&](Turn& turn, int at, const auto&... what) {
    if (at + kTurn <= readable)
      (what(turn, at, std::bool_constant<true>()), ...);
    else if (at < end)  // else nobody adds it
      (what(turn, at, std::bool_constant<false>()), ...);
  };
  float sums[kRowTiles][4] = {};
  const auto add = [&](const Turn& turn, int at) {
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (at + d * kSpan >= end) break;
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) multiply(sums[n], turn.low[d], turn.high[d], turn.x[d][n]);
    }
  };
  Turn even = {}, odd = {};
  load(even, begin, weights);  // while what computes x still runs
  if constexpr (!kGrouped) await_predecessors();
  load(even, begin, x);
  for (int at = begin; at < end; at += 2 * kTurn) {
    load(odd, at + kTurn, weights, x);
    add(even, at);
    load(even, at + 2 * kTurn, weights, x);
    add(odd, at + kTurn);
  }

  float* const partial = shared_memory<float>();  // [slice][row][kRowStride]
  constexpr int kSliceFloats = 8 * kRowTiles * kRowStride;
#pragma unroll
  for (int n = 0; n < kRowTiles; ++n) {
    float* const to = partial + warp * kSliceFloats + (n * 8 + place * 2) * kRowStride + quad;
    to[0] = sums[n][0];
    to[kRowStride] = sums[n][1];
    to[8] = sums[n][2];
    to[kRowStride + 8] = sums[n][3];
  }
  __syncthreads();
  const auto total = [&](int row, int of16) {
    float sum = 0;
    for (int s = 0; s < work.slices; ++s) sum += partial[s * kSliceFloats + row * kRowStride + of16];
    return sum;
  };
  constexpr int kOutputs = kOutputsOf<kKind>;
  for (int i = static_cast<int>(threadIdx.x); i < 8 * kRowTiles * kOutputs; i += kThreads) {
    const int row = i / kOutputs, n = i % kOutputs;
    if (first_row + row >= on.rows || first_output + n >= p.outputs) continue;
    const int64_t out_row = on.out_row<kGrouped>(first_row + row);
    if constexpr (kKind == Rows16::gated)
      finish_gated(work, out_row, first_output + n, total(row, n), total(row, n + 8));
    else
      finish(p, out_row, first_output + n, total(row, n));
  }
}

// A block: 32 * kOutputTiles rows of A times 32 * kRowTiles rows of x; warps 2 x 4, each 16 * kOutputTiles by 8 * kRowTiles.
// Both operands pass through kStages stages of shared memory, each 64 inputs of every row.
template <bool kGated, int kOutputTiles, int kRowTiles>
struct ManyRows {
  static constexpr int kInputs = 64;
  static constexpr int kChunks = kInputs / 8;  // of 16 bytes
  static constexpr int kTileWeights = 32 * kOutputTiles, kTileRows = 32 * kRowTiles;
  static constexpr int kTileOutputs = kGated ? kTileWeights / 2 : kTileWeights;
  static constexpr int kStage = (kTileWeights + kTileRows) * kChunks;  // 16-byte chunks
  // As many as every GPU from sm_80 on has room for. All but one are on their way: small tiles, of which a few dozen rows have so few that
  // not every multiprocessor has one, read at memory speed only because these are many.
  static constexpr size_t kSharedBytes = size_t{96} << 10;
  static constexpr int kStages = static_cast<int>(kSharedBytes / (kStage * 16));
  static_assert(kStages >= 3);

  // Where a chunk of a row is: eight lanes that load together (two rows, four chunks each) meet eight different groups of banks.
  static __device__ __forceinline__ int place_of(int row, int chunk) {
    return row * kChunks + (chunk ^ (row & 1) << 2);
  }
};

template <bool kGated, int kOutputTiles, int kRowTiles, bool kGrouped>
__global__ void __launch_bounds__(kThreads, 1) many_rows(Work work) {
  begin_kernel();
  using Tile = ManyRows<kGated, kOutputTiles, kRowTiles>;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp, warp = thread / kWarp, quad = lane / 4, place = lane % 4;
  const Target on = target<kGrouped>(work, blockIdx.y, Tile::kTileOutputs);
  const LinearProjection& p = on.p;
  const int64_t first_output = on.first_output, first_row = int64_t{blockIdx.x} * Tile::kTileRows;
  if (kGrouped && first_row >= on.rows) return;  // the whole block
  uint4* const shared = shared_memory<uint4>();

  // A thread copies one chunk of every 64 inputs, of each kApart-th row. Where those rows are is worked out once: done in the loop, it were
  // most of what that does. Rows and outputs too many are the last one again, and are not written.
  constexpr int kApart = kThreads / Tile::kChunks;
  constexpr int kOfWeights = Tile::kTileWeights / kApart, kOfRows = Tile::kTileRows / kApart;
  const int first = thread / Tile::kChunks, chunk = thread % Tile::kChunks;
  const uint16_t *weights_from[kOfWeights], *rows_from[kOfRows];
#pragma unroll
  for (int i = 0; i < kOfWeights; ++i) {
    const int row = first + i * kApart;
    // Of 16 rows that are gated the first 8 are gates, the others ups, as in few_rows.
    const int64_t output = first_output + (kGated ? row / 16 * 8 + row % 8 : row);
    const void* const matrix = kGated && row % 16 >= 8 ? on.up : p.weight;
    weights_from[i] = static_cast<const uint16_t*>(matrix) +
                      (output < p.outputs ? output : p.outputs - 1) * work.k + chunk * 8;
  }
#pragma unroll
  for (int i = 0; i < kOfRows; ++i) {
    const int64_t row = first_row + first + i * kApart;
    rows_from[i] = static_cast<const uint16_t*>(work.x) +
                   on.x_row<kGrouped>(row < on.rows ? row : on.rows - 1) * work.k + chunk * 8;
  }
  const int to = Tile::place_of(first, chunk), k = static_cast<int>(work.k);
  const auto load = [&](int step, int stage) {  // one step after the other
    uint4* const weights = shared + stage * Tile::kStage + to;
    uint4* const rows = weights + Tile::kTileWeights * Tile::kChunks;
    const bool valid = step * Tile::kInputs + chunk * 8 < k;
#pragma unroll
    for (int i = 0; i < kOfWeights; ++i) {
      cp_async16(weights + i * kApart * Tile::kChunks, weights_from[i], valid);
      weights_from[i] += Tile::kInputs;
    }
#pragma unroll
    for (int i = 0; i < kOfRows; ++i) {
      cp_async16(rows + i * kApart * Tile::kChunks, rows_from[i], valid);
      rows_from[i] += Tile::kInputs;
    }
  };

  const int steps = (k + Tile::kInputs - 1) / Tile::kInputs;
  const int steps_of_slice = static_cast<int>(work.slice) / Tile::kInputs;
#pragma unroll
  for (int s = 0; s < Tile::kStages - 1; ++s) {
    if (s < steps) load(s, s);
    cp_async_commit();
  }
  const int first_weight = warp / 4 * (16 * kOutputTiles), first_x = warp % 4 * (8 * kRowTiles);
  float sums[kOutputTiles][kRowTiles][4] = {}, totals[kOutputTiles][kRowTiles][4] = {};
  const int weights_at = Tile::place_of(first_weight + quad, place),
            x_at = Tile::place_of(first_x + quad, place);
  int left_of_slice = steps_of_slice, stage = 0, next_stage = Tile::kStages - 1;
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<Tile::kStages - 2>();
    __syncthreads();  // the stage is there for all, and all have left the one that is loaded next
    if (step + Tile::kStages - 1 < steps) load(step + Tile::kStages - 1, next_stage);
    cp_async_commit();
    const uint4* const weights = shared + stage * Tile::kStage;
    const uint4* const rows = weights + Tile::kTileWeights * Tile::kChunks;
    next_stage = stage;
    stage = stage + 1 == Tile::kStages ? 0 : stage + 1;
#pragma unroll
    for (int span = 0; span < Tile::kInputs / kSpan; ++span) {
      constexpr int kOf8Rows = 8 * Tile::kChunks;
      const int of_span = span * 4;  // place_of(row, span * 4 + place) is place_of(row, place) ^ of_span
      uint4 x[kRowTiles];
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) x[n] = rows[(x_at ^ of_span) + n * kOf8Rows];
#pragma unroll
      for (int m = 0; m < kOutputTiles; ++m) {
        const uint4 low = weights[(weights_at ^ of_span) + 2 * m * kOf8Rows];
        const uint4 high = weights[(weights_at ^ of_span) + (2 * m + 1) * kOf8Rows];
#pragma unroll
        for (int n = 0; n < kRowTiles; ++n) multiply(sums[m][n], low, high, x[n]);
      }
    }
    if (--left_of_slice > 0 && step + 1 < steps) continue;
    left_of_slice = steps_of_slice;
#pragma unroll
    for (int m = 0; m < kOutputTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          totals[m][n][i] += sums[m][n][i];
          sums[m][n][i] = 0;
        }
      }
    }
  }
  cp_async_wait<0>();

#pragma unroll
  for (int m = 0; m < kOutputTiles; ++m) {
#pragma unroll
    for (int n = 0; n < kRowTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t row = first_row + first_x + n * 8 + place * 2 + i;
        if (row >= on.rows) continue;
        const int64_t out_row = on.out_row<kGrouped>(row);
        if constexpr (kGated) {
          const int64_t output = first_output + first_weight / 2 + m * 8 + quad;
          if (output < p.outputs) finish_gated(work, out_row, output, totals[m][n][i], totals[m][n][i + 2]);
        } else {
          const int64_t output = first_output + first_weight + m * 16 + quad;
          if (output < p.outputs) finish(p, out_row, output, totals[m][n][i]);
          if (output + 8 < p.outputs) finish(p, out_row, output + 8, totals[m][n][i + 2]);
        }
      }
    }
  }
}

__device__ __forceinline__ float widen(float value) {
  return value;
}
__device__ __forceinline__ float widen(uint16_t value) {
  return to_float(value);
}

// Four weights as float32, of an address that suits a load of all of them.
__device__ __forceinline__ float4 four(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}
__device__ __forceinline__ float4 four(const uint16_t* from) {
  const uint2 v = *reinterpret_cast<const uint2*>(from);
  return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u),
                     __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u));
}

// A block: 32 outputs, a lane each, and up to kRows rows; each warp a slice of k. Gated: 16 outputs, their gates, then their ups.
template <class Weight, bool kGated, int kRows, bool kGrouped>
__global__ void __launch_bounds__(kThreads, 2) fma_rows(Work work, bool aligned) {
  begin_kernel();
  constexpr int kOutputs = kGated ? kWarp / 2 : kWarp;
  const int lane = static_cast<int>(threadIdx.x % kWarp), warp = static_cast<int>(threadIdx.x / kWarp);
  const Target on = target<kGrouped>(work, blockIdx.x, kOutputs);
  const LinearProjection& p = on.p;
  const int64_t first_output = on.first_output, first_row = int64_t{blockIdx.y} * kRows, k = work.k;
  if (kGrouped && first_row >= on.rows) return;  // the whole block
  const int64_t output = first_output + lane % kOutputs;
  const void* const matrix = lane < kOutputs ? p.weight : on.up;
  const Weight* const weights = static_cast<const Weight*>(matrix) + (output < p.outputs ? output * k : 0);
  const float* x[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t row =
        first_row + r < on.rows ? first_row + r : on.rows - 1;  // a row too many is not written
    x[r] = static_cast<const float*>(work.x) + on.x_row<kGrouped>(row) * k;
  }
  const int64_t begin = warp * work.slice, end = begin + work.slice < k ? begin + work.slice : k;
  float sums[kRows] = {};
  int64_t i = begin;
  if (aligned) {
#pragma unroll(kRows == 1 ? 8 : 1)
    for (; i < end; i += 4) {
      const float4 w = four(weights + i);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float4 v = four(x[r] + i);
        sums[r] = fmaf(w.w, v.w, fmaf(w.z, v.z, fmaf(w.y, v.y, fmaf(w.x, v.x, sums[r]))));
      }
    }
  }
  for (; i < end; ++i) {
    const float w = widen(weights[i]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) sums[r] = fmaf(w, x[r][i], sums[r]);
  }
  float* const partial = shared_memory<float>();  // [slice][row][lane]
#pragma unroll
  for (int r = 0; r < kRows; ++r) partial[(warp * kRows + r) * kWarp + lane] = sums[r];
  __syncthreads();
  const auto total = [&](int row, int of32) {
    float sum = 0;
    for (int s = 0; s < work.slices; ++s) sum += partial[(s * kRows + row) * kWarp + of32];
    return sum;
  };
  for (int at = static_cast<int>(threadIdx.x); at < kRows * kOutputs; at += kThreads) {
    const int row = at / kOutputs, n = at % kOutputs;
    if (first_row + row >= on.rows || first_output + n >= p.outputs) continue;
    const int64_t out_row = on.out_row<kGrouped>(first_row + row);
    if constexpr (kGated)
      finish_gated(work, out_row, first_output + n, total(row, n), total(row, n + kOutputs));
    else
      finish(p, out_row, first_output + n, total(row, n));
  }
}

int64_t pieces(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

int64_t tiles(const Work& work, int64_t size) {
  int64_t sum = 0;
  for (int i = 0; i < work.count; ++i) sum += pieces(work.projections[i].outputs, size);
  return sum;
}

bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

template <Rows16 kKind, int kRowTiles, bool kAligned, bool kGrouped>
void launch_few(Stream& stream, const Work& work, int64_t experts) {
  constexpr size_t kSharedBytes = size_t{kSlices} * 8 * kRowTiles * kRowStride * sizeof(float);
  launch(stream, few_rows<kKind, kRowTiles, kAligned, kGrouped>,
         Grid(tiles(work, kOutputsOf<kKind>), pieces(work.rows, 8 * kRowTiles), experts), kThreads,
         kSharedBytes, work);
}

template <bool kGated, int kOutputTiles, int kRowTiles, bool kGrouped>
void launch_many(Stream& stream, const Work& work, int64_t experts) {
  using Tile = ManyRows<kGated, kOutputTiles, kRowTiles>;
  launch(stream, many_rows<kGated, kOutputTiles, kRowTiles, kGrouped>,
         Grid(pieces(work.rows, Tile::kTileRows), tiles(work, Tile::kTileOutputs), experts), kThreads,
         Tile::kSharedBytes, work);
}

template <class Weight, bool kGated, int kRows, bool kGrouped>
void launch_fma(Stream& stream, const Work& work, bool aligned, int64_t experts) {
  launch(stream, fma_rows<Weight, kGated, kRows, kGrouped>,
         Grid(tiles(work, kGated ? kWarp / 2 : kWarp), pieces(work.rows, kRows), experts), kThreads,
         size_t{kSlices} * kRows * kWarp * sizeof(float), work, aligned);
}

}  // namespace
}  // namespace qwen::cuda
