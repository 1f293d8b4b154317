// The operations that Qwen4-Exp needs beside those of the other hybrids: against the textbook in double, and bit equality
// however the rows arrive.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "indexer_fixtures.h"
#include "ngram_fixtures.h"

namespace {

using namespace qwen;
using namespace qwen::test;
using namespace qwen::test::indexed;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

// ---- attention to what an indexer picks ----

std::vector<Floats> run(const std::string& isa, Precision precision, int threads, const Shape& s,
                        const Floats& norm, const std::vector<const Sequence*>& sequences, int64_t chunk) {
  return run(*backend(isa, precision, threads), rows_of, s, norm, sequences, chunk);
}

// ---- a dilated convolution, whose inputs are kept as states are ----

Floats textbook(const ConvolutionShape& s, const Floats& x, const Floats& kernel) {
  Floats out(x.size());
  const auto length = static_cast<int64_t>(x.size()) / s.channels;
  for (int64_t t = 0; t < length; ++t) {
    for (int64_t c = 0; c < s.channels; ++c) {
      double sum = 0;
      for (int64_t j = 0; j < s.kernel; ++j) {
        const int64_t from = t - (s.kernel - 1 - j) * s.dilation;
        if (from >= 0)
          sum += double{kernel[static_cast<size_t>(c * s.kernel + j)]} *
                 x[static_cast<size_t>(from * s.channels + c)];
      }
      out[static_cast<size_t>(t * s.channels + c)] = static_cast<float>(sum * sigmoid(sum));
    }
  }
  return out;
}

class Convolution {
 public:
  Convolution(const std::string& isa, int threads, const ConvolutionShape& shape, const Floats& kernel)
      : cpu_(backend(isa, Precision::bf16, threads)), args_{.shape = shape, .group = 0, .layer = 1} {
    CacheGroupSpec spec;
    spec.layers = 2;
    spec.convolution = shape;
    cache_ = cpu_->create_cache(spec, 16);
    kernel_ = cpu_->load(tensor(kernel, {shape.channels, 1, shape.kernel}), WeightUse::convolution);
  }

  // Positions [first, end) of x in steps of `chunk`, whose states at the beginning of the chunks `kept` are kept.
  Floats run(const Floats& x, int64_t first, int64_t end, int64_t chunk, const std::vector<int32_t>& kept,
             int32_t slot = 3) {
    const int64_t channels = args_.shape.channels;
    Floats outs;
    for (; first < end; first += chunk) {
      const int64_t rows = std::min(chunk, end - first);
      std::vector<int32_t> table(static_cast<size_t>((first + rows) / kStateChunk) + 1, -1);
      for (const int32_t c : kept)
        if (static_cast<size_t>(c) < table.size()) table[static_cast<size_t>(c)] = c;
      Batch batch;
      batch.token_ids.resize(static_cast<size_t>(rows));
      batch.sequences.push_back({.first_row = 0,
                                 .row_count = static_cast<int32_t>(rows),
                                 .context_length = static_cast<int32_t>(first),
                                 .block_tables = {&table, 1},
                                 .state_slot = slot});
      Floats in(x.begin() + first * channels, x.begin() + (first + rows) * channels), out(in.size());
      cpu_->convolution(*cache_, batch, args_, rows_of(in, channels), *kernel_, rows_of(out, channels));
      outs.insert(outs.end(), out.begin(), out.end());
    }
    return outs;
  }

 private:
  std::unique_ptr<Backend> cpu_;
  ConvolutionArgs args_;
  std::unique_ptr<CacheStorage> cache_;
  WeightPtr kernel_;
};

}  // namespace

TEST_CASE("attention to what an indexer picks equals the textbook at every level and shape") {
  Random random(41);
  for (const Shape& shape : kShapes) {
    CAPTURE(shape.indexer.ratio);
    CAPTURE(shape.length);
    const Sequence sequence(random, shape);
    const Floats norm = random.floats(shape.indexer.head_dim, 0.5, 1.5);
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      const Floats want = textbook(sequence, shape, norm, precision);
      for (const std::string& isa : isas()) {
        CAPTURE(isa);
        const Floats got = run(isa, precision, 2, shape, norm, {&sequence}, shape.length)[0];
        const bool tiles = isa == "amx" && precision == Precision::bf16;  // q and probabilities are rounded
        CHECK(distance(got, want, 1.0) < (tiles ? 1e-2 : 4e-6));
      }
    }
  }
}

TEST_CASE("attention to what an indexer picks: the same bits for any chunking, batch mix and thread count") {
  Random random(42);
  for (const Shape& shape : kShapes) {
    const Sequence a(random, shape), b(random, shape);
    const Floats norm = random.floats(shape.indexer.head_dim, 0.5, 1.5);
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      for (const std::string& isa : isas()) {
        const Floats one_by_one = run(isa, precision, 1, shape, norm, {&a}, 1)[0];
        for (const int threads : {1, 3}) {
          for (const int64_t chunk : {int64_t{2}, int64_t{13}, int64_t{32}, shape.length}) {
            CAPTURE(chunk);
            CHECK(same_bits(run(isa, precision, threads, shape, norm, {&a}, chunk)[0], one_by_one));
          }
        }
        CHECK(same_bits(run(isa, precision, 2, shape, norm, {&b, &a}, 7)[1], one_by_one));
      }
    }
  }
}

TEST_CASE("of groups that an indexer scores alike the first are picked, and NaN scores as nothing") {
  Random random(43);
  const Shape shape = kShapes[0];
  Sequence sequence(random, shape);
  const Floats norm = random.floats(shape.indexer.head_dim, 0.5, 1.5);
  std::fill(sequence.index_q.begin(), sequence.index_q.end(), 0.0f);
  const Floats want = textbook(sequence, shape, norm, Precision::f32);
  CHECK(seen(sequence, shape, norm, 50) ==
        std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 48, 49, 50});
  for (const std::string& isa : isas()) {
    Sequence broken = sequence;
    std::fill(broken.index_q.begin(), broken.index_q.end(), kNaN);
    for (const Sequence* s : {&std::as_const(sequence), &std::as_const(broken)})
      CHECK(distance(run(isa, Precision::f32, 2, shape, norm, {s}, 20)[0], want, 1.0) < 4e-6);
  }
}

TEST_CASE("a row that an indexer lets see everything has the bits of attention without one") {
  Random random(44);
  const Shape shape = kShapes[5];
  const Sequence sequence(random, shape);
  const Floats norm = random.floats(shape.indexer.head_dim);
  for (const std::string& isa : isas()) {
    const auto cpu = backend(isa, Precision::bf16, 2);
    const AttentionArgs args{shape.heads, shape.kv_heads, shape.head_dim, 0, scale_of(shape), 0, 0};
    const auto cache =
        cpu->create_cache({.layers = 1, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim}, 2);
    Batch batch;
    batch.token_ids.resize(static_cast<size_t>(shape.length));
    const std::vector<int32_t> table = {1, 0};
    batch.sequences.push_back({0, static_cast<int32_t>(shape.length), 0, {&table, 1}});
    Floats q = sequence.q, k = sequence.k, v = sequence.v, out(q.size());
    const int64_t width = shape.kv_heads * shape.head_dim;
    store_kv(*cpu, *cache, batch, args, rows_of(k, width), rows_of(v, width));
    cpu->attention(*cache, batch, args, rows_of(q, shape.heads * shape.head_dim),
                   rows_of(out, shape.heads * shape.head_dim));
    CHECK(same_bits(run(isa, Precision::bf16, 2, shape, norm, {&sequence}, 17)[0], out));
  }
}

TEST_CASE(
    "a dilated convolution: the textbook's numbers, and the same bits for any chunking and from a kept "
    "state") {
  Random random(45);
  for (const ConvolutionShape& shape :
       {ConvolutionShape{20, 4, 3}, ConvolutionShape{300, 4, 3}, ConvolutionShape{7, 16, 4},
        ConvolutionShape{33, 2, 63}, ConvolutionShape{5, 1, 9}}) {
    CAPTURE(shape.dilation);
    const int64_t length = 215;
    const Floats x = random.floats(length * shape.channels, -2, 2);
    const Floats kernel = random.floats(shape.channels * shape.kernel);
    const Floats want = textbook(shape, x, kernel);
    const Floats garbage(x.size(), kNaN);
    for (const std::string& isa : isas()) {
      CAPTURE(isa);
      Convolution convolution(isa, 2, shape, kernel);
      convolution.run(garbage, 0, length, length, {1, 2, 3});
      const Floats one_by_one = convolution.run(x, 0, length, 1, {1, 2, 3});
      CHECK(distance(one_by_one, want, 1.0) < 2e-6);
      for (const int64_t chunk : {int64_t{2}, int64_t{13}, int64_t{64}, int64_t{100}, length}) {
        CAPTURE(chunk);
        CHECK(same_bits(convolution.run(x, 0, length, chunk, {1, 2, 3}), one_by_one));
        const Floats rest = convolution.run(x, 128, length, chunk, {2, 3}, 5);
        CHECK(same_bits(rest, Floats(one_by_one.begin() + 128 * shape.channels, one_by_one.end())));
      }
    }
  }
}

TEST_CASE("a weight of several norms gives each row its own, in turn") {
  Random random(46);
  constexpr int64_t kStreams = 3, kWidth = 50, kRows = 7;
  Floats x = random.floats(kRows * kStreams * kWidth), out(x.size());
  const Floats weight = random.floats(kStreams * kWidth);
  for (const std::string& isa : isas()) {
    const auto cpu = backend(isa, Precision::f32);
    const WeightPtr all = cpu->load(tensor(weight, {kStreams * kWidth}), WeightUse::vector);
    cpu->rms_norm(rows_of(x, kWidth), *all, 1e-6f, rows_of(out, kWidth));
    for (int64_t s = 0; s < kStreams; ++s) {
      const Floats part(weight.begin() + s * kWidth, weight.begin() + (s + 1) * kWidth);
      const WeightPtr one = cpu->load(tensor(part, {kWidth}), WeightUse::vector);
      for (int64_t r = 0; r < kRows; ++r) {
        const auto at = x.begin() + (r * kStreams + s) * kWidth;
        Floats in(at, at + kWidth), want(static_cast<size_t>(kWidth));
        cpu->rms_norm(rows_of(in, kWidth), *one, 1e-6f, rows_of(want, kWidth));
        const auto got = out.begin() + (r * kStreams + s) * kWidth;
        CHECK(same_bits(Floats(got, got + kWidth), want));
      }
    }
  }
}

TEST_CASE("rows of n-grams are those that the rule names, however the tokens arrive") {
  Random random(47);
  for (const ngrams::Shape& shape : ngrams::kShapes) {
    const ngrams::Table table(shape);
    const std::vector<std::vector<int32_t>> texts = {
        ngrams::text(random, shape, 40), ngrams::text(random, shape, 1), ngrams::text(random, shape, 90)};
    const auto cpu = backend("", Precision::f32, 3);
    Floats room;
    const auto rows = [&](int64_t count, int64_t width) {
      room.assign(static_cast<size_t>(count * width), kNaN);
      return rows_of(room, width);
    };
    for (const std::vector<int64_t>& pieces :
         {std::vector<int64_t>{90}, std::vector<int64_t>{1}, std::vector<int64_t>{3, 0, 17, 2}}) {
      const std::vector<Floats> got = ngrams::run(*cpu, rows, table, texts, pieces);
      for (size_t i = 0; i < texts.size(); ++i) CHECK(same_bits(got[i], ngrams::textbook(table, texts[i])));
    }
  }
}

TEST_CASE("residual streams are mixed, gated and added to as the formulas say") {
  Random random(48);
  for (const int64_t streams : {int64_t{2}, int64_t{4}, int64_t{7}}) {
    constexpr int64_t kRows = 300, kWidth = 33;
    const int64_t wide = streams * kWidth;
    const auto cpu = backend("", Precision::f32, 3);
    Floats x = random.floats(kRows * wide, -4, 4), y = random.floats(kRows * wide, -4, 4);
    Floats h = random.floats(kRows * kWidth), gate = random.floats(kRows * streams, -8, 8);
    std::fill_n(y.begin(), wide, 0.0f);  // the gate of 0 is one half
    Floats mean(h.size()), added = x, gated(x.size()), silu(x.size());
    cpu->mean_of_streams(rows_of(x, wide), rows_of(mean, kWidth));
    cpu->add_to_streams(rows_of(h, kWidth), rows_of(gate, streams), rows_of(added, wide));
    cpu->gate_streams(rows_of(x, wide), rows_of(y, wide), rows_of(h, kWidth), rows_of(gated, wide));
    cpu->silu(rows_of(x, wide), 0.25f, rows_of(silu, wide));
    Floats want_mean(mean.size()), want_added(x.size()), want_gated(x.size()), want_silu(x.size());
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t s = 0; s < streams; ++s) {
        const auto at = static_cast<size_t>(r * wide + s * kWidth);
        double product = 0;
        for (size_t i = 0; i < kWidth; ++i) product += double{x[at + i]} * y[at + i];
        product /= std::sqrt(double{kWidth});
        const double root = std::sqrt(std::max(std::abs(product), 1e-6));
        const double weight = product == 0 ? 0.5 : sigmoid(product > 0 ? root : -root);
        const double factor =
            2 * sigmoid(gate[static_cast<size_t>(r * streams + s)] / static_cast<double>(streams));
        for (size_t i = 0; i < kWidth; ++i) {
          const size_t one = static_cast<size_t>(r * kWidth) + i;
          want_mean[one] += static_cast<float>(x[at + i] / static_cast<double>(streams));
          want_added[at + i] = static_cast<float>(x[at + i] + factor * h[one]);
          want_gated[at + i] = static_cast<float>(weight * h[one]);
          want_silu[at + i] = static_cast<float>(x[at + i] * 0.25 * sigmoid(x[at + i] * 0.25));
        }
      }
    }
    CHECK(distance(mean, want_mean, 1.0) < 1e-6);
    CHECK(distance(added, want_added, 1.0) < 1e-6);
    CHECK(distance(gated, want_gated, 1.0) < 1e-6);
    CHECK(distance(silu, want_silu, 1.0) < 1e-6);
  }
}
