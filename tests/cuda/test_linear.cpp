// The matrix products of the CUDA backend against their naive twins, and their promise about bits.
#include <doctest/doctest.h>

#include <algorithm>

#include "backend/cuda/elementwise.h"
#include "backend/cuda/linear.h"
#include "backend/reference/reference.h"
#include "device_arrays.h"

using namespace qwen;
using namespace qwen::test;
using cpu::Format;
using cuda::Element;
using cuda::Memory;

namespace {

// What x and the weights are on the device.
struct Arithmetic {
  Element x, weight;
};
constexpr Arithmetic kTensorCores = {Element::bf16, Element::bf16};
constexpr Arithmetic kAll[] = {kTensorCores, {Element::f32, Element::f32}, {Element::f32, Element::bf16}};

Memory put(DeviceArrays& arrays, const Floats& values, Element element, size_t offset = 0) {
  return element == Element::f32 ? arrays.put(values, offset) : arrays.put(to_bf16(values), offset);
}
Floats as(const Floats& values, Element element) {
  return element == Element::f32 ? values : widened(to_bf16(values));
}

struct Matrix {
  Floats weight, bias, before;  // [outputs, k], [outputs] or none, [rows, outputs] or none
  int64_t outputs;
};

Floats oracle(const Floats& x, const Matrix& matrix, int64_t rows, int64_t k, Arithmetic arithmetic) {
  Floats out = matrix.before;
  out.resize(static_cast<size_t>(rows * matrix.outputs));
  const Floats multiplied = as(x, arithmetic.x), weight = as(matrix.weight, arithmetic.weight);
  reference::linear<double, Format::f32>({.x = multiplied.data(),
                                          .x_stride = k,
                                          .rows = rows,
                                          .weight = reinterpret_cast<const std::byte*>(weight.data()),
                                          .weight_stride = k,
                                          .outputs = matrix.outputs,
                                          .k = k,
                                          .bias = matrix.bias.empty() ? nullptr : matrix.bias.data(),
                                          .out = out.data(),
                                          .out_stride = matrix.outputs,
                                          .accumulate = !matrix.before.empty()});
  return out;
}

// Where arrays begin, in elements behind an aligned address.
struct Offsets {
  size_t x = 0, weight = 0;
};

std::vector<Floats> run(DeviceArrays& arrays, const Floats& x, const std::vector<Matrix>& matrices,
                        int64_t rows, int64_t k, Arithmetic arithmetic, int multiprocessors,
                        Offsets offsets = {}) {
  std::vector<Memory> memory, outs;
  const auto keep = [&](Memory made) {
    memory.push_back(std::move(made));
    return memory.back().data();
  };
  const size_t x_bytes = arithmetic.x == Element::f32 ? 4 : 2,
               weight_bytes = arithmetic.weight == Element::f32 ? 4 : 2;
  cuda::LinearArgs args;
  args.x = keep(put(arrays, x, arithmetic.x, offsets.x)) + offsets.x * x_bytes;
  args.x_element = arithmetic.x;
  args.weight_element = arithmetic.weight;
  args.rows = rows;
  args.k = k;
  args.multiprocessors = multiprocessors;
  for (const Matrix& matrix : matrices) {
    auto& projection = args.projections[args.count++];
    projection.weight =
        keep(put(arrays, matrix.weight, arithmetic.weight, offsets.weight)) + offsets.weight * weight_bytes;
    if (!matrix.bias.empty()) projection.bias = reinterpret_cast<float*>(keep(arrays.put(matrix.bias)));
    projection.outputs = matrix.outputs;
    projection.accumulate = !matrix.before.empty();
    outs.push_back(matrix.before.empty() ? arrays.room<float>(static_cast<size_t>(rows * matrix.outputs))
                                         : arrays.put(matrix.before));
    projection.out = on<float>(outs.back());
  }
  cuda::linear(*arrays.stream, args);
  std::vector<Floats> results;
  for (const Memory& out : outs) results.push_back(arrays.get<float>(out));
  return results;
}

Matrix random_matrix(Random& random, int64_t outputs, int64_t k, int64_t rows, bool bias, bool accumulate) {
  return {random.floats(outputs * k), bias ? random.floats(outputs) : Floats(),
          accumulate ? random.floats(rows * outputs) : Floats(), outputs};
}

}  // namespace

TEST_CASE("cuda linear equals the naive twin in every arithmetic and odd shape") {
  DeviceArrays arrays;
  Random random(21);
  const int64_t row_counts[] = {1, 2, 7, 8, 9, 16, 19, 32, 33, 70, 131};
  for (int round = 0; round < 44; ++round) {
    const Arithmetic arithmetic = kAll[round % 4 < 2 ? 0 : round % 4 - 1];
    const int64_t rows = row_counts[round % 11];
    int64_t k = random.integer(1, 90) * (round % 3 == 0 ? 1 : 8);
    if (rows > 32) k = std::min<int64_t>(k, 200);
    std::vector<Matrix> matrices;
    for (int64_t i = random.integer(1, 3); i > 0; --i)
      matrices.push_back(
          random_matrix(random, random.integer(1, 70), k, rows, i % 2 == 1, (round + i) % 3 == 0));
    const Floats x = random.floats(rows * k);
    // One multiprocessor is busy at once, a thousand never: which other kernel is best hangs on that.
    const int multiprocessors = round % 2 ? 1 : 1000;
    const Offsets offsets = {round % 7 == 3 ? size_t{1} : 0, round % 7 == 5 ? size_t{3} : 0};
    CAPTURE(rows);
    CAPTURE(k);
    CAPTURE(round);
    const auto got = run(arrays, x, matrices, rows, k, arithmetic, multiprocessors, offsets);
    for (size_t i = 0; i < matrices.size(); ++i)
      CHECK(distance(got[i], oracle(x, matrices[i], rows, k, arithmetic), 1.0) < 8e-6);
  }
}

TEST_CASE("cuda linear: the same bits for any row count, kernel, alignment and grouping of projections") {
  DeviceArrays arrays;
  Random random(22);
  // Slices of 64 (3 of them), of 128 (the last one shorter), one that ends inside a span, one that suits no vector load.
  for (const int64_t k : {160, 904, 40, 171}) {
    const int64_t rows = k == 904 ? 37 : 70;
    const std::vector<Matrix> matrices = {random_matrix(random, 40, k, rows, true, false),
                                          random_matrix(random, 17, k, rows, false, false)};
    const Floats x = random.floats(rows * k);
    for (const Arithmetic arithmetic : kAll) {
      const auto all = run(arrays, x, matrices, rows, k, arithmetic, 1);
      CHECK(same_bits(run(arrays, x, matrices, rows, k, arithmetic, 1000)[0], all[0]));
      CHECK(same_bits(run(arrays, x, matrices, rows, k, arithmetic, 1, {1, 1})[0], all[0]));
      for (const int64_t rows_at_once : {1, 5, 16, 30, 36}) {
        for (int64_t first = 0; first < rows; first += 23) {
          const int64_t count = std::min(rows_at_once, rows - first);
          const Floats some(x.begin() + first * k, x.begin() + (first + count) * k);
          for (size_t i = 0; i < matrices.size(); ++i) {
            const int64_t outputs = matrices[i].outputs;
            const Floats want(all[i].begin() + first * outputs, all[i].begin() + (first + count) * outputs);
            const Matrix& matrix = matrices[i];
            const int multiprocessors = rows_at_once % 2 ? 1000 : 1;
            CHECK(same_bits(run(arrays, some, {matrix}, count, k, arithmetic, multiprocessors)[0], want));
          }
        }
      }
    }
  }
}

TEST_CASE("cuda gated_linear has the bits of linear and silu_mul, rounded for an operand") {
  DeviceArrays arrays;
  Random random(23);
  for (const int64_t rows : {1, 8, 12, 30, 34, 66, 130}) {
    for (const int64_t k : {72, 200, 133}) {
      const int64_t outputs = rows > 60 ? 21 : 50;
      const Floats x = random.floats(rows * k);
      const std::vector<Matrix> matrices = {random_matrix(random, outputs, k, rows, false, false),
                                            random_matrix(random, outputs, k, rows, false, false)};
      for (const Arithmetic arithmetic : kAll) {
        Floats want = run(arrays, x, matrices, rows, k, arithmetic, 1)[0];
        const Floats up = run(arrays, x, matrices, rows, k, arithmetic, 1)[1];
        {  // where gated_linear runs: other machines have another expf()
          const Memory of_gate = arrays.put(want), of_up = arrays.put(up);
          cuda::silu_mul(*arrays.stream, on<float>(of_gate), on<float>(of_up),
                         static_cast<int64_t>(want.size()), of_gate.data(), Element::f32);
          want = arrays.get<float>(of_gate);
        }
        for (const Element element : {Element::f32, Element::bf16}) {
          const Memory of_x = put(arrays, x, arithmetic.x),
                       gate = put(arrays, matrices[0].weight, arithmetic.weight),
                       of_up = put(arrays, matrices[1].weight, arithmetic.weight);
          const Memory out =
              element == Element::f32 ? arrays.room<float>(want.size()) : arrays.room<uint16_t>(want.size());
          cuda::gated_linear(*arrays.stream, {.x = of_x.data(),
                                              .x_element = arithmetic.x,
                                              .weight_element = arithmetic.weight,
                                              .rows = rows,
                                              .k = k,
                                              .gate = gate.data(),
                                              .up = of_up.data(),
                                              .outputs = outputs,
                                              .out = out.data(),
                                              .out_element = element,
                                              .multiprocessors = rows == 66 ? 1 : 132});
          if (element == Element::f32)
            CHECK(same_bits(arrays.get<float>(out), want));
          else
            CHECK(arrays.get<uint16_t>(out) == to_bf16(want));
        }
      }
    }
  }
}
