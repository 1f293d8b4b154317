// The CUDA backend's attention to what an indexer picks: against the textbook, and bit equality however the rows arrive.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

#include "device_arrays.h"
#include "indexer_fixtures.h"

using namespace qwen;
using namespace qwen::test;
using namespace qwen::test::indexed;

namespace {

std::vector<Floats> run(Precision precision, const Shape& shape, const Floats& norm,
                        const std::vector<const Sequence*>& sequences, int64_t chunk, bool plain = false) {
  DeviceArrays arrays;
  std::vector<cuda::Memory> memory;
  const auto gpu = create_cuda_backend({.precision = precision, .device = 0});  // ends before its rows do
  const auto put = [&](const Floats& values, int64_t width) {
    memory.push_back(arrays.put(values));
    return Rows{memory.back().data(), static_cast<int64_t>(values.size()) / width, width};
  };
  return run(*gpu, put, shape, norm, sequences, chunk, plain);
}

}  // namespace

TEST_CASE(
    "cuda attention to what an indexer picks equals the textbook, any way the rows arrive with the same "
    "bits") {
  Random random(71);
  for (const Shape& shape : kShapes) {
    CAPTURE(shape.indexer.ratio);
    CAPTURE(shape.length);
    const Sequence a(random, shape), b(random, shape);
    const Floats norm = random.floats(shape.indexer.head_dim, 0.5, 1.5);
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      const Floats all = run(precision, shape, norm, {&a}, shape.length)[0];
      CHECK(distance(all, textbook(a, shape, norm, precision), 1.0) <
            (precision == Precision::bf16 ? 1e-2 : 4e-6));  // bf16: q and probabilities are rounded
      for (const int64_t chunk : {int64_t{1}, int64_t{13}, int64_t{32}})
        CHECK(same_bits(run(precision, shape, norm, {&a}, chunk)[0], all));
      CHECK(same_bits(run(precision, shape, norm, {&b, &a}, 7)[1], all));
    }
  }
}

TEST_CASE(
    "cuda indexer: of groups scored alike the first are picked, of many too, and NaN scores as nothing") {
  Random random(72);
  for (Shape shape : {kShapes[0], Shape{2, 1, 16, {2, 8, 8, 1, 70}, 600}}) {
    Sequence sequence(random, shape);
    const Floats norm = random.floats(shape.indexer.head_dim, 0.5, 1.5);
    // Whole numbers, and few of them: many groups are alike, but not all.
    for (float& number : sequence.index_q) number = number > 0.9f ? 1.0f : 0.0f;
    Sequence broken = sequence;
    std::ranges::fill(sequence.index_q, 0.0f);
    const Floats first = textbook(sequence, shape, norm, Precision::f32);
    CHECK(distance(run(Precision::f32, shape, norm, {&sequence}, 20)[0], first, 1.0) < 4e-6);
    CHECK(distance(run(Precision::f32, shape, norm, {&broken}, shape.length)[0],
                   textbook(broken, shape, norm, Precision::f32), 1.0) < 4e-6);
    std::ranges::fill(broken.index_q, std::numeric_limits<float>::quiet_NaN());
    CHECK(distance(run(Precision::f32, shape, norm, {&broken}, shape.length)[0], first, 1.0) < 4e-6);
  }
}

TEST_CASE("cuda indexer: a row that picks all there is has the bits of attention to all there is") {
  Random random(73);
  for (const size_t i : {size_t{0}, size_t{4}, std::size(kShapes) - 1}) {
    const Shape& shape = kShapes[i];
    const Sequence a(random, shape), b(random, shape);
    const Floats norm = random.floats(shape.indexer.head_dim, 0.5, 1.5);
    const auto same =
        static_cast<size_t>(std::min(shape.length, shape.indexer.budget + shape.indexer.ratio - 1) *
                            shape.heads * shape.head_dim);
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      const auto picked = run(precision, shape, norm, {&a, &b}, 11),
                 all = run(precision, shape, norm, {&a, &b}, 11, true);
      for (size_t s = 0; s < 2; ++s) {
        CHECK(same_bits(Floats(picked[s].begin(), picked[s].begin() + static_cast<int64_t>(same)),
                        Floats(all[s].begin(), all[s].begin() + static_cast<int64_t>(same))));
        if (same < all[s].size()) CHECK(!same_bits(picked[s], all[s]));
      }
    }
  }
}

TEST_CASE("cuda indexer: rows that are picked for in several turns have the bits of others") {
  Random random(74);
  // 288 kB of keys and as many of values for each row: for 455 rows there is room at a time.
  const Shape shape{1, 1, 256, {1, 8, 8, 4, 256}, 480};
  const Sequence sequence(random, shape);
  const Floats norm = random.floats(shape.indexer.head_dim, 0.5, 1.5);
  const Floats all = run(Precision::f32, shape, norm, {&sequence}, shape.length)[0];
  CHECK(same_bits(run(Precision::f32, shape, norm, {&sequence}, 240)[0], all));
}
