// Quantised matrices on the CPU: each format against its formula, and the promises about bits and memory.
#include <doctest/doctest.h>
#include <malloc.h>

#include <algorithm>
#include <array>
#include <limits>

#include "backend/cpu/cpu_dequantize.h"
#include "backend/reference/quantized.h"
#include "base/error.h"
#include "quantized_fixtures.h"

using namespace qwen;
using namespace qwen::test;
using cpu::Panel;
using cpu::QuantizedMatrix;

namespace {

// The whole matrix in float32, element by element.
Floats dense(const QuantizedTensor& tensor) {
  Floats values;
  for (int64_t o = 0; o < tensor.out; ++o)
    for (int64_t r = 0; r < tensor.in; ++r) values.push_back(reference::quantized_element(tensor, o, r));
  return values;
}

std::string text(const QuantizedCase& c) {
  return cat(quantization_method_name(c.config.method), " bits ", c.config.bits, " group ",
             c.config.group_size, " block ", c.config.block_rows, "x", c.config.block_columns, " [", c.out,
             ", ", c.in, "]");
}

}  // namespace

TEST_CASE("a quantised matrix has the bits of its formula in every panel, at every level") {
  Random random(11);
  for (const QuantizedCase& c : quantized_cases()) {
    CAPTURE(text(c));
    const QuantizedFile file(random, c);
    const QuantizedTensor tensor = file.tensor();
    const QuantizedMatrix matrix(tensor);
    const Floats want = dense(tensor);
    for (const cpu::Isa isa : cpu::available_isas()) {
      for (int round = 0; round < 20; ++round) {
        Panel panel{0, c.out, 0, c.in};
        if (round > 0) {
          panel.output = random.integer(0, c.out - 1);
          panel.outputs = random.integer(1, c.out - panel.output);
          panel.input = random.integer(0, c.in - 1);
          panel.inputs = random.integer(1, c.in - panel.input);
        }
        const int64_t stride = panel.inputs + random.integer(0, 3);
        // What lies between and behind the rows stays as it is.
        Floats got(static_cast<size_t>(panel.outputs * stride), -7.0f), expected = got;
        for (int64_t n = 0; n < panel.outputs; ++n)
          std::copy_n(want.begin() + (panel.output + n) * c.in + panel.input, panel.inputs,
                      expected.begin() + n * stride);
        matrix.dequantize(cpu::kernels(isa), panel, got.data(), stride);
        CHECK(same_bits(got, expected));
      }
    }
  }
}

TEST_CASE("linear over a quantised matrix has the bits of linear over its float32 values, at any row count") {
  Random random(12);
  constexpr int64_t kRows = 140;
  for (const QuantizedCase& c : quantized_cases()) {
    CAPTURE(text(c));
    const QuantizedFile file(random, c);
    const QuantizedTensor tensor = file.tensor();
    const Floats values = dense(tensor);
    Floats x = random.floats(kRows * c.in);
    const FileBytes plain = random_elements(random, cpu::Format::bf16, 5 * c.in);
    const Floats bias_values = random.floats(c.out);
    for (const std::string& isa : isas()) {
      CAPTURE(isa);
      // Beside the quantised one a plain projection, as in files that leave some matrices alone.
      const auto run = [&](bool quantized, Precision precision, int threads, int64_t rows_at_once) {
        const auto cpu = backend(isa, precision, threads);
        const WeightPtr weight =
            quantized ? cpu->load(tensor)
                      : cpu->load(qwen::test::tensor(values, {c.out, c.in}), WeightUse::matrix);
        const WeightPtr other =
            cpu->load(qwen::test::tensor(plain.data(), DType::bf16, {5, c.in}), WeightUse::matrix);
        const WeightPtr bias = cpu->load(qwen::test::tensor(bias_values, {c.out}), WeightUse::vector);
        Floats out(static_cast<size_t>(kRows * c.out), 0.5f), beside(static_cast<size_t>(kRows * 5));
        for (int64_t first = 0; first < kRows; first += rows_at_once) {
          const int64_t rows = std::min(rows_at_once, kRows - first);
          const std::array projections = {
              Projection{other.get(), nullptr, {beside.data() + first * 5, rows, 5}},
              Projection{weight.get(), bias.get(), {out.data() + first * c.out, rows, c.out}, true}};
          cpu->linear({x.data() + first * c.in, rows, c.in}, projections);
        }
        out.insert(out.end(), beside.begin(), beside.end());
        return out;
      };
      const Floats want = run(false, Precision::f32, 1, 7);
      CHECK(same_bits(run(true, Precision::f32, 1, 1), want));
      for (const int threads : {1, 3})
        for (const int64_t rows_at_once : {5, 32, 33, 140})
          CHECK(same_bits(run(true, Precision::f32, threads, rows_at_once), want));
      // In bf16 the plain one may have other bits: tiles round what it multiplies.
      const auto quantised_part = [&](Floats out) {
        out.resize(static_cast<size_t>(kRows * c.out));
        return out;
      };
      CHECK(same_bits(quantised_part(run(true, Precision::bf16, 2, 32)), quantised_part(want)));
    }
  }
}

TEST_CASE("a quantised embedding table gives its rows") {
  Random random(13);
  for (const QuantizedCase& c : quantized_cases()) {
    const QuantizedFile file(random, c);
    const QuantizedTensor tensor = file.tensor();
    const Floats values = dense(tensor);
    const auto cpu = backend("", Precision::f32);
    const WeightPtr table = cpu->load(tensor);
    const int32_t last = static_cast<int32_t>(c.out - 1);
    const std::array ids = {last, 0, last / 2};
    Floats got(static_cast<size_t>(3 * c.in)), want;
    for (const int32_t id : ids)
      want.insert(want.end(), values.begin() + id * c.in, values.begin() + (id + 1) * c.in);
    cpu->embed(*table, ids, rows_of(got, c.in));
    CHECK(same_bits(got, want));
  }
}

TEST_CASE("every e4m3 code is its value, and NaN is data") {
  const QuantizedCase c{{.method = QuantizationMethod::fp8}, 1, 256, DType::f32};
  Random random(14);
  QuantizedFile file(random, c);
  for (int code = 0; code < 256; ++code) file.data("x.weight")[code] = static_cast<std::byte>(code);
  const float scales[] = {1.0f, std::numeric_limits<float>::quiet_NaN()};
  std::memcpy(file.data("x.weight_scale_inv"), scales, sizeof scales);
  Floats got(256);
  QuantizedMatrix(file.tensor()).dequantize(cpu::portable_kernels(), {0, 1, 0, 256}, got.data(), 256);
  CHECK(got[0x00] == 0);
  CHECK(got[0x01] == 0x1p-9f);  // the smallest subnormal
  CHECK(got[0x07] == 7 * 0x1p-9f);
  CHECK(got[0x08] == 0x1p-6f);
  CHECK(got[0x38] == 1);
  CHECK(got[0x39] == 1.125f);
  CHECK(got[0x7e] == 448);
  CHECK(std::isnan(got[0x7f]));
  for (size_t code = 0; code < 126; ++code) CHECK(got[code] < got[code + 1]);
  for (size_t code = 128; code < 256; ++code)
    CHECK(std::isnan(got[code]));  // the second block's scale is NaN
}

TEST_CASE("loading a quantised matrix takes no memory in proportion to its elements") {
  constexpr int64_t kSize = 2048;
  Random random(15);
  for (const QuantizationMethod method :
       {QuantizationMethod::fp8, QuantizationMethod::gptq, QuantizationMethod::awq}) {
    const QuantizedCase c{{.method = method}, kSize, kSize, DType::bf16, Groups::permuted};
    const QuantizedFile file(random, c);
    const QuantizedTensor tensor = file.tensor();
    const auto cpu = backend("", Precision::bf16, 1);
    const auto allocated = [] {
      const struct mallinfo2 info = mallinfo2();
      return info.uordblks + info.hblkhd;
    };
    const size_t before = allocated();
    const WeightPtr weight = cpu->load(tensor);
    CHECK(allocated() - before <= 8 * kSize + 1024);  // g_idx at most; the elements would be 2 MB packed
  }
}

TEST_CASE("g_idx is checked before anything is read by it") {
  const QuantizedCase c{
      {.method = QuantizationMethod::gptq, .group_size = 32}, 16, 64, DType::f16, Groups::ascending};
  Random random(16);
  for (const int32_t wrong :
       {2, -1, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()}) {
    QuantizedFile file(random, c);
    std::memcpy(file.data("x.g_idx") + 4 * 63, &wrong, 4);
    const auto cpu = backend("", Precision::f32);
    try {
      cpu->load(file.tensor());
      FAIL_CHECK("no error");
    } catch (const Error& error) {
      CHECK(error.status() == Status::invalid_file);
      CHECK(error.message() ==
            cat("memory: tensor 'x.g_idx' holds ", wrong, " at 63; it must hold groups from 0 to 1"));
    }
  }
}
