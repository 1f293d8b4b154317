// The kernels of the vector levels, written once over a `Simd` type that names the instructions
// (kernels_avx2.cpp, kernels_avx512.cpp). Everything is in an unnamed namespace and free of the standard
// library: an inline function with external linkage compiled here with AVX flags could be the copy the linker
// keeps for the whole program.
//
// A sum over k or over dimensions is one vector accumulator, filled in ascending order and folded in a fixed
// way, in every tile shape. Register tiles only share loads between such accumulators, so they change no bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/block_kernels.h"
#include "backend/cpu/kernels.h"

namespace qwen::cpu {
namespace {

constexpr int64_t element_bytes(Format format) {
  return format == Format::f32 ? 4 : 2;
}
constexpr int64_t at_least(int64_t a, int64_t b) {
  return a > b ? a : b;
}
constexpr int64_t at_most(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// e^x within 2 ulp; 0 below -87 (no subnormal results), e^88 above 88, NaN stays NaN. Range reduction and
// polynomial as in Cephes' expf (https://www.netlib.org/cephes/single.tgz).
template <class S>
inline typename S::V exp(typename S::V x) {
  const auto clamped = S::min(S::set1(88.0f), S::max(S::set1(-87.0f), x));
  const auto n = S::round(S::mul(clamped, S::set1(1.44269504088896341f)));
  auto r = S::fma(n, S::set1(-0.693359375f), clamped);
  r = S::fma(n, S::set1(2.12194440e-4f), r);
  auto p = S::set1(1.9875691500e-4f);
  p = S::fma(p, r, S::set1(1.3981999507e-3f));
  p = S::fma(p, r, S::set1(8.3334519073e-3f));
  p = S::fma(p, r, S::set1(4.1665795894e-2f));
  p = S::fma(p, r, S::set1(1.6666665459e-1f));
  p = S::fma(p, r, S::set1(5.0000001201e-1f));
  p = S::add(S::fma(S::mul(r, r), p, r), S::set1(1.0f));
  return S::zero_where_less(S::mul(p, S::power_of_two(n)), x, S::set1(-87.0f));
}

// ---- linear ----

// Rows [row, row + M) x outputs [output, output + N) of the task. P: the weights come from memory, and a row of them is too
// short a stream for the hardware's prefetcher.
template <class S, Format F, int M, int N, bool P>
inline void linear_tile(const LinearTask& task, int64_t row, int64_t output) {
  using V = typename S::V;
  const int64_t k = task.k, stride = task.weight_stride * element_bytes(F);
  const float* const x = task.x + row * task.x_stride;
  const std::byte* const weight = task.weight + output * stride;
  const auto partial = [&](int i) __attribute__((always_inline)) {
    return task.partial + ((row + i / N) * task.outputs + output + i % N) * kMaxLanes;
  };
  V sums[M * N];
#pragma GCC unroll 32
  for (int i = 0; i < M * N; ++i) sums[i] = task.resume ? S::load(partial(i)) : S::zero();

  // The smaller side of the tile is held in registers while the other streams through one.
  const auto step = [&](auto load_x, auto load_weight) __attribute__((always_inline)) {
    if constexpr (M <= N) {
      V held[M];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) held[m] = load_x(m);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const V w = load_weight(n);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) sums[m * N + n] = S::fma(held[m], w, sums[m * N + n]);
      }
    } else {
      V held[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) held[n] = load_weight(n);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const V value = load_x(m);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sums[m * N + n] = S::fma(value, held[n], sums[m * N + n]);
      }
    }
  };
  int64_t i = 0;
  for (; i + S::kWidth <= k; i += S::kWidth) {
    step(
        [&](int m) __attribute__((always_inline)) { return S::load(x + m * task.x_stride + i); },
        [&](int n) __attribute__((always_inline)) {
          const std::byte* const w = weight + n * stride + i * element_bytes(F);
          if constexpr (P) __builtin_prefetch(w + N * stride);
          return S::template widen<F>(w);
        });
  }
  if (i < k) {
    const int rest = static_cast<int>(k - i);
    step(
        [&](int m)
            __attribute__((always_inline)) { return S::load_partial(x + m * task.x_stride + i, rest); },
        [&](int n) __attribute__((always_inline)) {
          return S::template widen_partial<F>(weight + n * stride + i * element_bytes(F), rest);
        });
  }

  if (task.suspend) {
#pragma GCC unroll 32
    for (int j = 0; j < M * N; ++j) S::store(partial(j), sums[j]);
    return;
  }
  float values[M * N];
#pragma GCC unroll 32
  for (int j = 0; j < M * N; ++j) {
    if (j % 4 == 0 && j + 4 <= M * N) S::sum4(sums + j, values + j);
    if (j >= M * N / 4 * 4) values[j] = S::sum(sums[j]);
  }
  for (int m = 0; m < M; ++m) {
    float* const out = task.out + (row + m) * task.out_stride + output;
    for (int n = 0; n < N; ++n) {
      float value = values[m * N + n];
      if (task.bias != nullptr) value += task.bias[output + n];
      out[n] = task.accumulate ? out[n] + value : value;
    }
  }
}

// M rows, all outputs.
template <class S, Format F, int M, bool P>
inline void linear_outputs(const LinearTask& task, int64_t row) {
  constexpr int N = S::tile_outputs(M);
  int64_t n = 0;
  for (; n + N <= task.outputs; n += N) linear_tile<S, F, M, N, P>(task, row, n);
  for (; n < task.outputs; ++n) linear_tile<S, F, M, 1, P>(task, row, n);
}

// All rows from `row` on, M at a time, the remainder in smaller tiles. The first ones bring the weights from memory into the
// cache.
template <class S, Format F, int M>
inline void linear_rows(const LinearTask& task, int64_t row) {
  for (; row + M <= task.rows; row += M) {
    if (row == 0 && task.from_memory) {
      linear_outputs<S, F, M, true>(task, row);
    } else {
      linear_outputs<S, F, M, false>(task, row);
    }
  }
  if constexpr (M > 1) {
    if (row < task.rows) linear_rows<S, F, (M > 4 ? 4 : M / 2)>(task, row);
  }
}

template <class S, Format F>
void linear(const LinearTask& task) {
  linear_rows<S, F, S::kTileRows>(task, 0);
}

// ---- attention ----

// The state of one query (row, head) while it walks the cache; lies in the task's scratch.
struct Query {
  float* sums;     // [padded head_dim] probabilities x values so far, relative to exp(maximum)
  float* total;    // [16] lanes of the sum of probabilities
  float* maximum;  // [0] of the scores so far, [1] factor that the current block's maximum puts on the past
  float* probabilities;  // [kBlock] of the current block
};

inline Query query_state(const AttentionTask& task, int64_t index) {
  const int64_t width = padded_head_dim(task.head_dim);
  float* const base = task.scratch + index * attention_scratch(1, 1, task.head_dim);
  return {base, base + width, base + width + 16, base + width + 32};
}

inline int64_t query_offset(const AttentionTask& task, int64_t index) {
  return index / task.query_heads * task.row_stride + index % task.query_heads * task.head_dim;
}

// Positions [first, last) of a block that a row sees.
struct Visible {
  int first;
  int last;
};

inline Visible visible(const AttentionTask& task, int64_t row, int64_t block) {
  const int64_t position = task.first_position + row, origin = block * kBlock;
  const int64_t start = task.window > 0 ? position - task.window + 1 : 0;
  const int64_t first = at_most(at_least(start - origin, 0), kBlock);
  const int64_t last = at_least(at_most(position + 1 - origin, kBlock), first);
  return {static_cast<int>(first), static_cast<int>(last)};
}

// Scores of queries [index, index + T) with all keys of a block; slots that a row does not see give garbage
// lanes.
template <class S, Format F, int T>
inline void score_tile(const AttentionTask& task, int64_t index, const std::byte* keys) {
  using V = typename S::V;
  constexpr int kVectors = kBlock / S::kWidth;
  const float* q[T];
  V sums[T][kVectors];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    q[t] = task.q + query_offset(task, index + t);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[t][v] = S::zero();
  }
  for (int64_t d = 0; d < task.head_dim; ++d) {
    V key[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      key[v] = S::template widen<F>(keys + (d * kBlock + v * S::kWidth) * element_bytes(F));
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const V value = S::set1(q[t][d]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[t][v] = S::fma(value, key[v], sums[t][v]);
    }
  }
  const V scale = S::set1(task.scale);
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    float* const scores = query_state(task, index + t).probabilities;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) S::store(scores + v * S::kWidth, S::mul(sums[t][v], scale));
  }
}

template <class S, Format F, int T>
inline void scores(const AttentionTask& task, int64_t index, int64_t end, const std::byte* keys) {
  for (; index + T <= end; index += T) score_tile<S, F, T>(task, index, keys);
  if constexpr (T > 1) {
    if (index < end) scores<S, F, T / 2>(task, index, end, keys);
  }
}

// Scores become probabilities relative to the new maximum. Slots outside `seen` get exactly 0, whatever they
// held.
template <class S>
inline void softmax_block(const Query& query, Visible seen) {
  using V = typename S::V;
  constexpr int kVectors = kBlock / S::kWidth;
  const V lowest = S::set1(-__builtin_inff());
  V scores[kVectors];
  V maximum = lowest;
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    scores[v] = S::select_range(S::load(query.probabilities + v * S::kWidth), v * S::kWidth, seen.first,
                                seen.last, lowest);
    maximum = S::max(maximum, scores[v]);
  }
  const float before = query.maximum[0];
  const float in_block = S::largest(maximum);
  const float now = in_block > before ? in_block : before;
  const V shift = S::set1(now);
  const V factor = exp<S>(S::sub(S::set1(before), shift));  // 0 in the first block
  V total = S::zero();
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const V p =
        S::select_range(exp<S>(S::sub(scores[v], shift)), v * S::kWidth, seen.first, seen.last, S::zero());
    S::store(query.probabilities + v * S::kWidth, p);
    total = S::add(total, p);
  }
  S::store(query.total, S::fma(S::load(query.total), factor, total));
  query.maximum[0] = now;
  S::store_partial(query.maximum + 1, factor, 1);
}

// sums = sums * factor + probabilities x values for queries [index, index + T) that see the same slots of the
// block.
template <class S, Format F, int T, int C>
inline void value_tile(const AttentionTask& task, int64_t index, const std::byte* values, Visible seen,
                       int64_t d) {
  using V = typename S::V;
  const int64_t stride = padded_head_dim(task.head_dim) * element_bytes(F);
  V sums[T][C];
  const float* probabilities[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    const Query query = query_state(task, index + t);
    const V factor = S::set1(query.maximum[1]);
    probabilities[t] = query.probabilities;
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sums[t][c] = S::mul(S::load(query.sums + d + c * S::kWidth), factor);
  }
  for (int j = seen.first; j < seen.last; ++j) {
    V value[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      value[c] = S::template widen<F>(values + j * stride + (d + c * S::kWidth) * element_bytes(F));
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const V p = S::set1(probabilities[t][j]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sums[t][c] = S::fma(p, value[c], sums[t][c]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    const Query query = query_state(task, index + t);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) S::store(query.sums + d + c * S::kWidth, sums[t][c]);
  }
}

template <class S, Format F, int T>
inline void weigh_values(const AttentionTask& task, int64_t index, int64_t end, const std::byte* values,
                         Visible seen) {
  const int64_t width = padded_head_dim(task.head_dim);
  for (; index + T <= end; index += T) {
    int64_t d = 0;
    for (; d + 4 * S::kWidth <= width; d += 4 * S::kWidth)
      value_tile<S, F, T, 4>(task, index, values, seen, d);
    for (; d < width; d += S::kWidth) value_tile<S, F, T, 1>(task, index, values, seen, d);
  }
  if constexpr (T > 1) {
    if (index < end) weigh_values<S, F, T / 2>(task, index, end, values, seen);
  }
}

inline void prefetch(const std::byte* data, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(data + i);
}

template <class S, Format F>
void attention(const AttentionTask& task) {
  const int64_t queries = task.rows * task.query_heads, width = padded_head_dim(task.head_dim);
  for (int64_t i = 0; i < queries; ++i) {
    const Query query = query_state(task, i);
    for (int64_t d = 0; d < width; d += S::kWidth) S::store(query.sums + d, S::zero());
    S::store(query.total, S::zero());
    query.maximum[0] = -__builtin_inff();
  }

  const int64_t last_position = task.first_position + task.rows - 1;
  const int64_t first_seen = task.window > 0 ? at_least(task.first_position - task.window + 1, 0) : 0;
  for (int64_t block = first_seen / kBlock; block <= last_position / kBlock; ++block) {
    // The rows that see some of this block: those before it ends their window, and after it begins.
    int64_t begin = at_least(block * kBlock - task.first_position, 0), end = task.rows;
    if (task.window > 0) end = at_most(end, (block + 1) * kBlock + task.window - 1 - task.first_position);
    if (begin >= end) continue;
    const std::byte* const keys = task.keys + task.block_table[block] * task.key_block_bytes;
    const std::byte* const values = task.values + task.block_table[block] * task.value_block_bytes;
    if (block < last_position / kBlock) {
      const int64_t next = task.block_table[block + 1];
      prefetch(task.keys + next * task.key_block_bytes, task.head_dim * kBlock * element_bytes(F));
      prefetch(task.values + next * task.value_block_bytes, width * kBlock * element_bytes(F));
    }

    scores<S, F, S::kScoreTile>(task, begin * task.query_heads, end * task.query_heads, keys);
    for (int64_t row = begin; row < end; ++row) {
      const Visible seen = visible(task, row, block);
      for (int64_t h = 0; h < task.query_heads; ++h)
        softmax_block<S>(query_state(task, row * task.query_heads + h), seen);
    }
    // Runs of rows that see the same slots share the reading of the values. A slot that a row does not see is
    // not multiplied by 0 but left out: it may hold NaN, and adding 0 can change the sign of a zero.
    for (int64_t row = begin; row < end;) {
      const Visible seen = visible(task, row, block);
      int64_t run = row + 1;
      for (; run < end; ++run) {
        const Visible next = visible(task, run, block);
        if (next.first != seen.first || next.last != seen.last) break;
      }
      weigh_values<S, F, S::kValueTile>(task, row * task.query_heads, run * task.query_heads, values, seen);
      row = run;
    }
  }

  for (int64_t i = 0; i < queries; ++i) {
    const Query query = query_state(task, i);
    const typename S::V total = S::set1(S::sum(S::load(query.total)));
    float* const out = task.out + query_offset(task, i);
    for (int64_t d = 0; d < task.head_dim; d += S::kWidth) {
      const int64_t rest = at_most(task.head_dim - d, S::kWidth);
      S::store_partial(out + d, S::div(S::load(query.sums + d), total), static_cast<int>(rest));
    }
  }
}

// ---- element-wise ----

template <class S, Format F>
void widen(const std::byte* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + S::kWidth <= n; i += S::kWidth)
    S::store(to + i, S::template widen<F>(from + i * element_bytes(F)));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    S::store_partial(to + i, S::template widen_partial<F>(from + i * element_bytes(F), rest), rest);
  }
}

template <class S>
void narrow_bf16(const float* from, int64_t n, uint16_t* to) {
  int64_t i = 0;
  for (; i + S::kWidth <= n; i += S::kWidth) S::narrow_bf16(S::load(from + i), to + i);
  if (i < n) {
    uint16_t last[S::kWidth];
    const int rest = static_cast<int>(n - i);
    S::narrow_bf16(S::load_partial(from + i, rest), last);
    for (int j = 0; j < rest; ++j) to[i + j] = last[j];
  }
}

// The body of an element-wise loop: body(load, store) for each whole vector and once for the rest.
template <class S, class Body>
inline void for_vectors(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + S::kWidth <= n; i += S::kWidth) {
    body([i](const float* p) { return S::load(p + i); },
         [i](float* p, typename S::V v) { S::store(p + i, v); });
  }
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    body([i, rest](const float* p) { return S::load_partial(p + i, rest); },
         [i, rest](float* p, typename S::V v) { S::store_partial(p + i, v, rest); });
  }
}

template <class S>
void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  typename S::V squares = S::zero();
  for_vectors<S>(n, [&](auto load, auto) {
    const auto value = load(x);
    squares = S::fma(value, value, squares);
  });
  const float mean = S::sum(squares) / static_cast<float>(n);
  const auto scale = S::set1(1.0f / __builtin_sqrtf(mean + eps));
  for_vectors<S>(n, [&](auto load, auto store) { store(out, S::mul(S::mul(load(x), scale), load(weight))); });
}

template <class S>
inline typename S::V sigmoid_denominator(typename S::V x) {
  return S::add(S::set1(1.0f), exp<S>(S::sub(S::zero(), x)));
}

template <class S>
void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
  for_vectors<S>(n, [&](auto load, auto store) {
    const auto g = load(gate);
    store(out, S::mul(S::div(g, sigmoid_denominator<S>(g)), load(up)));
  });
}

template <class S>
void rope(float* x, int64_t heads, int64_t head_dim, const float* cosines, const float* sines, int64_t half) {
  for (int64_t h = 0; h < heads; ++h) {
    float* const first = x + h * head_dim;
    float* const second = first + half;
    for_vectors<S>(half, [&](auto load, auto store) {
      const auto a = load(first), b = load(second), cosine = load(cosines), sine = load(sines);
      store(first, S::sub(S::mul(a, cosine), S::mul(b, sine)));
      store(second, S::add(S::mul(b, cosine), S::mul(a, sine)));
    });
  }
}

template <class S>
void sigmoid_mul(const float* gate, const float* x, int64_t n, float* out) {
  for_vectors<S>(
      n, [&](auto load, auto store) { store(out, S::div(load(x), sigmoid_denominator<S>(load(gate)))); });
}

// ---- linear attention ----

template <class S>
void convolution(const float* const* rows, int64_t kernel, const float* weight, int64_t channels, int64_t n,
                 float* out) {
  for_vectors<S>(n, [&](auto load, auto store) {
    auto sum = S::zero();
    for (int64_t j = 0; j < kernel; ++j)
      if (rows[j] != nullptr) sum = S::fma(load(rows[j]), load(weight + j * channels), sum);
    store(out, S::div(sum, sigmoid_denominator<S>(sum)));
  });
}

// Rows [row, row + T) x C vectors of columns from `column` on.
template <class S, int T, int C>
inline void multiply_tile(const MultiplyTask& task, int64_t row, int64_t column) {
  using V = typename S::V;
  const float* x[T];
  V sums[T][C];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    x[t] = task.x + (row + t) * task.x_stride;
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const int64_t at = (row + t) * task.out_stride + column + c * S::kWidth;
      sums[t][c] = task.initial ? S::mul(S::load(task.initial + at), S::set1(task.factor)) : S::zero();
    }
  }
  const float* const matrix = task.matrix + column;
  for (int64_t i = 0; i < task.inner; ++i) {
    V line[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) line[c] = S::load(matrix + i * task.matrix_stride + c * S::kWidth);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const V value = S::set1(x[t][i]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sums[t][c] = S::fma(value, line[c], sums[t][c]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
      S::store(task.out + (row + t) * task.out_stride + column + c * S::kWidth, sums[t][c]);
  }
}

// All rows from `row` on, T at a time, the remainder in smaller tiles.
template <class S, int T, int C>
inline void multiply_rows(const MultiplyTask& task, int64_t row, int64_t column) {
  for (; row + T <= task.rows; row += T) multiply_tile<S, T, C>(task, row, column);
  if constexpr (T > 1) {
    if (row < task.rows) multiply_rows<S, (T > 4 ? 4 : T / 2), C>(task, row, column);
  }
}

// Columns outside: as much of the matrix as one tile reads stays in L1 for all rows.
template <class S>
void multiply(const MultiplyTask& task) {
  constexpr int T = S::kTileRows, C = S::tile_outputs(T);
  int64_t column = 0;
  for (; column + C * S::kWidth <= task.columns; column += C * S::kWidth)
    multiply_rows<S, T, C>(task, 0, column);
  for (; column < task.columns; column += S::kWidth) multiply_rows<S, T, 1>(task, 0, column);
}

// What the rows of a tile take of each row before them: [row of the tile][kChunk], those of k negated.
template <int T>
struct DeltaFactors {
  float key[T][kChunk], query[T][kChunk];
};

// T rows from `row` on, C vectors of their columns from `column` on. Each row's sums take the rows before it in order, whether these
// are the tile's own or not.
template <class S, int T, int C>
inline void delta_tile(const GatedDeltaTask& task, int64_t row, int64_t column,
                       const DeltaFactors<T>& factors) {
  using V = typename S::V;
  const int64_t width = padded_head_dim(task.value_dim), before_tile = task.first + row;
  const auto rest = [&](int64_t at) {
    return static_cast<int>(at_most(at_least(task.value_dim - at, 0), S::kWidth));
  };
  V corrected[T][C], out[T][C];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    const V decay = S::set1(task.decay[row + t]);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const int64_t at = column + c * S::kWidth;
      corrected[t][c] = S::load_partial(task.values + (row + t) * task.value_stride + at, rest(at));
      out[t][c] = S::zero();
      if (task.from_state == nullptr) continue;
      const float* const key_state = task.from_state + (row + t) * width + at;
      corrected[t][c] = S::sub(corrected[t][c], S::mul(decay, S::load(key_state)));
      out[t][c] = S::mul(decay, S::load(key_state + task.rows * width));
    }
  }
  const auto take = [&](int t, int64_t s, const V* before) __attribute__((always_inline)) {
    const V key_factor = S::set1(factors.key[t][s]), query_factor = S::set1(factors.query[t][s]);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      corrected[t][c] = S::fma(key_factor, before[c], corrected[t][c]);
      out[t][c] = S::fma(query_factor, before[c], out[t][c]);
    }
  };
  for (int64_t s = 0; s < before_tile; ++s) {
    V before[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) before[c] = S::load(task.corrected + s * width + column + c * S::kWidth);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) take(t, s, before);
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int earlier = 0; earlier < t; ++earlier) take(t, before_tile + earlier, corrected[earlier]);
    const V beta = S::set1(task.beta[row + t]), own = S::set1(factors.query[t][before_tile + t]);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const int64_t at = column + c * S::kWidth;
      corrected[t][c] = S::mul(beta, corrected[t][c]);
      S::store(task.corrected + (before_tile + t) * width + at, corrected[t][c]);
      S::store_partial(task.out + (row + t) * task.out_stride + at, S::fma(own, corrected[t][c], out[t][c]),
                       rest(at));
    }
  }
}

// All rows from `row` on, T at a time, the remainder one by one.
template <class S, int T>
inline void delta_rows(const GatedDeltaTask& task, int64_t row) {
  const int64_t width = padded_head_dim(task.value_dim);
  for (; row + T <= task.rows; row += T) {
    DeltaFactors<T> factors;
    for (int t = 0; t < T; ++t) {
      const int64_t last = task.first + row + t;
      const auto now = S::set1(task.log_decay[last]);
      // Whole vectors: what lies behind `last` is not used.
      for (int64_t s = 0; s <= last; s += S::kWidth) {
        const auto log = S::sub(now, S::load(task.log_decay + s));
        // 0 from 2^-100 on, as processors are slow with the subnormal numbers that would come of it.
        const auto weight = S::zero_where_less(exp<S>(log), log, S::set1(-69.0f));
        const float* const products = task.products + (row + t) * kChunk + s;
        S::store(factors.key[t] + s, S::sub(S::zero(), S::mul(weight, S::load(products))));
        S::store(factors.query[t] + s, S::mul(weight, S::load(products + task.rows * kChunk)));
      }
    }
    int64_t column = 0;
    for (; column + 2 * S::kWidth <= width; column += 2 * S::kWidth)
      delta_tile<S, T, 2>(task, row, column, factors);
    for (; column < width; column += S::kWidth) delta_tile<S, T, 1>(task, row, column, factors);
  }
  if constexpr (T > 1) delta_rows<S, 1>(task, row);
}

template <class S>
void gated_delta(const GatedDeltaTask& task) {
  delta_rows<S, S::kDeltaRows>(task, 0);
}

// ---- measuring ----

template <class S>
int64_t peak(int64_t rounds, float* sink) {
  constexpr int kSums =
      12;  // two units of four or five cycles each; with the factors they fit into 16 registers
  typename S::V sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = S::set1(*sink + static_cast<float>(i));
  const auto factor = S::set1(0.5f), term = S::set1(1.0f);  // every sum stays near 2
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) sums[i] = S::fma(sums[i], factor, term);
  }
  auto total = sums[0];
  for (int i = 1; i < kSums; ++i) total = S::add(total, sums[i]);
  *sink = S::sum(total);
  return rounds * 2 * kSums * S::kWidth;
}

template <class S>
constexpr Kernels vector_kernels() {
  return {
      .k_slice = 1024,  // 6 rows of x take 24 KiB of the 32 or 48 KiB of L1
      .linear = {linear<S, Format::f32>, linear<S, Format::f16>, linear<S, Format::bf16>},
      .attention = {attention<S, Format::f32>, nullptr, attention<S, Format::bf16>},
      .widen = {widen<S, Format::f32>, widen<S, Format::f16>, widen<S, Format::bf16>},
      .widen_blocks = {widen_blocks<Format::q4_0>, widen_blocks<Format::q4_1>, widen_blocks<Format::q5_0>,
                       widen_blocks<Format::q5_1>, widen_blocks<Format::q8_0>, widen_blocks<Format::iq4_nl>,
                       widen_blocks<Format::mxfp4>, widen_blocks<Format::q2_k>, widen_blocks<Format::q3_k>,
                       widen_blocks<Format::q4_k>, widen_blocks<Format::q5_k>, widen_blocks<Format::q6_k>,
                       widen_blocks<Format::iq4_xs>},
      .narrow_bf16 = narrow_bf16<S>,
      .rms_norm = rms_norm<S>,
      .silu_mul = silu_mul<S>,
      .sigmoid_mul = sigmoid_mul<S>,
      .convolution = convolution<S>,
      .multiply = multiply<S>,
      .gated_delta = gated_delta<S>,
      .rope = rope<S>,
      .peak = peak<S>,
  };
}

}  // namespace
}  // namespace qwen::cpu
