// Every instruction-set level of this machine against the naive twins in double, and the promises about bits.
#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <limits>

#include "backend/reference/reference.h"
#include "base/error.h"
#include "kernel_fixtures.h"

namespace {

using namespace qwen;
using namespace qwen::test;
using cpu::Format;
using cpu::Kernels;
using cpu::LinearTask;

constexpr Format kAllFormats[] = {Format::f32, Format::f16, Format::bf16};

void oracle(const LinearTask& task, Format format) {
  if (format == Format::f32)
    reference::linear<double, Format::f32>(task);
  else if (format == Format::f16)
    reference::linear<double, Format::f16>(task);
  else
    reference::linear<double, Format::bf16>(task);
}

}  // namespace

TEST_CASE("linear equals the naive twin at every level, format and shape") {
  Random random(1);
  for (const cpu::Isa isa : cpu::available_isas()) {
    CAPTURE(cpu::isa_name(isa));
    for (int round = 0; round < 60; ++round) {
      const Format format = kAllFormats[round % 3];
      const int64_t rows = random.integer(1, 70), k = random.integer(1, 300), outputs = random.integer(1, 40);
      CAPTURE(rows);
      CAPTURE(k);
      CAPTURE(outputs);
      const Floats x = random.floats(rows * k), bias = random.floats(outputs),
                   before = random.floats(rows * outputs);
      const FileBytes weight = random_elements(random, format, outputs * k, static_cast<size_t>(round % 4));
      Floats got = before, want = before;
      LinearTask task{.x = x.data(),
                      .x_stride = k,
                      .rows = rows,
                      .weight = weight.data(),
                      .weight_stride = k,
                      .outputs = outputs,
                      .k = k,
                      .bias = round % 2 ? bias.data() : nullptr,
                      .out = got.data(),
                      .out_stride = outputs,
                      .accumulate = round % 5 == 0};
      cpu::kernels(isa).linear[static_cast<int>(format)](task);
      task.out = want.data();
      oracle(task, format);
      CHECK(distance(got, want, 1.0) < 4e-6);
    }
  }
}

TEST_CASE("a linear output has the same bits alone and among other rows and outputs") {
  Random random(2);
  const int64_t k = 203, outputs = 37, rows = 70;
  const Floats x = random.floats(rows * k);
  for (const cpu::Isa isa : cpu::available_isas()) {
    for (const Format format : kAllFormats) {
      const auto kernel = cpu::kernels(isa).linear[static_cast<int>(format)];
      const int64_t row_bytes = k * (format == Format::f32 ? 4 : 2);
      const FileBytes weight = random_elements(random, format, outputs * k);
      Floats all(static_cast<size_t>(rows * outputs)), single(all.size());
      LinearTask task{.x = x.data(),
                      .x_stride = k,
                      .rows = rows,
                      .weight = weight.data(),
                      .weight_stride = k,
                      .outputs = outputs,
                      .k = k,
                      .out = all.data(),
                      .out_stride = outputs};
      kernel(task);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t n = 0; n < outputs; ++n) {
          kernel({.x = x.data() + r * k,
                  .x_stride = k,
                  .rows = 1,
                  .weight = weight.data() + n * row_bytes,
                  .weight_stride = k,
                  .outputs = 1,
                  .k = k,
                  .out = single.data() + r * outputs + n,
                  .out_stride = outputs});
        }
      }
      CHECK(same_bits(all, single));
    }
  }
}

TEST_CASE("backend linear: the same bits for any row count, thread count and grouping of projections") {
  Random random(3);
  const int64_t k = 160, rows = 41, widths[] = {96, 40, 33};
  for (const std::string& isa : isas()) {
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
        const Format format = dtype == DType::f32   ? Format::f32
                              : dtype == DType::f16 ? Format::f16
                                                    : Format::bf16;
        Floats x = random.floats(rows * k);
        std::vector<FileBytes> files;
        for (const int64_t width : widths) files.push_back(random_elements(random, format, width * k));
        const Floats bias_values = random.floats(widths[1]);

        const auto run = [&](int threads, int64_t rows_at_once) {
          const auto cpu = backend(isa, precision, threads);
          std::vector<WeightPtr> weights;
          std::vector<Floats> outs;
          for (size_t i = 0; i < 3; ++i) {
            weights.push_back(cpu->load(tensor(files[i].data(), dtype, {widths[i], k}), WeightUse::matrix));
            outs.emplace_back(static_cast<size_t>(rows * widths[i]), 0.25f);
          }
          const WeightPtr bias = cpu->load(tensor(bias_values, {widths[1]}), WeightUse::vector);
          for (int64_t first = 0; first < rows; first += rows_at_once) {
            const int64_t count = std::min(rows_at_once, rows - first);
            std::vector<Projection> projections;
            for (size_t i = 0; i < 3; ++i) {
              const Rows out{outs[i].data() + first * widths[i], count, widths[i]};
              projections.push_back({weights[i].get(), i == 1 ? bias.get() : nullptr, out, i == 2});
            }
            cpu->linear({x.data() + first * k, count, k}, projections);
          }
          Floats all;
          for (const Floats& out : outs) all.insert(all.end(), out.begin(), out.end());
          return all;
        };
        const Floats one_by_one = run(1, 1);
        for (const int threads : {1, 2, 3}) {
          for (const int64_t rows_at_once : {1, 2, 3, 4, 5, 7, 23, 41})
            CHECK(same_bits(run(threads, rows_at_once), one_by_one));
        }
      }
    }
  }
}

TEST_CASE("a long dot product is sliced without changing a bit") {
  Random random(5);
  const int64_t k = 6500, rows = 530, outputs = 45;  // more than any level takes at once
  Floats x = random.floats(rows * k);
  const FileBytes weight = random_elements(random, Format::bf16, outputs * k);
  for (const std::string& isa : isas()) {
    Floats want(static_cast<size_t>(rows * outputs));
    const Floats multiplied = as_multiplied(x, isa);
    oracle({.x = multiplied.data(),
            .x_stride = k,
            .rows = rows,
            .weight = weight.data(),
            .weight_stride = k,
            .outputs = outputs,
            .k = k,
            .out = want.data(),
            .out_stride = outputs},
           Format::bf16);
    const auto cpu = backend(isa, Precision::bf16);
    const WeightPtr loaded = cpu->load(tensor(weight.data(), DType::bf16, {outputs, k}), WeightUse::matrix);
    Floats all(want.size()), single(want.size());
    const Projection together{loaded.get(), nullptr, rows_of(all, outputs)};
    cpu->linear(rows_of(x, k), {&together, 1});
    for (int64_t r = 0; r < rows; ++r) {
      const Projection alone{loaded.get(), nullptr, {single.data() + r * outputs, 1, outputs}};
      cpu->linear({x.data() + r * k, 1, k}, {&alone, 1});
    }
    CHECK(same_bits(all, single));
    CHECK(distance(all, want, 10.0) < 8e-6);
  }
}

TEST_CASE("backend linear of bf16 matrices equals the naive twin at every level and odd shape") {
  Random random(6);
  for (int round = 0; round < 40; ++round) {
    const bool transposed = round % 4 == 3;
    const int64_t rows = round % 2 ? random.integer(1, 70) : random.integer(60, 700);
    // more than 2,048 inputs: in slices
    const int64_t k = round % 8 == 6 ? random.integer(2049, 4200) : random.integer(1, 1100),
                  outputs = random.integer(1, 300);
    CAPTURE(rows);
    CAPTURE(k);
    CAPTURE(outputs);
    Floats x = random.floats(rows * k);
    const Floats bias = random.floats(outputs), before = random.floats(rows * outputs);
    const FileBytes weight =
        random_elements(random, Format::bf16, outputs * k, static_cast<size_t>(round % 7));
    FileBytes plain = weight;
    for (int64_t n = 0; transposed && n < outputs; ++n)
      for (int64_t i = 0; i < k; ++i)
        std::memcpy(plain.storage.data() + plain.offset + (n * k + i) * 2,
                    weight.data() + (i * outputs + n) * 2, 2);
    for (const std::string& isa : isas()) {
      CAPTURE(isa);
      const auto cpu = backend(isa, Precision::bf16, 1 + round % 3);
      const auto shape = transposed ? std::vector{k, outputs} : std::vector{outputs, k};
      const WeightPtr loaded = cpu->load(tensor(weight.data(), DType::bf16, shape),
                                         transposed ? WeightUse::transposed_matrix : WeightUse::matrix);
      const WeightPtr loaded_bias = cpu->load(tensor(bias, {outputs}), WeightUse::vector);
      Floats got = before, want = before;
      const Projection p{loaded.get(), round % 3 ? loaded_bias.get() : nullptr, rows_of(got, outputs),
                         round % 5 == 0};
      cpu->linear(rows_of(x, k), {&p, 1});
      const Floats multiplied = as_multiplied(x, isa);
      oracle({.x = multiplied.data(),
              .x_stride = k,
              .rows = rows,
              .weight = plain.data(),
              .weight_stride = k,
              .outputs = outputs,
              .k = k,
              .bias = round % 3 ? bias.data() : nullptr,
              .out = want.data(),
              .out_stride = outputs,
              .accumulate = round % 5 == 0},
             Format::bf16);
      CHECK(distance(got, want, 5.0) < (k > 2048 ? 1.2e-5 : 4e-6));
    }
  }
}

TEST_CASE("gated_linear has the bits of its two products and silu_mul, at any row count") {
  Random random(7);
  for (const int64_t k : {72, 160, 2200}) {
    const int64_t outputs = k == 160 ? 224 : 41, most = 130;
    Floats x = random.floats(most * k);
    const FileBytes gate_file = random_elements(random, Format::bf16, outputs * k),
                    up_file = random_elements(random, Format::bf16, outputs * k);
    for (const std::string& isa : isas()) {
      CAPTURE(isa);
      for (const Precision precision : {Precision::f32, Precision::bf16}) {
        const auto cpu = backend(isa, precision);
        const auto load = [&](const FileBytes& file, WeightUse use) {
          const auto shape = use == WeightUse::matrix ? std::vector{outputs, k} : std::vector{k, outputs};
          return cpu->load(tensor(file.data(), DType::bf16, shape), use);
        };
        const WeightPtr gate = load(gate_file, WeightUse::matrix);
        for (const WeightUse use : {WeightUse::matrix, WeightUse::transposed_matrix}) {
          const WeightPtr up = load(up_file, use);
          Floats want(static_cast<size_t>(most * outputs)), other = want, got = want;
          const std::array both = {Projection{gate.get(), nullptr, rows_of(want, outputs)},
                                   Projection{up.get(), nullptr, rows_of(other, outputs)}};
          cpu->linear(rows_of(x, k), both);
          cpu->silu_mul(rows_of(want, outputs), rows_of(other, outputs), rows_of(want, outputs));
          for (const int64_t rows_at_once : {1, 3, 16, 17, 50, 65, 130}) {
            for (int64_t first = 0; first < most; first += rows_at_once) {
              const int64_t rows = std::min(rows_at_once, most - first);
              cpu->gated_linear({x.data() + first * k, rows, k}, *gate, *up, {other.data(), rows, outputs},
                                {got.data() + first * outputs, rows, outputs});
            }
            CHECK(same_bits(got, want));
          }
        }
      }
    }
  }
}

TEST_CASE("element-wise kernels equal the naive twins") {
  Random random(4);
  for (const cpu::Isa isa : cpu::available_isas()) {
    CAPTURE(cpu::isa_name(isa));
    const Kernels& fast = cpu::kernels(isa);
    for (const int64_t n : {1, 7, 8, 15, 16, 17, 31, 40, 128, 333}) {
      CAPTURE(n);
      const size_t size = static_cast<size_t>(n);
      const Floats x = random.floats(n, -30, 30), y = random.floats(n);
      Floats got(size), want(size);
      fast.rms_norm(x.data(), y.data(), 1e-6f, n, got.data());
      reference::rms_norm<double>(x.data(), y.data(), 1e-6f, n, want.data());
      CHECK(distance(got, want, 0.01) < 1e-6);
      fast.silu_mul(x.data(), y.data(), n, got.data());
      reference::silu_mul<double>(x.data(), y.data(), n, want.data());
      CHECK(distance(got, want, 1e-3) < 1e-6);

      const int64_t head_dim = 2 * n + 3;  // more than is rotated
      const Floats cosines = random.floats(n), sines = random.floats(n);
      Floats rotated = random.floats(3 * head_dim), expected = rotated;
      fast.rope(rotated.data(), 3, head_dim, cosines.data(), sines.data(), n);
      reference::rope<double>(expected.data(), 3, head_dim, cosines.data(), sines.data(), n);
      CHECK(distance(rotated, expected, 1.0) < 3e-7);

      for (const Format format : kAllFormats) {
        const FileBytes file = random_elements(random, format, n);
        fast.widen[static_cast<int>(format)](file.data(), n, got.data());
        cpu::portable_kernels().widen[static_cast<int>(format)](file.data(), n, want.data());
        CHECK(same_bits(got, want));
      }
    }
  }
}

TEST_CASE("conversions are exact for every 16-bit value and round to nearest even") {
  for (const cpu::Isa isa : cpu::available_isas()) {
    CAPTURE(cpu::isa_name(isa));
    const Kernels& fast = cpu::kernels(isa);
    std::vector<uint16_t> values(65536), back(values.size());
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(i);
    const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
    Floats wide(values.size());
    fast.widen[static_cast<int>(Format::bf16)](bytes, 65536, wide.data());
    fast.narrow_bf16(wide.data(), 65536, back.data());
    for (size_t i = 0; i < values.size(); ++i) {
      const bool nan = (i & 0x7fff) > 0x7f80;
      if (back[i] != (nan ? (i | 0x40) : i)) FAIL("bf16 ", i, " came back as ", back[i]);
    }
    fast.widen[static_cast<int>(Format::f16)](bytes, 65536, wide.data());
    for (size_t i = 0; i < values.size(); ++i) {
      const int exponent = static_cast<int>(i >> 10 & 31), mantissa = static_cast<int>(i & 1023);
      if (exponent == 31) {
        if (mantissa == 0 ? !std::isinf(wide[i]) : !std::isnan(wide[i])) FAIL("f16 ", i);
        continue;
      }
      const double magnitude =
          exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      if (wide[i] != (i & 0x8000 ? -magnitude : magnitude)) FAIL("f16 ", i, " became ", wide[i]);
    }
    const Floats ties = {std::bit_cast<float>(0x3f808000u), std::bit_cast<float>(0x3f818000u),
                         std::bit_cast<float>(0x3f808001u), std::bit_cast<float>(0x7f7fffffu),
                         std::bit_cast<float>(0x00000001u), std::bit_cast<float>(0x0000ffffu)};
    const uint16_t rounded[] = {0x3f80, 0x3f82, 0x3f81, 0x7f80, 0, 1};
    std::vector<uint16_t> narrow(ties.size());
    fast.narrow_bf16(ties.data(), static_cast<int64_t>(ties.size()), narrow.data());
    for (size_t i = 0; i < ties.size(); ++i) CHECK(narrow[i] == rounded[i]);
  }
}

TEST_CASE("silu keeps NaN, and is right far out") {
  for (const cpu::Isa isa : cpu::available_isas()) {
    const Floats gate = {NAN, -200, 200, 0, -88, 88, INFINITY}, up(7, 1.0f);
    Floats out(7);
    cpu::kernels(isa).silu_mul(gate.data(), up.data(), 7, out.data());
    CHECK(std::isnan(out[0]));
    CHECK(std::abs(out[1]) < 1e-30f);
    CHECK(out[2] == 200);
    CHECK(out[3] == 0);
    CHECK(std::abs(out[4]) < 1e-30f);
    CHECK(out[5] == 88);
    CHECK(out[6] == INFINITY);
  }
}

TEST_CASE("weights: what is kept, what is converted, what is refused") {
  const Floats values = {1.0f, 1.0f + 0x1p-20f, 3, 4};
  for (const std::string& isa : isas()) {
    const auto embed = [&](Precision precision) {
      const auto cpu = backend(isa, precision);
      const WeightPtr table = cpu->load(tensor(values, {2, 2}), WeightUse::matrix);
      Floats out(4);
      const int32_t ids[] = {1, 0};
      cpu->embed(*table, ids, rows_of(out, 2));
      return out;
    };
    CHECK(embed(Precision::f32) == Floats{3, 4, 1.0f, 1.0f + 0x1p-20f});  // nothing rounded
    CHECK(embed(Precision::bf16) == Floats{3, 4, 1, 1});
  }
  const auto cpu = backend("", Precision::f32);
  TensorView bad = tensor(values, {2, 2});
  bad.dtype = DType::i8;
  CHECK_THROWS_WITH_AS(cpu->load(bad, WeightUse::matrix), doctest::Contains("test.weight"), Error);
  CHECK_THROWS_AS(cpu->load(tensor(values, {4}), WeightUse::matrix), Error);
}

TEST_CASE("the instruction set is what the option says, else the best of the machine") {
  CHECK(backend("portable", Precision::f32)->name() == "cpu.portable");
  CHECK_THROWS_WITH_AS(backend("sse9", Precision::f32), doctest::Contains("portable, avx2, avx512, amx"),
                       Error);
  CHECK(backend("", Precision::f32)->name() == "cpu." + isas().back());
}

TEST_CASE("kernel counts name operation, format and level") {
  const auto cpu = backend("portable", Precision::f32);
  Floats x(4, 1.0f), out(4);
  const WeightPtr norm = cpu->load(tensor(x, {4}), WeightUse::vector);
  cpu->rms_norm(rows_of(x, 4), *norm, 1e-6f, rows_of(out, 4));
  cpu->rms_norm(rows_of(x, 4), *norm, 1e-6f, rows_of(out, 4));
  // The same rows in the same order whatever has run, so that an index means one kernel for good.
  for (const auto& [name, calls] : cpu->kernel_counts())
    CHECK(calls == (name == "rms_norm.f32.portable" ? 2 : 0));
  CHECK(cpu->kernel_counts().size() > 1);
}

TEST_CASE("a workspace hands out aligned rows and keeps its memory from step to step") {
  const auto cpu = backend("", Precision::f32);
  const auto workspace = cpu->create_workspace();
  const auto step = [&] {
    std::vector<void*> pointers;
    for (const int64_t n : {3, 1000, 400000, 5}) {
      const Rows rows = workspace->rows(n, 3);
      CHECK(reinterpret_cast<uintptr_t>(rows.data) % 64 == 0);
      std::memset(rows.data, 1, static_cast<size_t>(n) * 3 * sizeof(float));
      pointers.push_back(rows.data);
    }
    workspace->reset();
    return pointers;
  };
  step();
  const auto second = step();
  CHECK(step() == second);
#if !defined(__SANITIZE_ADDRESS__)  // whose allocator aborts by default where the system's returns null
  CHECK_THROWS_WITH_AS(workspace->rows(int64_t{1} << 40, 1 << 16), doctest::Contains("bytes are free"),
                       Error);
#endif
}

TEST_CASE("rope angles are those of transformers") {
  const auto cpu = backend("", Precision::f32);
  const RopeTable table{{1.0f, 0.01f}, {0, 2}, 2.0f};
  const std::vector<std::array<int32_t, 3>> positions = {{0, 0, 0}, {5, 6, 7}};
  Floats out(8);
  cpu->rope_angles(table, positions, rows_of(out, 4));
  const float small = 7 * 0.01f;
  const Floats want = {
      2, 2, 0, 0, 2 * std::cos(5.0f), 2 * std::cos(small), 2 * std::sin(5.0f), 2 * std::sin(small)};
  CHECK(distance(out, want, 1) < 1e-7);
}
