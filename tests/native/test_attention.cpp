// Attention through the backend: against the textbook in double, and bit equality however the rows arrive.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernel_fixtures.h"

namespace {

using namespace qwen;
using namespace qwen::test;

struct Shape {
  int64_t heads, kv_heads, head_dim, window, length;
};

// One sequence's q, k, v for all its positions.
struct Sequence {
  Floats q, k, v;
  Sequence(Random& random, const Shape& shape)
      : q(random.floats(shape.length * shape.heads * shape.head_dim, -2, 2)),
        k(random.floats(shape.length * shape.kv_heads * shape.head_dim, -2, 2)),
        v(random.floats(shape.length * shape.kv_heads * shape.head_dim, -2, 2)) {}
};

float rounded(float x, Precision precision) {
  uint16_t bits;
  if (precision == Precision::f32) return x;
  cpu::portable_kernels().narrow_bf16(&x, 1, &bits);
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

// softmax(scale q k^T) v over plain arrays, no blocks, no cache.
Floats textbook(const Sequence& sequence, const Shape& s, float scale, Precision precision) {
  Floats out(sequence.q.size());
  for (int64_t position = 0; position < s.length; ++position) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t kv_head = h / (s.heads / s.kv_heads);
      const int64_t first = s.window > 0 ? std::max<int64_t>(0, position - s.window + 1) : 0;
      const float* const q = &sequence.q[static_cast<size_t>((position * s.heads + h) * s.head_dim)];
      const auto at = [&](int64_t p) { return static_cast<size_t>((p * s.kv_heads + kv_head) * s.head_dim); };
      std::vector<double> scores;
      for (int64_t p = first; p <= position; ++p) {
        double score = 0;
        for (int64_t d = 0; d < s.head_dim; ++d) {
          score += double{q[d]} * rounded(sequence.k[at(p) + static_cast<size_t>(d)], precision);
        }
        scores.push_back(score * scale);
      }
      const double maximum = *std::ranges::max_element(scores);
      double total = 0;
      for (double& score : scores) total += score = std::exp(score - maximum);
      for (int64_t d = 0; d < s.head_dim; ++d) {
        double value = 0;
        for (int64_t p = first; p <= position; ++p) {
          value += scores[static_cast<size_t>(p - first)] *
                   rounded(sequence.v[at(p) + static_cast<size_t>(d)], precision);
        }
        out[static_cast<size_t>((position * s.heads + h) * s.head_dim + d)] =
            static_cast<float>(value / total);
      }
    }
  }
  return out;
}

float scale_of(const Shape& shape) {
  return 1 / std::sqrt(static_cast<float>(shape.head_dim));
}

// Runs the sequences side by side, `chunk` rows of each per step, on a cache whose every slot starts as NaN.
std::vector<Floats> run(const std::string& isa, Precision precision, int threads, const Shape& shape,
                        const std::vector<const Sequence*>& sequences, int64_t chunk) {
  const auto cpu = backend(isa, precision, threads);
  const CacheGroupSpec spec{2, shape.kv_heads, shape.head_dim, shape.window};
  const int64_t blocks_each = (shape.length + kCacheBlock - 1) / kCacheBlock;
  const int64_t count = static_cast<int64_t>(sequences.size()), blocks = blocks_each * count;
  const auto cache = cpu->create_cache(spec, blocks);
  // Scattered blocks, in an order that differs between sequences.
  std::vector<std::vector<int32_t>> tables;
  for (int64_t s = 0; s < count; ++s) {
    tables.emplace_back();
    for (int64_t b = 0; b < blocks_each; ++b) {
      tables.back().push_back(static_cast<int32_t>((blocks_each - 1 - b) * count + s));
    }
  }
  AttentionArgs args{shape.heads, shape.kv_heads, shape.head_dim, shape.window, scale_of(shape), 0, 1};

  // Garbage everywhere: a sequence of NaN is written over each table once.
  const int64_t kv_width = shape.kv_heads * shape.head_dim, q_width = shape.heads * shape.head_dim;
  Floats nan(static_cast<size_t>(blocks_each * kCacheBlock * kv_width),
             std::numeric_limits<float>::quiet_NaN());
  for (int64_t s = 0; s < count; ++s) {
    Batch batch;
    batch.token_ids.resize(static_cast<size_t>(blocks_each * kCacheBlock));
    batch.sequences.push_back(
        {0, static_cast<int32_t>(blocks_each * kCacheBlock), 0, {&tables[static_cast<size_t>(s)], 1}});
    store_kv(*cpu, *cache, batch, args, rows_of(nan, kv_width), rows_of(nan, kv_width));
  }

  std::vector<Floats> outs(sequences.size(), Floats(static_cast<size_t>(shape.length * q_width)));
  for (int64_t first = 0; first < shape.length; first += chunk) {
    const int64_t rows = std::min(chunk, shape.length - first);
    Batch batch;
    Floats q, k, v;
    for (int64_t s = 0; s < count; ++s) {
      const Sequence& sequence = *sequences[static_cast<size_t>(s)];
      batch.sequences.push_back({static_cast<int32_t>(s * rows),
                                 static_cast<int32_t>(rows),
                                 static_cast<int32_t>(first),
                                 {&tables[static_cast<size_t>(s)], 1}});
      const auto append = [&](Floats& to, const Floats& from, int64_t width) {
        to.insert(to.end(), from.begin() + first * width, from.begin() + (first + rows) * width);
      };
      append(q, sequence.q, q_width);
      append(k, sequence.k, kv_width);
      append(v, sequence.v, kv_width);
    }
    batch.token_ids.resize(static_cast<size_t>(rows * count));
    Floats out(q.size());
    store_kv(*cpu, *cache, batch, args, rows_of(k, kv_width), rows_of(v, kv_width));
    cpu->attention(*cache, batch, args, rows_of(q, q_width), rows_of(out, q_width));
    for (int64_t s = 0; s < count; ++s) {
      std::copy_n(out.begin() + s * rows * q_width, rows * q_width,
                  outs[static_cast<size_t>(s)].begin() + first * q_width);
    }
  }
  return outs;
}

}  // namespace

TEST_CASE("attention equals the textbook at every level, shape and window") {
  Random random(11);
  const Shape shapes[] = {{2, 1, 16, 0, 5},    {4, 2, 24, 0, 70},  {3, 3, 40, 0, 33},   {8, 1, 72, 0, 64},
                          {16, 2, 128, 0, 90}, {2, 2, 256, 0, 40}, {4, 2, 64, 7, 100},  {2, 1, 80, 32, 97},
                          {5, 1, 32, 33, 130}, {6, 2, 48, 1, 65},  {14, 2, 64, 50, 150}};
  for (const Shape& shape : shapes) {
    CAPTURE(shape.head_dim);
    CAPTURE(shape.window);
    const Sequence sequence(random, shape);
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      const Floats want = textbook(sequence, shape, scale_of(shape), precision);
      for (const std::string& isa : isas()) {
        CAPTURE(isa);
        // Tiles take queries and probabilities rounded to bfloat16.
        const bool tiles = isa == "amx" && precision == Precision::bf16;
        Sequence rounded_q = sequence;
        if (tiles) rounded_q.q = as_multiplied(sequence.q, isa);
        const Floats expected = tiles ? textbook(rounded_q, shape, scale_of(shape), precision) : want;
        CHECK(distance(run(isa, precision, 2, shape, {&sequence}, shape.length)[0], expected, 1.0) <
              (tiles ? 4e-3 : 4e-6));
      }
    }
  }
}

TEST_CASE("attention: the same bits for any chunking, batch mix and thread count") {
  Random random(12);
  for (const Shape& shape : {Shape{4, 2, 40, 0, 75}, Shape{4, 2, 64, 37, 101}, Shape{16, 2, 128, 0, 66},
                             Shape{3, 1, 128, 20, 70}}) {
    const Sequence a(random, shape), b(random, shape);
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      for (const std::string& isa : isas()) {
        const Floats one_by_one = run(isa, precision, 1, shape, {&a}, 1)[0];
        for (const int threads : {1, 2, 3}) {
          for (const int64_t chunk : {int64_t{1}, int64_t{2}, int64_t{13}, int64_t{32}, shape.length}) {
            CAPTURE(chunk);
            CHECK(same_bits(run(isa, precision, threads, shape, {&a}, chunk)[0], one_by_one));
          }
        }
        CHECK(same_bits(run(isa, precision, 2, shape, {&b, &a}, 7)[1], one_by_one));
        CHECK(same_bits(run(isa, precision, 2, shape, {&a, &b, &a}, shape.length)[2], one_by_one));
      }
    }
  }
}

TEST_CASE("store_heads has the bits of norm, rotation and storing one after the other") {
  Random random(17);
  const int64_t head_dim = 48, heads = 4, kv_heads = 2, rows = 75;
  const AttentionArgs args{heads, kv_heads, head_dim, 0, 0.2f, 0, 0};
  const Floats q = random.floats(rows * heads * head_dim), k = random.floats(rows * kv_heads * head_dim);
  Floats v = random.floats(rows * kv_heads * head_dim), angles = random.floats(rows * 32);
  const Floats q_scale = random.floats(head_dim), k_scale = random.floats(head_dim);
  const std::vector<int32_t> tables[] = {{3, 0}, {2, 1}};
  Batch batch;  // two sequences, the second one in the middle of a block
  batch.token_ids.resize(static_cast<size_t>(rows));
  batch.sequences.push_back({0, 50, 0, {&tables[0], 1}});
  batch.sequences.push_back({50, 25, 20, {&tables[1], 1}});
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    for (const std::string& isa : isas()) {
      CAPTURE(isa);
      const auto cpu = backend(isa, precision, 3);
      const WeightPtr q_norm = cpu->load(tensor(q_scale, {head_dim}), WeightUse::vector),
                      k_norm = cpu->load(tensor(k_scale, {head_dim}), WeightUse::vector);
      const auto attend = [&](bool together) {
        const auto cache = cpu->create_cache({1, kv_heads, head_dim, 0}, 4);
        // What an earlier step left before the second sequence's rows.
        Floats zeros(static_cast<size_t>(20 * kv_heads * head_dim));
        Batch earlier;
        earlier.token_ids.resize(20);
        earlier.sequences.push_back({0, 20, 0, {&tables[1], 1}});
        store_kv(*cpu, *cache, earlier, args, rows_of(zeros, kv_heads * head_dim),
                 rows_of(zeros, kv_heads * head_dim));
        Floats own_q = q, own_k = k, out(q.size());
        const Rows q_rows = rows_of(own_q, heads * head_dim), k_rows = rows_of(own_k, kv_heads * head_dim),
                   v_rows = rows_of(v, kv_heads * head_dim), turn = rows_of(angles, 32);
        if (together) {
          cpu->store_heads(*cache, batch, args, {q_norm.get(), k_norm.get(), 1e-6f}, turn, q_rows, k_rows,
                           v_rows);
        } else {
          cpu->rms_norm(q_rows.reshaped(head_dim), *q_norm, 1e-6f, q_rows.reshaped(head_dim));
          cpu->rms_norm(k_rows.reshaped(head_dim), *k_norm, 1e-6f, k_rows.reshaped(head_dim));
          cpu->rope(q_rows, head_dim, turn);
          cpu->rope(k_rows, head_dim, turn);
          store_kv(*cpu, *cache, batch, args, k_rows, v_rows);
        }
        cpu->attention(*cache, batch, args, q_rows, rows_of(out, heads * head_dim));
        out.insert(out.end(), own_q.begin(), own_q.end());
        return out;
      };
      CHECK(same_bits(attend(true), attend(false)));
    }
  }
}
