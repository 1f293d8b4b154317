// The two limits of a GPU that a model runs into: what measure.cpp times.
#pragma once

#include <cstdint>

#include "backend/cuda/device.h"
#include "backend/cuda/element.h"

namespace qwen::cuda {

// Blocks of a launch: enough to fill any GPU, whatever few registers these kernels take.
constexpr int64_t measuring_blocks(int multiprocessors) {
  return int64_t{multiprocessors} * 8;
}
inline constexpr int kMeasuringThreads = 256;

// Reads all of it once. sums [blocks * kMeasuringThreads]: of use to nobody, so that the reading is not left out.
void read_all(Stream& stream, const void* from, int64_t bytes, int64_t blocks, uint32_t* sums);

// Multiplies in registers as our products do: bf16 with mma.sync, float32 with fused multiply-adds. sums as above, what a thread's
// first sum has come to. Returns how many operations these are, a multiplication with its addition being two.
int64_t multiply_often(Stream& stream, Element element, int64_t rounds, int64_t blocks, float* sums);

}  // namespace qwen::cuda
