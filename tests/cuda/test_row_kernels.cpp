// Norms and embeddings of the CUDA backend against their naive twins, and their promise about bits.
#include <doctest/doctest.h>

#include "backend/cuda/embed.h"
#include "backend/cuda/rms_norm.h"
#include "backend/reference/reference.h"
#include "device_arrays.h"
#include "ngram_fixtures.h"

using namespace qwen;
using namespace qwen::test;
using cuda::Element;
using cuda::Memory;

namespace {

Floats norm(DeviceArrays& arrays, const Floats& x, const Floats& weight, int64_t width, float eps,
            size_t offset = 0) {
  const Memory of_x = arrays.put(x, offset), of_weight = arrays.put(weight),
               out = arrays.room<float>(x.size());
  cuda::rms_norm(*arrays.stream, {.x = on<float>(of_x, offset),
                                  .weight = on<float>(of_weight),
                                  .norms = static_cast<int64_t>(weight.size()) / width,
                                  .rows = static_cast<int64_t>(x.size()) / width,
                                  .width = width,
                                  .eps = eps,
                                  .out = out.data()});
  return arrays.get<float>(out);
}

}  // namespace

TEST_CASE(
    "cuda rms_norm equals the naive twin, a row has its bits in any batch, in place and as an operand") {
  DeviceArrays arrays;
  Random random(31);
  for (const int64_t width : {1, 16, 31, 128, 256, 511, 513, 640, 1023, 1024, 3001}) {
    for (const int64_t norms : {1, 3}) {
      CAPTURE(width);
      const int64_t rows = random.integer(4, 19);
      const float eps = 1e-6f;
      const Floats x = random.floats(rows * width, -3, 3), weight = random.floats(norms * width);
      Floats want(x.size());
      for (int64_t r = 0; r < rows; ++r)
        reference::rms_norm<double>(x.data() + r * width, weight.data() + r % norms * width, eps, width,
                                    want.data() + r * width);
      const Floats got = norm(arrays, x, weight, width, eps);
      CHECK(distance(got, want, 1e-3) < 2e-6);

      for (const int64_t r : {int64_t{0}, rows - 1}) {
        const auto row = [&](const Floats& from, int64_t index) {
          return Floats(from.begin() + index * width, from.begin() + (index + 1) * width);
        };
        const Floats alone =
            norm(arrays, row(x, r), row(weight, r % norms), width, eps, 1);  // and not aligned
        CHECK(same_bits(alone, row(got, r)));
      }

      const Memory in_place = arrays.put(x), of_weight = arrays.put(weight),
                   operand = arrays.room<uint16_t>(x.size());
      cuda::RmsNormArgs args = {.x = on<float>(in_place),
                                .weight = on<float>(of_weight),
                                .norms = norms,
                                .rows = rows,
                                .width = width,
                                .eps = eps,
                                .out = operand.data(),
                                .out_element = Element::bf16};
      cuda::rms_norm(*arrays.stream, args);
      CHECK(arrays.get<uint16_t>(operand) == to_bf16(got));
      args.out = in_place.data();
      args.out_element = Element::f32;
      cuda::rms_norm(*arrays.stream, args);
      CHECK(same_bits(arrays.get<float>(in_place), got));
    }
  }
}

TEST_CASE("cuda embed copies the entries of a table") {
  DeviceArrays arrays;
  Random random(32);
  for (const int64_t width : {1, 72, 300}) {
    const int64_t entries = 12, rows = 17;
    const Floats table = random.floats(entries * width);
    std::vector<int32_t> ids;
    for (int64_t r = 0; r < rows; ++r)
      ids.push_back(r < 2 ? static_cast<int32_t>(r) * 11
                          : static_cast<int32_t>(random.integer(0, entries - 1)));
    const Memory of_ids = arrays.put(ids);
    for (const Element element : {Element::f32, Element::bf16}) {
      const Floats kept = element == Element::f32 ? table : widened(to_bf16(table));
      Floats want;
      for (const int32_t id : ids)
        want.insert(want.end(), kept.begin() + id * width, kept.begin() + (id + 1) * width);

      const Memory whole = element == Element::f32 ? arrays.put(table) : arrays.put(to_bf16(table));
      const Memory out = arrays.room<float>(want.size());
      cuda::embed(*arrays.stream, cuda::EmbedArgs{.table = whole.data(),
                                                  .element = element,
                                                  .ids = on<int32_t>(of_ids),
                                                  .rows = rows,
                                                  .width = width,
                                                  .out = on<float>(out)});
      CHECK(same_bits(arrays.get<float>(out), want));
    }
  }
}

TEST_CASE("cuda rows of n-grams are those that the rule names, however the tokens arrive") {
  Random random(33);
  DeviceArrays arrays;
  for (const ngrams::Shape& shape : ngrams::kShapes) {
    const ngrams::Table table(shape);
    std::vector<std::vector<int32_t>> texts;
    for (const int64_t length : {40, 1, 2, 90, 3}) texts.push_back(ngrams::text(random, shape, length));
    std::vector<Memory> memory;
    const auto gpu = create_cuda_backend({.precision = Precision::f32, .device = 0});
    const auto rows = [&](int64_t count, int64_t width) {
      memory.push_back(arrays.room<float>(static_cast<size_t>(count * width)));
      return Rows{memory.back().data(), count, width};
    };
    for (const std::vector<int64_t>& pieces :
         {std::vector<int64_t>{90}, std::vector<int64_t>{1}, std::vector<int64_t>{3, 0, 17, 2}}) {
      const std::vector<Floats> got = ngrams::run(*gpu, rows, table, texts, pieces);
      for (size_t i = 0; i < texts.size(); ++i) CHECK(same_bits(got[i], ngrams::textbook(table, texts[i])));
    }
  }
}
