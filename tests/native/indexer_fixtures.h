// Attention to what an indexer picks, in double, for the tests of every backend's.
#pragma once

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <span>

#include "kernel_fixtures.h"

namespace qwen::test::indexed {

struct Shape {
  int64_t heads, kv_heads, head_dim;
  IndexerShape indexer;
  int64_t length;
};

// One sequence's inputs for all its positions.
struct Sequence {
  Floats q, k, v, index_q, index_k, angles;
  Sequence(Random& random, const Shape& s)
      : q(random.floats(s.length * s.heads * s.head_dim, -2, 2)),
        k(random.floats(s.length * s.kv_heads * s.head_dim, -2, 2)),
        v(random.floats(s.length * s.kv_heads * s.head_dim, -2, 2)),
        index_q(random.floats(s.length * s.indexer.heads * s.indexer.head_dim)),
        index_k(random.floats(s.length * s.indexer.head_dim)),
        angles(random.floats(s.length * s.indexer.rotary_dim)) {}
};

inline float rounded(float x, Precision precision) {
  uint16_t bits;
  if (precision == Precision::f32) return x;
  cpu::portable_kernels().narrow_bf16(&x, 1, &bits);
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

// The key of a group: mean, norm, rotation as its first position's.
inline std::vector<double> group_key(const Sequence& in, const Shape& s, const Floats& norm, int64_t group) {
  const auto& [heads, dim, rotary, ratio, budget] = s.indexer;
  std::vector<double> key(static_cast<size_t>(dim));
  for (int64_t i = 0; i < ratio; ++i)
    for (int64_t d = 0; d < dim; ++d)
      key[static_cast<size_t>(d)] +=
          in.index_k[static_cast<size_t>((group * ratio + i) * dim + d)] / static_cast<double>(ratio);
  double squares = 0;
  for (const double x : key) squares += x * x;
  for (size_t d = 0; d < key.size(); ++d)
    key[d] *= norm[d] / std::sqrt(squares / static_cast<double>(dim) + 1e-6);
  const float* const cosines = &in.angles[static_cast<size_t>(group * ratio * rotary)];
  for (int64_t i = 0; i < rotary / 2; ++i) {
    const auto first = static_cast<size_t>(i), second = static_cast<size_t>(i + rotary / 2);
    const double a = key[first], b = key[second];
    key[first] = a * cosines[i] - b * cosines[rotary / 2 + i];
    key[second] = b * cosines[i] + a * cosines[rotary / 2 + i];
  }
  return key;
}

// The positions that the row at `position` attends to.
inline std::vector<int64_t> seen(const Sequence& in, const Shape& s, const Floats& norm, int64_t position) {
  const auto& [heads, dim, rotary, ratio, budget] = s.indexer;
  const int64_t groups = (position + 1) / ratio;
  std::vector<double> scores;
  for (int64_t g = 0; g < groups; ++g) {
    const std::vector<double> key = group_key(in, s, norm, g);
    double score = 0;
    for (int64_t h = 0; h < heads; ++h) {
      double product = 0;
      for (int64_t d = 0; d < dim; ++d)
        product +=
            in.index_q[static_cast<size_t>((position * heads + h) * dim + d)] * key[static_cast<size_t>(d)];
      score += product > 0 ? product : 0;
    }
    scores.push_back(score);
  }
  std::vector<int64_t> order(static_cast<size_t>(groups));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int64_t a, int64_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(std::min(groups, budget / ratio)));
  std::vector<int64_t> positions;
  for (const int64_t g : order)
    for (int64_t i = 0; i < ratio; ++i) positions.push_back(g * ratio + i);
  for (int64_t p = groups * ratio; p <= position; ++p) positions.push_back(p);
  return positions;
}

inline float scale_of(const Shape& s) {
  return 1 / std::sqrt(static_cast<float>(s.head_dim));
}

inline Floats textbook(const Sequence& in, const Shape& s, const Floats& norm, Precision precision) {
  Floats out(in.q.size());
  for (int64_t position = 0; position < s.length; ++position) {
    const std::vector<int64_t> positions = seen(in, s, norm, position);
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t kv_head = h / (s.heads / s.kv_heads);
      const auto at = [&](int64_t p) { return static_cast<size_t>((p * s.kv_heads + kv_head) * s.head_dim); };
      const auto row = static_cast<size_t>((position * s.heads + h) * s.head_dim);
      std::vector<double> weights;
      for (const int64_t p : positions) {
        double score = 0;
        for (size_t d = 0; d < static_cast<size_t>(s.head_dim); ++d)
          score += double{in.q[row + d]} * rounded(in.k[at(p) + d], precision);
        weights.push_back(std::exp(score * scale_of(s)));
      }
      const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
      for (size_t d = 0; d < static_cast<size_t>(s.head_dim); ++d) {
        double value = 0;
        for (size_t i = 0; i < positions.size(); ++i)
          value += weights[i] * rounded(in.v[at(positions[i]) + d], precision);
        out[row + d] = static_cast<float>(value / total);
      }
    }
  }
  return out;
}

// Runs the sequences side by side, `chunk` rows of each per step, on a cache whose every slot starts as NaN.
// put(values, width): these as rows in the backend's memory. plain: with attention() to all there is.
inline std::vector<Floats> run(Backend& machine, const std::function<Rows(Floats&, int64_t)>& put,
                               const Shape& s, const Floats& norm,
                               const std::vector<const Sequence*>& sequences, int64_t chunk,
                               bool plain = false) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  CacheGroupSpec spec{.layers = 2, .kv_heads = s.kv_heads, .head_dim = s.head_dim};
  spec.indexer = s.indexer;
  const int64_t blocks_each = (s.length + kCacheBlock - 1) / kCacheBlock;
  const auto count = static_cast<int64_t>(sequences.size());
  const auto cache = machine.create_cache(spec, blocks_each * count);
  const auto weight = machine.load(tensor(norm, {s.indexer.head_dim}), WeightUse::vector);
  const AttentionArgs args{.heads = s.heads,
                           .kv_heads = s.kv_heads,
                           .head_dim = s.head_dim,
                           .scale = scale_of(s),
                           .group = 0,
                           .layer = 1};
  const IndexerArgs indexer{.shape = s.indexer, .key_norm = *weight, .eps = 1e-6f};
  std::vector<std::vector<int32_t>> tables(sequences.size());  // scattered, differently for each
  for (int64_t i = 0; i < count; ++i)
    for (int64_t b = 0; b < blocks_each; ++b)
      tables[static_cast<size_t>(i)].push_back(static_cast<int32_t>((blocks_each - 1 - b) * count + i));

  const int64_t kv_width = s.kv_heads * s.head_dim, q_width = s.heads * s.head_dim;
  const int64_t index_width = s.indexer.heads * s.indexer.head_dim;
  const auto nan = [&](int64_t width) {
    return Floats(static_cast<size_t>(blocks_each * kCacheBlock * width), kNaN);
  };
  for (const auto& table : tables) {
    Batch batch;
    batch.token_ids.resize(static_cast<size_t>(blocks_each * kCacheBlock));
    batch.sequences.push_back({0, static_cast<int32_t>(blocks_each * kCacheBlock), 0, {&table, 1}});
    Floats kv = nan(kv_width), keys = nan(s.indexer.head_dim), angles = nan(s.indexer.rotary_dim);
    store_kv(machine, *cache, batch, args, put(kv, kv_width), put(kv, kv_width));
    machine.store_index_keys(*cache, batch, args, indexer, put(keys, s.indexer.head_dim),
                             put(angles, s.indexer.rotary_dim));
  }

  std::vector<Floats> outs(sequences.size(), Floats(static_cast<size_t>(s.length * q_width)));
  for (int64_t first = 0; first < s.length; first += chunk) {
    const int64_t rows = std::min(chunk, s.length - first);
    Batch batch;
    Floats q, k, v, index_q, index_k, angles;
    for (int64_t i = 0; i < count; ++i) {
      const Sequence& sequence = *sequences[static_cast<size_t>(i)];
      batch.sequences.push_back({static_cast<int32_t>(i * rows),
                                 static_cast<int32_t>(rows),
                                 static_cast<int32_t>(first),
                                 {&tables[static_cast<size_t>(i)], 1}});
      const auto append = [&](Floats& to, const Floats& from, int64_t width) {
        to.insert(to.end(), from.begin() + first * width, from.begin() + (first + rows) * width);
      };
      append(q, sequence.q, q_width);
      append(k, sequence.k, kv_width);
      append(v, sequence.v, kv_width);
      append(index_q, sequence.index_q, index_width);
      append(index_k, sequence.index_k, s.indexer.head_dim);
      append(angles, sequence.angles, s.indexer.rotary_dim);
    }
    batch.token_ids.resize(static_cast<size_t>(rows * count));
    Floats room(q.size()), copy;
    const Rows out = put(room, q_width);
    store_kv(machine, *cache, batch, args, put(k, kv_width), put(v, kv_width));
    machine.store_index_keys(*cache, batch, args, indexer, put(index_k, s.indexer.head_dim),
                             put(angles, s.indexer.rotary_dim));
    const Rows queries = put(q, q_width);
    if (plain)
      machine.attention(*cache, batch, args, queries, out);
    else
      machine.indexed_attention(*cache, batch, args, indexer, put(index_q, index_width), queries, out);
    const std::span<const float> got = machine.host(out, copy);
    for (int64_t i = 0; i < count; ++i)
      std::copy_n(got.begin() + i * rows * q_width, rows * q_width,
                  outs[static_cast<size_t>(i)].begin() + first * q_width);
  }
  return outs;
}

inline const Shape kShapes[] = {{4, 2, 32, {8, 16, 8, 4, 16}, 90},     {2, 1, 16, {1, 8, 8, 1, 5}, 70},
                                {6, 2, 40, {3, 20, 4, 8, 40}, 101},    {3, 3, 24, {2, 17, 2, 32, 32}, 100},
                                {12, 1, 64, {4, 128, 64, 2, 64}, 150}, {4, 2, 32, {2, 16, 8, 16, 1600}, 60},
                                {20, 1, 16, {2, 16, 8, 4, 136}, 270}};

}  // namespace qwen::test::indexed
