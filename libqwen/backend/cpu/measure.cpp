// The two limits of this machine that a model runs into: how fast its threads read memory, and how fast they multiply at one
// instruction-set level. They work as the engine does: on a pool of its own size, in pieces that a free thread takes.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/cpu_memory.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/tile_peak.h"
#include "backend/highest_rate.h"
#include "base/error.h"
#include "base/system_memory.h"
#include "base/thread_pool.h"

namespace qwen {
namespace cpu {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kSeconds = 0.25;  // of each measurement

// Four streams side by side, and the lines that each will want: one stream, or the hardware's prefetchers alone, give 5 to
// 10 % less.
constexpr size_t kStreams = 4, kLineWords = 8, kWordsAhead = 64 * kLineWords;
constexpr size_t kPiece = size_t{2} << 20;  // what a thread takes at a time

uint64_t read_piece(const uint64_t* words) {
  constexpr size_t kStreamWords = kPiece / sizeof(uint64_t) / kStreams;
  uint64_t sums[kStreams * kLineWords] = {};
  for (size_t i = 0; i < kStreamWords; i += kLineWords) {
    for (size_t stream = 0; stream < kStreams; ++stream) {
      const uint64_t* const line = words + stream * kStreamWords + i;
      __builtin_prefetch(line +
                         kWordsAhead);  // beyond the piece's end it asks for the next one, or for nothing
      for (size_t word = 0; word < kLineWords; ++word) sums[stream * kLineWords + word] += line[word];
    }
  }
  uint64_t total = 0;
  for (const uint64_t sum : sums) total += sum;
  return total;
}

// More than a processor's caches hold (where they are said to hold 480 MiB, twice as much gave 2 % less), but no more than
// a quarter of what is free.
size_t buffer_bytes() {
  constexpr int64_t kMost = int64_t{512} << 20, kLeast = int64_t{64} << 20;
  const int64_t wanted = std::clamp(available_memory() / 4, kLeast, kMost);
  return static_cast<size_t>(wanted) / kPiece * kPiece;
}

double read_rate(ThreadPool& pool, size_t bytes) {
  const Buffer buffer(bytes, "measuring how fast memory is read");
  const auto pieces = static_cast<int64_t>(bytes / kPiece);
  const auto piece = [&](int64_t item) { return buffer.data() + static_cast<size_t>(item) * kPiece; };
  pool.for_each(pieces, [&](int64_t item, int) { std::memset(piece(item), 1, kPiece); });
  std::atomic<uint64_t> total{0};  // of use to nobody, so that the reading is not left out
  return highest_rate(kSeconds, [&] {
    pool.for_each(pieces, [&](int64_t item, int) {
      total.fetch_add(read_piece(reinterpret_cast<const uint64_t*>(piece(item))), std::memory_order_relaxed);
    });
    return static_cast<double>(bytes);
  });
}

double multiply_rate(ThreadPool& pool, PeakKernel kernel) {
  constexpr int64_t kPieces = 4;  // for each thread: one that is held up loses a part of its share
  constexpr double kPieceSeconds = 1e-3;
  float sink = 0;
  int64_t rounds = 64;
  for (double taken = 0; taken < kPieceSeconds; rounds *= 2) {
    const Clock::time_point start = Clock::now();
    kernel(rounds, &sink);
    taken = seconds_since(start);
  }
  std::atomic<float> total{sink};
  const int64_t pieces = kPieces * pool.threads();
  return highest_rate(kSeconds, [&] {
    std::atomic<int64_t> operations{0};
    pool.for_each(pieces, [&](int64_t, int) {
      float own = 0;
      operations.fetch_add(kernel(rounds, &own), std::memory_order_relaxed);
      total.store(own, std::memory_order_relaxed);
    });
    return static_cast<double>(operations.load());
  });
}

PeakKernel peak_kernel(Isa isa, Precision precision) {
#if defined(__x86_64__)
  if (isa == Isa::amx && precision == Precision::bf16) return tile_peak;
#endif
  (void)precision;
  return kernels(isa).peak;
}

}  // namespace
}  // namespace cpu

MachineLimits measure_machine(const CpuOptions& options) {
  const cpu::Isa isa = cpu::choose_isa(options.isa);
  ThreadPool pool(cpu::checked_threads(options.threads));
  MachineLimits limits{
      .threads = pool.threads(), .level = cpu::isa_name(isa), .precision = options.precision};
  limits.flops_per_second = cpu::multiply_rate(pool, cpu::peak_kernel(isa, options.precision));
  limits.buffer_bytes = static_cast<int64_t>(cpu::buffer_bytes());
  limits.read_bytes_per_second = cpu::read_rate(pool, static_cast<size_t>(limits.buffer_bytes));
  return limits;
}

}  // namespace qwen
