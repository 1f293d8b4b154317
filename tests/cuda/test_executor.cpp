// The executor and the dialect's host twins: what they compute, and what they refuse.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "backend/cuda/dialect.h"
#include "base/error.h"
#include "host_device.h"
#include "kernel_fixtures.h"

using namespace qwen;
using namespace qwen::cuda;
using qwen::test::Random;

namespace {

// A device with a stream, and arrays on it.
struct Bench {
  Device device{0};
  std::unique_ptr<Stream> stream = device.create_stream();

  template <class T>
  Memory array(size_t n) {
    return device.allocate(n * sizeof(T), "a test");
  }
  template <class T>
  std::vector<T> read(const Memory& memory) {
    std::vector<T> values(memory.size() / sizeof(T));
    Memory pinned = device.allocate_pinned(memory.size(), "a test");
    stream->to_host(pinned.data(), memory.data(), memory.size());
    stream->synchronize();
    std::memcpy(values.data(), pinned.data(), memory.size());
    return values;
  }
  template <class T>
  Memory write(const std::vector<T>& values) {
    Memory memory = array<T>(values.size()), pinned = device.allocate_pinned(memory.size(), "a test");
    std::memcpy(pinned.data(), values.data(), memory.size());
    stream->to_device(memory.data(), pinned.data(), memory.size());
    stream->synchronize();
    return memory;
  }
  // The message that the work ends with.
  std::string failure() {
    try {
      stream->synchronize();
    } catch (const Error& error) {
      CHECK(error.status() == Status::internal);
      stream = device.create_stream();
      return error.message();
    }
    return "";
  }
};

template <class T>
T* at(const Memory& memory) {
  return reinterpret_cast<T*>(memory.data());
}

bool has(const std::string& text, std::string_view part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE(text);
  return found;
}

// ---- kernels, as a .cu file would have them

__global__ void number_threads(unsigned* to, unsigned n) {
  begin_kernel();
  const unsigned i = (blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x * blockDim.y +
                     threadIdx.y * blockDim.x + threadIdx.x;
  if (i < n) to[i] = i;
}

__global__ void reverse_through_shared(const float* from, float* to) {
  begin_kernel();
  float* const shared = shared_memory<float>();
  shared[threadIdx.x] = from[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  to[blockIdx.x * blockDim.x + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
  __syncthreads();
  shared[threadIdx.x] = 0;
}

__global__ void reverse_without_barrier(const float* from, float* to) {
  begin_kernel();
  float* const shared = shared_memory<float>();
  shared[threadIdx.x] = from[threadIdx.x];
  to[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

__global__ void sum_blocks(const float* from, float* to) {
  begin_kernel();
  const float sum = block_sum(from[blockIdx.x * blockDim.x + threadIdx.x], shared_memory<float>());
  to[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

__global__ void shuffles(int* to) {
  begin_kernel();
  const int lane = static_cast<int>(threadIdx.x);
  int* const row = to + lane * 8;
  row[0] = __shfl_sync(~0u, lane * 10, 7);
  row[1] = __shfl_xor_sync(~0u, lane * 10, 5);
  row[2] = __shfl_down_sync(~0u, lane * 10, 3);
  row[3] = __shfl_up_sync(~0u, lane * 10, 3);
  row[4] = __shfl_sync(~0u, lane * 10, 1, 8);
  row[5] = static_cast<int>(__ballot_sync(~0u, lane % 3 == 0));
  row[6] = __any_sync(~0u, lane == 9) * 2 + __all_sync(~0u, lane < 31);
  const uint32_t halves = lane < 16 ? 0xffffu : 0xffff0000u;
  row[7] = 0;
  for (int i = 0; i <= lane / 16; ++i) row[7] += __shfl_sync(halves, lane, 16 * (lane / 16) + i);
}

__global__ void copy_in_stages(const uint4* from, uint4* to, int n, bool waits) {
  begin_kernel();
  uint4* const shared = shared_memory<uint4>();
  const int lane = static_cast<int>(threadIdx.x);
  constexpr int kStages = 3;
  const auto fetch = [&](int i) {
    cp_async16(shared + i % kStages * 32 + lane, from + i * 32 + lane, i < n);
    cp_async_commit();
  };
  for (int i = 0; i < kStages - 1; ++i) fetch(i);
  for (int i = 0; i < n; ++i) {
    if (waits) cp_async_wait<kStages - 2>();
    __syncthreads();
    to[i * 32 + lane] = shared[i % kStages * 32 + 31 - lane];
    fetch(i + kStages - 1);
  }
}

__global__ void multiply_tile(const uint16_t* a, const uint16_t* b, float* d, bool through_shared) {
  begin_kernel();
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  const auto pair = [](const uint16_t* at, int stride) { return at[0] | uint32_t{at[stride]} << 16; };
  uint32_t fa[4], fb[4];
  if (through_shared) {  // a: [16][16], b: [16][8] by rows, so transposed
    uint16_t* const shared = shared_memory<uint16_t>();
    for (int i = lane; i < 256; i += 32) shared[i] = a[i];
    for (int i = lane; i < 128; i += 32) shared[256 + i] = b[i];
    __syncthreads();
    ldmatrix_x4(fa, shared + (lane % 16) * 16 + lane / 16 * 8);
    ldmatrix_x4_trans(fb, shared + 256 + lane % 16 * 8);
  } else {
    for (int i = 0; i < 4; ++i) fa[i] = pair(a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8, 1);
    for (int i = 0; i < 2; ++i) fb[i] = pair(b + (2 * t + i * 8) * 8 + g, 8);
  }
  float fd[4];
  for (int i = 0; i < 4; ++i) fd[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  const uint32_t two[2] = {fb[0], fb[1]};
  mma_bf16(fd, fa, two);
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = fd[i];
}

__global__ void read_unwritten(float* to) {
  begin_kernel();
  to[threadIdx.x] = shared_memory<float>()[threadIdx.x];
  __syncthreads();
  shared_memory<float>()[threadIdx.x] = 1;  // the next block must not see it
}

__global__ void record_order(unsigned* next, unsigned* blocks, unsigned* threads) {
  begin_kernel();
  if (threadIdx.x == 0) blocks[atomicAdd(next, 1u)] = blockIdx.x;
  __syncthreads();
  if (blockIdx.x == 0) threads[atomicAdd(next + 1, 1u)] = threadIdx.x;
}

__global__ void breaks(int how, float* memory) {
  begin_kernel();
  float* const shared = shared_memory<float>();
  const unsigned i = threadIdx.x;
  if (how == 0 && i == 5) return;
  if (how == 1) {
    if (i < 7)
      __syncthreads();
    else
      __syncthreads();
  }
  if (how == 2 && i < 40) __shfl_xor_sync(~0u, 1, 1);
  if (how == 3) __shfl_sync(0xffu, 1, 0);
  if (how == 4 && i % 32 < 8) __shfl_sync(0xffu, 1, 9);
  if (how == 5) __shfl_sync(~0u, 1, 0);  // a block of 40 threads: the second warp has 8 lanes
  if (how == 6 && i == 3) memory[4] = 1;
  if (how == 7 && i == 3) shared[64] = 1;
  if (how == 8) load_once(reinterpret_cast<const uint4*>(memory + 1));
  if (how == 9) cp_async16(shared + 4 * 16, memory);
  if (how == 10 && i == 0) memory[-1] = 1;
  __syncthreads();
}

__global__ void begins_late(int how, float* memory) {
  const bool last = threadIdx.x == blockDim.x - 1;
  if (how == 0 && last) return;
  if (how == 1 && last) await_predecessors();
  let_dependents_begin();
  if (how == 2 && last) return;
  if (how == 3) __syncthreads();
  if (how == 4) __syncwarp();
  if (how == 5) shared_memory<float>();
  if (how == 6) load_once(reinterpret_cast<const uint4*>(memory));
  if (how == 7) atomicAdd(reinterpret_cast<unsigned*>(memory), 1u);
  if (how == 8) cp_async16(memory, memory);
  load_weight(reinterpret_cast<const uint4*>(memory));
  await_predecessors();
  __syncthreads();
}

}  // namespace

TEST_CASE("every thread of every block runs once, where it stands in the grid") {
  Bench bench;
  const Memory to = bench.array<unsigned>(6 * 5 * 8 * 3);
  launch(*bench.stream, number_threads, {6, 5}, {8, 3}, 0, at<unsigned>(to), 700);
  const auto values = bench.read<unsigned>(to);
  for (unsigned i = 0; i < 700; ++i) REQUIRE(values[i] == i);
  CHECK(values[700] == ~0u);                                                        // nobody wrote there
  launch(*bench.stream, number_threads, {6, 0}, {8, 3}, 0, at<unsigned>(to), 700);  // nothing to do
  bench.stream->synchronize();
  CHECK_THROWS_WITH_AS(launch(*bench.stream, number_threads, {1, 70000}, 32, 0, at<unsigned>(to), 0),
                       doctest::Contains("1 x 70000 x 1 blocks"), Error);
}

TEST_CASE("threads meet at barriers, blocks have shared memory of their own") {
  Bench bench;
  Random random(1);
  const auto values = random.floats(8 * 96);
  const Memory from = bench.write(values), to = bench.array<float>(values.size());
  launch(*bench.stream, reverse_through_shared, 8, 96, 96 * sizeof(float), at<const float>(from),
         at<float>(to));
  const auto reversed = bench.read<float>(to);
  for (size_t b = 0; b < 8; ++b)
    for (size_t i = 0; i < 96; ++i) REQUIRE(reversed[b * 96 + i] == values[b * 96 + 95 - i]);
}

TEST_CASE("a missing barrier is seen") {
  Bench bench;
  Random random(2);
  const Memory from = bench.write(random.floats(64)), to = bench.array<float>(64);
  launch(*bench.stream, reverse_without_barrier, 1, 64, 64 * sizeof(float), at<const float>(from),
         at<float>(to));
  const auto reversed = bench.read<float>(to);
  CHECK(std::any_of(reversed.begin(), reversed.end(), [](float x) { return std::isnan(x); }));
}

TEST_CASE("sums over a block have the same bits in every thread and every order") {
  Bench bench;
  Random random(3);
  const auto values = random.floats(4 * 256);
  const Memory from = bench.write(values), to = bench.array<float>(values.size());
  std::vector<float> first;
  for (uint64_t seed = 1; seed < 6; ++seed) {
    host_cuda::set_seed(seed);
    launch(*bench.stream, sum_blocks, 4, 256, 8 * sizeof(float), at<const float>(from), at<float>(to));
    const auto sums = bench.read<float>(to);
    for (size_t i = 0; i < sums.size(); ++i) REQUIRE(sums[i] == sums[i / 256 * 256]);
    if (first.empty()) first = sums;
    CHECK(test::same_bits(sums, first));
  }
  for (size_t b = 0; b < 4; ++b)
    CHECK(first[b * 256] ==
          doctest::Approx(std::accumulate(&values[b * 256], &values[b * 256] + 256, 0.0)).epsilon(1e-5));
}

TEST_CASE("shuffles and votes") {
  Bench bench;
  const Memory to = bench.array<int>(32 * 8);
  launch(*bench.stream, shuffles, 1, 32, 0, at<int>(to));
  const auto rows = bench.read<int>(to);
  for (int lane = 0; lane < 32; ++lane) {
    const int* const row = &rows[static_cast<size_t>(lane * 8)];
    CHECK(row[0] == 70);
    CHECK(row[1] == (lane ^ 5) * 10);
    CHECK(row[2] == (lane + 3 < 32 ? lane + 3 : lane) * 10);
    CHECK(row[3] == (lane >= 3 ? lane - 3 : lane) * 10);
    CHECK(row[4] == (lane / 8 * 8 + 1) * 10);
    CHECK(row[5] == 0x49249249);
    CHECK(row[6] == 2);
    CHECK(row[7] == (lane < 16 ? 0 : 16 + 17));  // two halves of a warp that go their own ways
  }
}

TEST_CASE("asynchronous copies happen in the wait that covers them") {
  Bench bench;
  std::vector<uint32_t> values(5 * 32 * 4);
  std::iota(values.begin(), values.end(), 0);
  const Memory from = bench.write(values), to = bench.array<uint32_t>(values.size());
  for (const bool waits : {true, false}) {
    CAPTURE(waits);
    launch(*bench.stream, copy_in_stages, 1, 32, 3 * 32 * sizeof(uint4), at<const uint4>(from), at<uint4>(to),
           5, waits);
    const auto copied = bench.read<uint32_t>(to);
    for (size_t i = 0; i < 5; ++i)
      for (size_t lane = 0; lane < 32; ++lane)
        REQUIRE(copied[(i * 32 + lane) * 4 + 1] == (waits ? values[(i * 32 + 31 - lane) * 4 + 1] : ~0u));
  }
}

TEST_CASE("fragments of a tile are where PTX has them") {
  Bench bench;
  Random random(4);
  std::vector<uint16_t> a(256), b(128);
  for (auto& x : a) x = to_bf16(random.uniform());
  for (auto& x : b) x = to_bf16(random.uniform());
  const auto initial = random.floats(128);
  for (const bool through_shared : {false, true}) {
    const Memory da = bench.write(a), db = bench.write(b), d = bench.write(initial);
    launch(*bench.stream, multiply_tile, 1, 32, 384 * sizeof(uint16_t), at<const uint16_t>(da),
           at<const uint16_t>(db), at<float>(d), through_shared);
    const auto product = bench.read<float>(d);
    for (size_t m = 0; m < 16; ++m)
      for (size_t n = 0; n < 8; ++n) {
        double sum = initial[m * 8 + n];
        for (size_t k = 0; k < 16; ++k)
          sum += double{to_float(a[m * 16 + k])} * double{to_float(b[k * 8 + n])};
        CHECK(std::abs(product[m * 8 + n] - sum) < 1e-5);
      }
  }
}

TEST_CASE("bfloat16 is rounded to the nearest, ties to even, and NaN is kept") {
  for (const auto& [value, bits] : std::vector<std::pair<float, uint16_t>>{{1.0f, 0x3f80},
                                                                           {-0.0f, 0x8000},
                                                                           {1.00390625f, 0x3f80},
                                                                           {1.01171875f, 0x3f82},
                                                                           {1.0039064f, 0x3f81},
                                                                           {INFINITY, 0x7f80},
                                                                           {3.4e38f, 0x7f80},
                                                                           {1e-40f, 0x0001}})
    CHECK(to_bf16(value) == bits);
  CHECK(std::isnan(to_float(to_bf16(NAN))));
  CHECK(to_bf16x2(1.0f, -2.0f) == 0xc0003f80u);
}

TEST_CASE("what nobody wrote is NaN, in every block") {
  Bench bench;
  const Memory to = bench.array<float>(32);
  for (const float x : bench.read<float>(to)) REQUIRE(std::isnan(x));
  launch(*bench.stream, read_unwritten, 3, 32, 32 * sizeof(float), at<float>(to));
  for (const float x : bench.read<float>(to)) REQUIRE(std::isnan(x));
}

TEST_CASE("blocks and threads come in an order that the seed decides") {
  Bench bench;
  std::set<std::vector<unsigned>> block_orders, thread_orders;
  const auto orders = [&](uint64_t seed) {
    host_cuda::set_seed(seed);
    const Memory next = bench.write(std::vector<unsigned>{0, 0});
    const Memory blocks = bench.array<unsigned>(16), threads = bench.array<unsigned>(64);
    launch(*bench.stream, record_order, 16, 64, 0, at<unsigned>(next), at<unsigned>(blocks),
           at<unsigned>(threads));
    return std::pair{bench.read<unsigned>(blocks), bench.read<unsigned>(threads)};
  };
  for (uint64_t seed = 1; seed < 6; ++seed) {
    auto [blocks, threads] = orders(seed);
    CHECK(orders(seed) == std::pair{blocks, threads});
    block_orders.insert(blocks);
    thread_orders.insert(threads);
    std::sort(blocks.begin(), blocks.end());
    std::sort(threads.begin(), threads.end());
    for (unsigned i = 0; i < 16; ++i) REQUIRE(blocks[i] == i);
    for (unsigned i = 0; i < 64; ++i) REQUIRE(threads[i] == i);
  }
  CHECK(block_orders.size() == 5);
  CHECK(thread_orders.size() == 5);
}

TEST_CASE("threads that go different ways at a barrier or a shuffle are named") {
  Bench bench;
  const Memory memory = bench.array<float>(4);
  const auto failure = [&](int how, unsigned threads = 64) {
    launch(*bench.stream, breaks, 3, threads, 64 * sizeof(float), how, at<float>(memory));
    return bench.failure();
  };
  for (uint64_t seed = 1; seed < 9; ++seed) {
    host_cuda::set_seed(seed);
    const std::string gone = failure(0);
    CHECK(has(gone, "test_executor.cpp:"));
    CHECK(has(gone, "block ("));
    CHECK(has(gone, "thread (5, 0, 0)"));
    CHECK(has(gone, "__syncthreads"));
    CHECK(has(failure(1), "at the one in test_executor.cpp:"));
    CHECK(has(failure(2), "__shfl_xor_sync"));
    CHECK(has(failure(3), "is not in the mask of __shfl_sync"));
    CHECK(has(failure(4), "shuffles from a lane that its mask does not name"));
    CHECK(has(failure(5, 40), "lane 8, which the block does not have"));
    CHECK(has(failure(8), "load_once of an address that is no multiple of 16"));
    CHECK(has(failure(9), "cp_async16 writes outside of shared memory"));
  }
  CHECK(failure(11) == "");   // the executor goes on
#ifndef __SANITIZE_ADDRESS__  // which ends the program there
  CHECK(has(failure(7), "outside of its 256 bytes of shared memory"));
  CHECK(has(failure(6), "outside of an allocation of 16 bytes"));
#endif
}

TEST_CASE("a kernel that begins with anything but begin_kernel() is named") {
  Bench bench;
  const Memory memory = bench.array<float>(4);
  const auto failure = [&](int how) {
    launch(*bench.stream, begins_late, 3, 64, 64 * sizeof(float), how, at<float>(memory));
    return bench.failure();
  };
  CHECK(has(failure(0), "thread (63, 0, 0): ends before begin_kernel()"));
  CHECK(has(failure(1), "waits for what came before, but has not let its dependents begin"));
  CHECK(has(failure(2), "thread (63, 0, 0): ends before begin_kernel()"));
  CHECK(has(failure(3), "waits at __syncthreads before begin_kernel()"));
  CHECK(has(failure(4), "__syncwarp before begin_kernel()"));
  CHECK(has(failure(5), "shared_memory before begin_kernel()"));
  CHECK(has(failure(6), "load_once before begin_kernel()"));
  CHECK(has(failure(7), "atomicAdd before begin_kernel()"));
  CHECK(has(failure(8), "cp_async16 before begin_kernel()"));
  CHECK(failure(9) == "");  // weights may be asked for
}

TEST_CASE("launches that no GPU takes are refused") {
  Bench bench;
  launch(*bench.stream, breaks, 1, 1025, 0, 11, nullptr);
  CHECK(has(bench.failure(), "(1025, 1, 1) threads; at most 1024"));
  launch(*bench.stream, breaks, 1, 32, 300 << 10, 11, nullptr);
  CHECK(has(bench.failure(), "307200 bytes of shared memory; at most 232448"));
}

TEST_CASE("a stream's work happens when somebody waits for it") {
  Bench bench;
  const Memory to = bench.array<float>(4);
  Memory pinned = bench.device.allocate_pinned(4 * sizeof(float), "a test");
  auto* const host = at<float>(pinned);
  std::fill_n(host, 4, 1.0f);
  bench.stream->to_device(to.data(), host, pinned.size());
  std::fill_n(host, 4, 2.0f);  // too soon
  const auto event = bench.device.create_event();
  event->synchronize();  // nothing was recorded
  bench.stream->record(*event);
  const auto other = bench.device.create_stream();
  other->wait(*event);
  other->to_host(host, to.data(), pinned.size());
  std::fill_n(host, 4, 3.0f);
  other->synchronize();
  CHECK(*host == 3.0f);
  // An error stays: of that stream.
  launch(*bench.stream, breaks, 1, 1025, 0, 11, nullptr);
  CHECK_THROWS_AS(bench.stream->synchronize(), Error);
  CHECK_THROWS_AS(bench.stream->check(), Error);
  CHECK_THROWS_AS(bench.stream->fill_zero(to.data(), 4), Error);
  other->check();
}

TEST_CASE(
    "what a stream captures happens with every replay, to the memory of then and with the arguments of "
    "before") {
  Bench bench;
  const Memory from = bench.write(std::vector<float>{1, 2}), to = bench.write(std::vector<float>{0, 0}),
               numbers = bench.write(std::vector<unsigned>{9, 9, 9, 9});
  unsigned count = 3;
  const auto graph = bench.stream->capture([&] {
    bench.stream->on_device(to.data(), from.data(), from.size());
    launch(*bench.stream, number_threads, 1, 32, 0, at<unsigned>(numbers), count);
  });
  count = 1;
  CHECK(bench.read<float>(to) == std::vector<float>{0, 0});  // nothing of it has happened
  bench.stream->replay(*graph);
  CHECK(bench.read<float>(to) == std::vector<float>{1, 2});
  CHECK(bench.read<unsigned>(numbers) == std::vector<unsigned>{0, 1, 2, 9});
  bench.stream->fill_zero(from.data(), from.size());
  bench.stream->replay(*graph);
  CHECK(bench.read<float>(to) == std::vector<float>{0, 0});
}

TEST_CASE("a thread that captures may not wait, ask or allocate") {
  Bench bench;
  const Memory to = bench.array<float>(4), pinned = bench.device.allocate_pinned(16, "a test");
  const auto event = bench.device.create_event();
  float pageable[4] = {};
  const auto refused = [&](const std::function<void()>& work) {
    try {
      bench.stream->capture([&] {
        bench.stream->fill_zero(to.data(), to.size());
        work();
      });
    } catch (const Error& error) {
      bench.stream->synchronize();  // goes on
      return error.message();
    }
    return std::string();
  };
  CHECK(refused([] {}) == "");
  CHECK(refused([&] { bench.stream->synchronize(); }) == "waiting while a stream captures");
  CHECK(refused([&] { bench.stream->check(); }) == "asking for errors while a stream captures");
  CHECK(refused([&] { bench.stream->record(*event); }) == "recording an event while a stream captures");
  CHECK(refused([&] { event->synchronize(); }) == "waiting for an event while a stream captures");
  CHECK(refused([&] { bench.device.allocate(4, "a test"); }) == "allocating while a stream captures");
  CHECK(refused([&] { bench.device.allocate_pinned(4, "a test"); }) == "allocating while a stream captures");
  CHECK(refused([&] { bench.stream->to_device(to.data(), pageable, 16); }) ==
        "copying from memory that is not pinned while a stream captures");
  CHECK(refused([&] { bench.stream->to_host(pageable, to.data(), 16); }) ==
        "copying to memory that is not pinned while a stream captures");
  CHECK(refused([&] { bench.stream->to_device(to.data(), pinned.data(), 16); }) == "");
  Memory freed = bench.device.allocate(4, "a test");
  CHECK(refused([&] { freed = {}; }) == "what was captured is not whole");
  CHECK(refused([&] {  // somebody hears of it and goes on
          try {
            bench.device.allocate(4, "a test");
          } catch (const Error&) {
          }
        }) == "what was captured is not whole");
  // Another thread may, meanwhile.
  CHECK(refused([&] { std::thread([&] { bench.device.allocate(4, "a test"); }).join(); }) == "");
  for (const float x : bench.read<float>(to)) CHECK(std::isnan(x));
}

TEST_CASE("a device gives what it has") {
  Bench bench;
  const size_t before = host_cuda::allocated_bytes();
  host_cuda::machine().bytes = before + 1000;
  const Device small(0);
  {
    const Memory some = small.allocate(600, "the test");
    CHECK(small.free_bytes() == 400);
    CHECK_THROWS_WITH_AS(small.allocate(401, "the test"),
                         "cannot allocate 401 bytes for the test on GPU 0; 400 bytes are free", Error);
  }
  CHECK(small.free_bytes() == 1000);
  host_cuda::machine() = {};
  CHECK_THROWS_WITH_AS(Device(1), "option 'device' asks for GPU 1; this machine has 1, counted from 0",
                       Error);
}
