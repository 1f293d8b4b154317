#include "backend/cuda/dialect.h"
#include "backend/cuda/measure.h"

namespace qwen::cuda {
namespace {

constexpr int kThreads = kMeasuringThreads;
constexpr int kAhead = 4;  // loads of a thread under way

__global__ void __launch_bounds__(kThreads) read_pieces(const uint4* from, int64_t count, uint32_t* sums) {
  begin_kernel();
  const int64_t threads = int64_t{gridDim.x} * kThreads,
                thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  uint32_t sum = 0;
  const auto add = [&](const uint4& v) { sum += v.x ^ v.y ^ v.z ^ v.w; };
  int64_t i = thread;
  for (; i + (kAhead - 1) * threads < count; i += kAhead * threads) {
    uint4 read[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) read[a] = load_once(from + i + a * threads);
#pragma unroll
    for (int a = 0; a < kAhead; ++a) add(read[a]);
  }
  for (; i < count; i += threads) add(load_once(from + i));
  sums[thread] = sum;
}

constexpr int kSums = 8;  // of a thread or warp, none of which waits for another

// x -> x / 2 + 1 goes to 2.
__global__ void __launch_bounds__(kThreads) multiply_floats(int64_t rounds, float* sums) {
  begin_kernel();
  float values[kSums];
#pragma unroll
  for (int s = 0; s < kSums; ++s) values[s] = static_cast<float>(s);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma unroll
    for (int s = 0; s < kSums; ++s) values[s] = fmaf(values[s], 0.5f, 1.0f);
  }
  float sum = 0;
#pragma unroll
  for (int s = 0; s < kSums; ++s) sum += values[s];
  sums[int64_t{blockIdx.x} * kThreads + threadIdx.x] = sum;
}

// Ones and minus ones: each product adds 0 to a sum that begins with 1. All the bits of the operands take part, for a clock may hang
// on them.
__global__ void __launch_bounds__(kThreads) multiply_tiles(int64_t rounds, float* sums) {
  begin_kernel();
  constexpr uint32_t kPlusMinus = 0x3f80bf80u, kOnes = 0x3f803f80u;
  float values[kSums][4];
#pragma unroll
  for (int s = 0; s < kSums; ++s) values[s][0] = values[s][1] = values[s][2] = values[s][3] = 1;
  const uint32_t a[4] = {kPlusMinus, kPlusMinus, kPlusMinus, kPlusMinus}, b[2] = {kOnes, kOnes};
  for (int64_t i = 0; i < rounds; ++i) {
#pragma unroll
    for (int s = 0; s < kSums; ++s) mma_bf16(values[s], a, b);
  }
  float sum = 0;
#pragma unroll
  for (int s = 0; s < kSums; ++s) sum += values[s][0];
  sums[int64_t{blockIdx.x} * kThreads + threadIdx.x] = sum;
}

}  // namespace

void read_all(Stream& stream, const void* from, int64_t bytes, int64_t blocks, uint32_t* sums) {
  launch(stream, read_pieces, Grid(blocks), kThreads, 0, static_cast<const uint4*>(from),
         bytes / static_cast<int64_t>(sizeof(uint4)), sums);
}

int64_t multiply_often(Stream& stream, Element element, int64_t rounds, int64_t blocks, float* sums) {
  if (element == Element::f32) {
    launch(stream, multiply_floats, Grid(blocks), kThreads, 0, rounds, sums);
    return 2 * rounds * kSums * kThreads * blocks;
  }
  launch(stream, multiply_tiles, Grid(blocks), kThreads, 0, rounds, sums);
  constexpr int64_t kTile = int64_t{16} * 8 * 16;
  return 2 * rounds * kSums * kTile * (kThreads / kWarp) * blocks;
}

}  // namespace qwen::cuda
