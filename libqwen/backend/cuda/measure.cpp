// How fast a GPU reads its memory, and how fast it multiplies with the instructions that our kernels use.
#include "backend/cuda/measure.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <set>
#include <string>

#include "backend/backend.h"
#include "backend/highest_rate.h"
#include "base/error.h"

namespace qwen {
namespace cuda {
namespace {

using Clock = std::chrono::steady_clock;

// work() gives the stream so much to do.
template <class Work>
double rate(Stream& stream, Work work) {
  constexpr double kSeconds = 0.1;
  return highest_rate(kSeconds, [&] {
    const auto amount = work();
    stream.synchronize();
    return amount;
  });
}

// Far more than caches hold, and long enough that a launch and the wait for it do not count: a millisecond on the fastest.
size_t buffer_bytes(const Device& device) {
  constexpr size_t kMost = size_t{4} << 30, kPiece = size_t{1} << 20;
  return std::min(kMost, device.free_bytes() / 4) / kPiece * kPiece;
}

double multiply_rate(Stream& stream, Element element, int64_t blocks, float* sums) {
  constexpr double kLong = 2e-3;
  constexpr int64_t kMost = int64_t{1} << 32;  // of a driver that computes nothing
  int64_t rounds = 16;
  for (double taken = 0; taken < kLong && rounds < kMost; rounds *= 2) {
    const Clock::time_point start = Clock::now();
    multiply_often(stream, element, rounds, blocks, sums);
    stream.synchronize();
    taken = seconds_since(start);
  }
  return rate(stream, [&] { return multiply_often(stream, element, rounds, blocks, sums); });
}

// Memory for ever: those who are told of it may keep it.
std::string_view level_of(const DeviceInfo& info) {
  static std::mutex mutex;
  static std::set<std::string> levels;
  const std::lock_guard lock(mutex);
  return *levels.insert(cat("sm_", info.major, info.minor)).first;
}

}  // namespace
}  // namespace cuda

MachineLimits measure_machine(const CudaOptions& options) {
  using namespace cuda;
  const Device device(options.device);
  const auto stream = device.create_stream();
  const int64_t blocks = measuring_blocks(device.info().multiprocessors);
  constexpr const char* kPurpose = "measuring how fast it is";
  const size_t bytes = buffer_bytes(device);
  if (bytes == 0) out_of_memory(device, size_t{4} << 20, kPurpose);
  const Memory buffer = device.allocate(bytes, kPurpose),
               sums =
                   device.allocate(static_cast<size_t>(blocks) * kMeasuringThreads * sizeof(float), kPurpose);
  const struct Wait {
    Stream& stream;
    ~Wait() { stream.finish(); }
  } wait{*stream};
  stream->fill_zero(buffer.data(), bytes);
  MachineLimits limits{.threads = device.info().multiprocessors,
                       .level = level_of(device.info()),
                       .precision = options.precision,
                       .buffer_bytes = static_cast<int64_t>(bytes)};
  limits.flops_per_second =
      multiply_rate(*stream, options.precision == Precision::f32 ? Element::f32 : Element::bf16, blocks,
                    reinterpret_cast<float*>(sums.data()));
  limits.read_bytes_per_second = rate(*stream, [&] {
    read_all(*stream, buffer.data(), static_cast<int64_t>(bytes), blocks,
             reinterpret_cast<uint32_t*>(sums.data()));
    return bytes;
  });
  return limits;
}

}  // namespace qwen
