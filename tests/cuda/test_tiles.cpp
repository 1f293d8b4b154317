// What the backend's promise about bits takes for granted of a tile's product, and what only hardware can show.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "device_arrays.h"
#include "tile_probe.h"

using namespace qwen;
using namespace qwen::test;

namespace {

constexpr int64_t kTiles = 400;
constexpr size_t kRows = 16, kColumns = 8, kDepth = 16;

// Of magnitudes so far apart that the order of a sum, and what it drops, is in its bits.
Floats spread_out(Random& random, size_t n) {
  Floats values = random.floats(static_cast<int64_t>(n));
  for (float& value : values) value = std::ldexp(value, static_cast<int>(random.integer(-9, 9)));
  return values;
}

struct Tiles {
  Bits a, b;
  Floats d;
  explicit Tiles(Random& random)
      : a(to_bf16(spread_out(random, kTiles * kRows * kDepth))),
        b(to_bf16(spread_out(random, kTiles * kDepth * kColumns))),
        d(spread_out(random, kTiles * kRows * kColumns)) {}
};

Floats product(DeviceArrays& arrays, const Tiles& tiles) {
  const cuda::Memory a = arrays.put(tiles.a), b = arrays.put(tiles.b), d = arrays.put(tiles.d);
  multiply_tiles(*arrays.stream, on<uint16_t>(a), on<uint16_t>(b), on<float>(d), kTiles);
  return arrays.get<float>(d);
}

template <size_t Size>
std::vector<size_t> shuffled(Random& random) {
  std::vector<size_t> order(Size);
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t i = Size - 1; i > 0; --i)
    std::swap(order[i], order[static_cast<size_t>(random.integer(0, static_cast<int64_t>(i)))]);
  return order;
}

}  // namespace

TEST_CASE("a tile's product is the sum over its 16 columns, added to what was there") {
  DeviceArrays arrays;
  Random random(71);
  const Tiles tiles(random);
  const Floats got = product(arrays, tiles), a = widened(tiles.a), b = widened(tiles.b);
  for (size_t i = 0; i < got.size(); ++i) {
    const size_t tile = i / (kRows * kColumns), row = i / kColumns, column = i % kColumns;
    double sum = tiles.d[i], size = std::abs(sum);
    for (size_t k = 0; k < kDepth; ++k) {
      const double each = double{a[row * kDepth + k]} * double{b[(tile * kDepth + k) * kColumns + column]};
      sum += each;
      size += std::abs(each);
    }
    // A tile may drop what is below the last place of its largest number, each time.
    REQUIRE(std::abs(got[i] - sum) <= 1e-5 * size);
  }
}

TEST_CASE("a tile's product has the same bits in any row and column, whatever is beside it") {
  DeviceArrays arrays;
  Random random(72);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (int round = 0; round < 4; ++round) {
    CAPTURE(round);
    const Tiles tiles(random);
    Tiles moved(random);  // others beside it, in odd rounds NaN
    if (round % 2 == 1) {
      std::fill(moved.a.begin(), moved.a.end(), cuda::to_bf16(nan));
      std::fill(moved.b.begin(), moved.b.end(), cuda::to_bf16(nan));
      std::fill(moved.d.begin(), moved.d.end(), nan);
    }
    // Half of the rows and of the columns go elsewhere.
    std::vector<std::vector<size_t>> rows, columns;
    for (size_t tile = 0; tile < kTiles; ++tile) {
      rows.push_back(shuffled<kRows>(random));
      columns.push_back(shuffled<kColumns>(random));
      for (size_t i = 0; i < kRows / 2; ++i)
        std::copy_n(tiles.a.begin() + static_cast<std::ptrdiff_t>((tile * kRows + i) * kDepth), kDepth,
                    moved.a.begin() + static_cast<std::ptrdiff_t>((tile * kRows + rows[tile][i]) * kDepth));
      for (size_t k = 0; k < kDepth; ++k)
        for (size_t j = 0; j < kColumns / 2; ++j)
          moved.b[(tile * kDepth + k) * kColumns + columns[tile][j]] =
              tiles.b[(tile * kDepth + k) * kColumns + j];
      for (size_t i = 0; i < kRows / 2; ++i)
        for (size_t j = 0; j < kColumns / 2; ++j)
          moved.d[(tile * kRows + rows[tile][i]) * kColumns + columns[tile][j]] =
              tiles.d[(tile * kRows + i) * kColumns + j];
    }
    const Floats here = product(arrays, tiles), there = product(arrays, moved);
    Floats stayed, went;
    for (size_t tile = 0; tile < kTiles; ++tile)
      for (size_t i = 0; i < kRows / 2; ++i)
        for (size_t j = 0; j < kColumns / 2; ++j) {
          stayed.push_back(here[(tile * kRows + i) * kColumns + j]);
          went.push_back(there[(tile * kRows + rows[tile][i]) * kColumns + columns[tile][j]]);
        }
    CHECK(same_bits(stayed, went));
    CHECK(same_bits(product(arrays, tiles), here));  // and again
  }
}
