// Bytes and floating-point operations per second of linear and attention, per instruction-set level, beside
// what plain reading reaches in the same run. Usage: bench_kernels [threads [level …]]. The machine must be
// otherwise idle; where it is not, compare ratios and take the best of several runs.
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "base/cores.h"
#include "base/error.h"
#include "base/thread_pool.h"

namespace {

using namespace qwen;
int bench_threads = 1;

// With one thread its own CPU time, so that a busy neighbour does not count; else the wall clock.
double now() {
  timespec time{};
  clock_gettime(bench_threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// The fastest of several runs: other processes only ever add time.
template <class Work>
double best_seconds(double budget, Work&& work) {
  double best = 1e9;
  const double begin = now();
  for (int run = 0; run < 3 || now() - begin < budget; ++run) {
    const double start = now();
    work();
    best = std::min(best, now() - start);
  }
  return best;
}

std::byte* mapped(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) std::exit(1);
  auto* const halves = static_cast<uint16_t*>(data);
  for (size_t i = 0; i < bytes / 2; ++i)
    halves[i] = static_cast<uint16_t>(0x3c00 + i % 251);  // small bf16 numbers
  return static_cast<std::byte*>(data);
}

double read_bandwidth(ThreadPool& pool, const std::byte* data, size_t bytes) {
  constexpr size_t kPiece = 256 << 10;
  std::vector<uint64_t> sums(bytes / kPiece);
  const double seconds = best_seconds(0.4, [&] {
    pool.for_each(static_cast<int64_t>(sums.size()), [&](int64_t item, int) {
      const auto* words = reinterpret_cast<const uint64_t*>(data + static_cast<size_t>(item) * kPiece);
      uint64_t partial[8] = {};
      for (size_t i = 0; i < kPiece / 8; i += 8) {
        for (size_t lane = 0; lane < 8; ++lane) partial[lane] += words[i + lane];
      }
      for (const uint64_t sum : partial) sums[static_cast<size_t>(item)] += sum;
    });
  });
  return static_cast<double>(bytes) / seconds;
}

void bench_linear(Backend& cpu, DType dtype, int64_t outputs, int64_t k, const std::byte* data,
                  size_t bytes) {
  // As many layers as fill the memory, so that weights come from DRAM as in a decode step.
  const size_t element = dtype == DType::f32 ? 4 : 2,
               layer_bytes = static_cast<size_t>(outputs * k) * element;
  std::vector<WeightPtr> layers;
  for (size_t at = 0; at + layer_bytes <= bytes; at += layer_bytes) {
    layers.push_back(
        cpu.load({"w", dtype, {outputs, k}, data + at, layer_bytes, "bench"}, WeightUse::matrix));
  }
  for (const int64_t rows : {1, 2, 4, 8, 16, 128, 512}) {
    const auto workspace = cpu.create_workspace();  // aligned, as in an engine
    const Rows x = workspace->rows(rows, k), y = workspace->rows(rows, outputs);
    std::fill_n(static_cast<float*>(x.data), rows * k, 0.5f);
    const size_t used = rows <= 4 ? layers.size() : std::min<size_t>(layers.size(), rows <= 16 ? 16 : 2);
    const double seconds = best_seconds(0.15, [&] {
      for (size_t i = 0; i < used; ++i) {
        const Projection p{layers[i].get(), nullptr, y};
        cpu.linear(x, {&p, 1});
      }
    });
    const double flops = 2.0 * static_cast<double>(rows * outputs * k) * static_cast<double>(used);
    std::printf("%-14s linear %s [%5ld, %4ld] rows %3ld  %7.1f GB/s %8.1f GFLOP/s\n", cpu.name().c_str(),
                dtype == DType::f32 ? "f32 " : "bf16", outputs, k, rows,
                static_cast<double>(layer_bytes * used) / seconds * 1e-9, flops / seconds * 1e-9);
  }
}

void bench_attention(Backend& cpu, int64_t context, int64_t rows) {
  constexpr int64_t kLayers = 28, kHeads = 16, kKvHeads = 8, kHeadDim = 128;
  const int64_t blocks = (context + rows + kCacheBlock - 1) / kCacheBlock;
  const auto cache = cpu.create_cache({kLayers, kKvHeads, kHeadDim, 0}, blocks);
  std::vector<int32_t> table;
  for (int64_t b = 0; b < blocks; ++b) table.push_back(static_cast<int32_t>(b));
  const auto batch_of = [&](int64_t first, int64_t count) {
    Batch batch;
    batch.token_ids.resize(static_cast<size_t>(count));
    batch.sequences.push_back({0, static_cast<int32_t>(count), static_cast<int32_t>(first), {&table, 1}});
    return batch;
  };
  const int64_t all = context + rows;
  std::vector<float> kv(static_cast<size_t>(all * kKvHeads * kHeadDim));
  for (size_t i = 0; i < kv.size(); ++i) kv[i] = static_cast<float>(i % 17) * 0.1f - 0.8f;
  AttentionArgs args{kHeads, kKvHeads, kHeadDim, 0, 0.088f, 0, 0};
  const Rows kv_rows{kv.data(), all, kKvHeads * kHeadDim};
  const double store = best_seconds(0.1, [&] {
    for (args.layer = 0; args.layer < kLayers; ++args.layer) {
      cpu.store_heads(*cache, batch_of(0, all), args, {}, {}, {}, kv_rows, kv_rows);
    }
  });
  std::vector<float> q(static_cast<size_t>(rows * kHeads * kHeadDim), 0.3f), out(q.size());
  const Batch batch = batch_of(context, rows);
  const double seconds = best_seconds(0.15, [&] {
    for (args.layer = 0; args.layer < kLayers; ++args.layer) {
      cpu.attention(*cache, batch, args, {q.data(), rows, kHeads * kHeadDim},
                    {out.data(), rows, kHeads * kHeadDim});
    }
  });
  const int64_t element = cpu.precision() == Precision::f32 ? 4 : 2;
  const double bytes = 2.0 * static_cast<double>(all * kKvHeads * kHeadDim * element * kLayers);
  const double pairs =
      static_cast<double>(rows) * (static_cast<double>(context) + 0.5 * static_cast<double>(rows + 1));
  const double flops = 4.0 * pairs * kHeads * kHeadDim * kLayers;
  std::printf(
      "%-14s attention %s context %4ld rows %3ld  %7.1f GB/s %8.1f GFLOP/s   store %6.2f us/row/layer\n",
      cpu.name().c_str(), element == 4 ? "f32 " : "bf16", context, rows, bytes / seconds * 1e-9,
      flops / seconds * 1e-9, store / static_cast<double>(kLayers * all) * 1e6);
}

}  // namespace

int main(int argc, char** argv) try {
  const int threads = argc > 1 ? std::atoi(argv[1]) : usable_cores();
  bench_threads = threads;
  std::vector<std::string> levels(argv + std::min(argc, 2), argv + argc);
  if (levels.empty()) {
    for (const cpu::Isa isa : cpu::available_isas()) levels.emplace_back(cpu::isa_name(isa));
  }
  constexpr size_t kBytes = size_t{704} << 20;  // beyond any last-level cache of today
  const std::byte* const data = mapped(kBytes);
  for (const std::string& level : levels) {
    {
      ThreadPool pool(threads);
      std::printf("plain reading, %d threads: %.1f GB/s\n", threads,
                  read_bandwidth(pool, data, kBytes) * 1e-9);
    }
    for (const Precision precision : {Precision::bf16, Precision::f32}) {
      const auto cpu = create_cpu_backend({precision, threads, level});
      const DType dtype = precision == Precision::bf16 ? DType::bf16 : DType::f32;
      bench_linear(*cpu, dtype, 3072, 1024, data, kBytes);
      bench_linear(*cpu, dtype, 1024, 3072, data, kBytes);
      for (const int64_t context : {128, 2048}) bench_attention(*cpu, context, 1);
      bench_attention(*cpu, 0, 512);
      bench_attention(*cpu, 1536, 512);
    }
    std::fflush(stdout);
  }
  return 0;
} catch (const qwen::Error& error) {
  std::fprintf(stderr, "bench_kernels: %s\n", error.what());
  return 1;
}
