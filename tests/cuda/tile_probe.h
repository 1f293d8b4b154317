// What tests ask of a warp's tile instruction.
#pragma once

#include <cstdint>

#include "backend/cuda/device.h"

namespace qwen::test {

// d += a b of `count` tiles: a [count][16][16] and b [count][16][8] are bfloat16, d [count][16][8] float32.
void multiply_tiles(cuda::Stream& stream, const uint16_t* a, const uint16_t* b, float* d, int64_t count);

}  // namespace qwen::test
