// The blocks of GGUF files: each type against its naive twin, at every level, and through the ops that take matrices.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "backend/cpu/cpu_weight.h"
#include "backend/reference/blocks.h"
#include "base/error.h"
#include "kernel_fixtures.h"

using namespace qwen;
using namespace qwen::test;

namespace {

constexpr std::array kTypes = {DType::q4_0,   DType::q4_1,  DType::q5_0,  DType::q5_1, DType::q8_0,
                               DType::iq4_nl, DType::mxfp4, DType::q2_k,  DType::q3_k, DType::q4_k,
                               DType::q5_k,   DType::q6_k,  DType::iq4_xs};

// Where a block has its halves.
std::vector<size_t> halves(DType dtype) {
  switch (dtype) {
    case DType::q4_1:
    case DType::q5_1:
    case DType::q4_k:
    case DType::q5_k:
      return {0, 2};
    case DType::q2_k:
      return {80, 82};
    case DType::q3_k:
      return {108};
    case DType::q6_k:
      return {208};
    case DType::mxfp4:
      return {};
    default:
      return {0};
  }
}

// A matrix of random blocks at a byte offset that suits no instruction.
struct BlockMatrix {
  BlockMatrix(Random& random, DType type, int64_t outputs, int64_t inputs)
      : dtype(type), out(outputs), in(inputs), block(dtype_block(type)) {
    const size_t blocks = static_cast<size_t>(out * in / block.elements);
    bytes.resize(blocks * block.bytes + 1);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.integer(0, 255));
    for (size_t b = 0; b < blocks; ++b)
      for (const size_t at : halves(dtype)) {
        const uint16_t half = to_f16(random.uniform());
        std::memcpy(bytes.data() + 1 + b * block.bytes + at, &half, 2);
      }
    if (dtype == DType::mxfp4)  // powers of two whose products stay finite
      for (size_t b = 0; b < blocks; ++b)
        bytes[1 + b * block.bytes] = static_cast<std::byte>(random.integer(110, 130));
  }
  TensorView view() const {
    return {"blk.0.ffn_up.weight", dtype, {out, in}, bytes.data() + 1, bytes.size() - 1, "memory"};
  }
  Floats dense() const {
    Floats values;
    for (int64_t i = 0; i < out * in; ++i)
      values.push_back(static_cast<float>(reference::block_element(
          dtype, bytes.data() + 1 + static_cast<size_t>(i / block.elements) * block.bytes,
          i % block.elements)));
    return values;
  }

  DType dtype;
  int64_t out, in;
  DTypeBlock block;
  std::vector<std::byte> bytes;
};

void check_refused(const TensorView& tensor, WeightUse use) {
  try {
    backend("", Precision::f32)->load(tensor, use);
    FAIL_CHECK("no error");
  } catch (const Error& error) {
    CHECK(error.status() == Status::unsupported);
    CHECK(error.message().find("tensor 'blk.0.ffn_up.weight' in memory is ") == 0);
  }
}

}  // namespace

TEST_CASE("every block type has the bits of its formula in every panel, at every level") {
  Random random(21);
  for (const DType dtype : kTypes) {
    CAPTURE(dtype_name(dtype));
    const BlockMatrix matrix(random, dtype, 5, 3 * dtype_block(dtype).elements);
    const Floats want = matrix.dense();
    for (const cpu::Isa isa : cpu::available_isas()) {
      const cpu::CpuWeight weight(matrix.view(), WeightUse::matrix, Precision::bf16, cpu::kernels(isa));
      CHECK(cpu::block_elements(weight.format) == matrix.block.elements);
      CHECK(cpu::block_bytes(weight.format) == static_cast<int64_t>(matrix.block.bytes));
      for (int round = 0; round < 30; ++round) {
        cpu::Panel panel{0, matrix.out, 0, matrix.in};
        if (round > 0) {
          panel.output = random.integer(0, matrix.out - 1);
          panel.outputs = random.integer(1, matrix.out - panel.output);
          panel.input = random.integer(0, matrix.in - 1);
          panel.inputs = random.integer(1, matrix.in - panel.input);
        }
        const int64_t stride = panel.inputs + random.integer(0, 3);
        Floats got(static_cast<size_t>(panel.outputs * stride), -7.0f), expected = got;
        for (int64_t n = 0; n < panel.outputs; ++n)
          std::copy_n(want.begin() + (panel.output + n) * matrix.in + panel.input, panel.inputs,
                      expected.begin() + n * stride);
        weight.widen(cpu::kernels(isa), panel, got.data(), stride);
        CHECK(same_bits(got, expected));
      }
    }
  }
}

TEST_CASE("every half is its value as a block's scale") {
  // Q8_0 with the integer 1 everywhere: the elements are the scale itself, subnormal, infinite and NaN ones too.
  std::array<std::byte, 34> block;
  block.fill(std::byte{1});
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    std::memcpy(block.data(), &half, 2);
    const float want = reference::element<cpu::Format::f16>(block.data(), 0);
    for (const cpu::Isa isa : cpu::available_isas()) {
      float got[32];
      cpu::kernels(isa).widen_blocks[static_cast<int>(cpu::Format::q8_0) - cpu::kFirstBlockFormat](
          block.data(), 1, got);
      const bool same = std::isnan(want) ? std::isnan(got[31]) : std::memcmp(&got[31], &want, 4) == 0;
      if (!same) FAIL_CHECK("half ", bits, ": ", got[31], " instead of ", want);
    }
  }
}

TEST_CASE("every power of two is its value as a block's scale") {
  for (int exponent = 0; exponent < 256; ++exponent) {
    std::array<std::byte, 17> block;
    block.fill(std::byte{0x22});  // 1
    block[0] = static_cast<std::byte>(exponent);
    const auto want = static_cast<float>(std::ldexp(1.0, exponent - 127));
    for (const cpu::Isa isa : cpu::available_isas()) {
      float got[32];
      cpu::kernels(isa).widen_blocks[static_cast<int>(cpu::Format::mxfp4) - cpu::kFirstBlockFormat](
          block.data(), 1, got);
      if (got[0] != want || got[31] != want) FAIL_CHECK("2^", exponent - 127, ": ", got[0]);
    }
  }
}

TEST_CASE("linear and embed over blocks have the bits of the same over their float32 values") {
  Random random(22);
  constexpr int64_t kRows = 70;
  for (const DType dtype : kTypes) {
    CAPTURE(dtype_name(dtype));
    const BlockMatrix matrix(random, dtype, 37, 1280);  // k in slices
    const Floats values = matrix.dense();
    Floats x = random.floats(kRows * matrix.in);
    for (const std::string& isa : isas()) {
      CAPTURE(isa);
      const auto run = [&](bool blocked, Precision precision, int64_t rows_at_once) {
        const auto cpu = backend(isa, precision);
        const WeightPtr weight =
            cpu->load(blocked ? matrix.view() : tensor(values, {matrix.out, matrix.in}), WeightUse::matrix);
        Floats out(static_cast<size_t>(kRows * matrix.out));
        for (int64_t first = 0; first < kRows; first += rows_at_once) {
          const int64_t rows = std::min(rows_at_once, kRows - first);
          cpu->linear({x.data() + first * matrix.in, rows, matrix.in},
                      std::array{Projection{.weight = weight.get(),
                                            .out = {out.data() + first * matrix.out, rows, matrix.out}}});
        }
        const std::array<int32_t, 3> ids = {36, 0, 17};
        Floats embedded(static_cast<size_t>(3 * matrix.in));
        cpu->embed(*weight, ids, rows_of(embedded, matrix.in));
        out.insert(out.end(), embedded.begin(), embedded.end());
        return out;
      };
      const Floats want = run(false, Precision::f32, 7);
      for (const int64_t rows_at_once : {1, 5, 33, 70})
        CHECK(same_bits(run(true, Precision::f32, rows_at_once), want));
      CHECK(same_bits(run(true, Precision::bf16, 32), want));
    }
  }
}

TEST_CASE("blocks that do not fill the rows, and vectors of blocks, are refused") {
  Random random(23);
  const BlockMatrix matrix(random, DType::q4_k, 4, 256);
  TensorView view = matrix.view();
  view.shape = {8, 128};  // as many elements, but half blocks
  check_refused(view, WeightUse::matrix);
  view = matrix.view();
  view.bytes -= 1;
  check_refused(view, WeightUse::matrix);
  view = matrix.view();
  view.shape = {1024};
  check_refused(view, WeightUse::vector);
}
