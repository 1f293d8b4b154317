// Measuring a GPU: what it counts is what it did.
#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/measure.h"
#include "base/error.h"
#include "device_arrays.h"
#ifndef QWEN_TEST_ON_GPU
#include "host_device.h"
#endif

using namespace qwen;
using namespace qwen::test;
using cuda::Element;
using cuda::Memory;

TEST_CASE("all of the memory is read, once") {
  DeviceArrays arrays;
  Random random(5);
  constexpr int64_t kBlocks = 3;
  for (const int64_t vectors : {0, 1, 767, 768, 5000}) {
    CAPTURE(vectors);
    std::vector<uint32_t> values(static_cast<size_t>(vectors) * 4);
    for (uint32_t& value : values) value = static_cast<uint32_t>(random.integer(0, 1 << 30));
    uint32_t expected = 0;
    for (size_t i = 0; i < values.size(); i += 4)
      expected += values[i] ^ values[i + 1] ^ values[i + 2] ^ values[i + 3];
    const Memory from = arrays.put(values), out = arrays.room<uint32_t>(kBlocks * cuda::kMeasuringThreads);
    cuda::read_all(*arrays.stream, from.data(), vectors * 16, kBlocks, on<uint32_t>(out));
    const auto sums = arrays.get<uint32_t>(out);
    CHECK(std::accumulate(sums.begin(), sums.end(), uint32_t{0}) == expected);
  }
}

TEST_CASE("so many products are formed, and none overflows") {
  DeviceArrays arrays;
  constexpr int64_t kBlocks = 2, kThreads = kBlocks * cuda::kMeasuringThreads;
  const Memory out = arrays.room<float>(kThreads);
  const auto multiply = [&](Element element, int64_t rounds, float sum) {
    const int64_t operations = cuda::multiply_often(*arrays.stream, element, rounds, kBlocks, on<float>(out));
    const auto sums = arrays.get<float>(out);
    CHECK(std::ranges::all_of(sums, [&](float value) { return value == sum; }));
    return operations;
  };
  CHECK(multiply(Element::f32, 100, 8 * 2) == 2 * 100 * 8 * kThreads);
  CHECK(multiply(Element::bf16, 100, 8) == 2 * 100 * 8 * (16 * 8 * 16) * kThreads / 32);
}

TEST_CASE("measuring a GPU says what was measured") {
#ifndef QWEN_TEST_ON_GPU
  host_cuda::machine().bytes = size_t{16} << 20;
#endif
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    const MachineLimits limits = measure_machine(CudaOptions{.precision = precision});
    CHECK(limits.threads == cuda::Device(0).info().multiprocessors);
    CHECK(limits.level.starts_with("sm_"));
    CHECK(limits.precision == precision);
    CHECK(limits.read_bytes_per_second > 0);
    CHECK(limits.flops_per_second > 0);
    CHECK(limits.buffer_bytes >= int64_t{4} << 20);
  }
  CHECK_THROWS_AS(measure_machine(CudaOptions{.device = 63}), Error);
#ifndef QWEN_TEST_ON_GPU
  host_cuda::machine().bytes = size_t{1} << 20;
  CHECK_THROWS_WITH_AS(measure_machine(CudaOptions{}),
                       doctest::Contains("bytes for measuring how fast it is on GPU 0; "), Error);
  host_cuda::machine() = {};
#endif
}
