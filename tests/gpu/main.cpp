// gpu-tests: the cases of tests/cuda, compiled for the host's compiler as there, linked with the kernels as nvcc made them and with the
// CUDA runtime instead of the executor. tests/gpu/run runs it, from the root of the repository:
//
//     gpu-tests [doctest's options]     77: there is no GPU
//     gpu-tests --measure               what the GPU is, and the bandwidth of its memory: one line of JSON
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <iostream>
#include <vector>

#include "backend/cuda/device.h"
#include "base/error.h"

using namespace qwen;

namespace {

constexpr int kNoGpu = 77;

// Of cases that say how the executor's machine is made, of which a real one is free. A comma would end a name: any character.
constexpr const char* kExecutorOnly =
    "what a GPU refuses? and goes on,engine and model agree about the device";

// GB/s of one long copy after the other, read and written: the median of several measurements.
double bandwidth(const cuda::Device& device, size_t bytes) {
  constexpr int kCopies = 8, kMeasurements = 11;
  const auto stream = device.create_stream();
  const cuda::Memory from = device.allocate(bytes, "a measurement"),
                     to = device.allocate(bytes, "a measurement");
  stream->fill_zero(from.data(), bytes);
  std::vector<double> found;
  for (int i = 0; i <= kMeasurements; ++i) {
    stream->synchronize();
    const auto begin = std::chrono::steady_clock::now();
    for (int copy = 0; copy < kCopies; ++copy) stream->on_device(to.data(), from.data(), bytes);
    stream->synchronize();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    if (i > 0) found.push_back(2.0 * kCopies * static_cast<double>(bytes) / seconds.count() * 1e-9);
  }
  std::nth_element(found.begin(), found.begin() + kMeasurements / 2, found.end());
  return found[kMeasurements / 2];
}

int measure(const cuda::Device& device) {
  const cuda::DeviceInfo& info = device.info();
  const size_t bytes = std::min(size_t{1} << 30, device.free_bytes() / 4);
  std::cout << "{\"name\": \"" << info.name << "\", \"compute_capability\": \"" << info.major << "."
            << info.minor << "\", \"multiprocessors\": " << info.multiprocessors
            << ", \"total_bytes\": " << info.total_bytes << ", \"copied_bytes\": " << bytes
            << ", \"bandwidth_gb_per_s\": " << bandwidth(device, bytes) << "}\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const bool lists = argc > 1 && std::strcmp(argv[1], "--list-test-cases") == 0;
    if (!lists) {
      if (cuda::find_gpus().count == 0) {
        try {
          const cuda::Device device(0);
        } catch (const Error& error) {
          std::cout << "no GPU: " << error.message() << '\n';
        }
        return kNoGpu;
      }
      const cuda::Device device(0);
      if (argc > 1 && std::strcmp(argv[1], "--measure") == 0) return measure(device);
    }
    doctest::Context context(argc, argv);
    context.addFilter("test-case-exclude", kExecutorOnly);
    return context.run();
  } catch (const Error& error) {
    std::cout << "gpu-tests cannot begin: " << error.message() << '\n';
    return 1;
  }
}
