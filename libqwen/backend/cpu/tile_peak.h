// PeakKernel (kernels.h) of the tile instructions: compiled for them, and called only where the level is amx.
#pragma once

#include <cstdint>

namespace qwen::cpu {

int64_t tile_peak(int64_t rounds, float* sink);

}  // namespace qwen::cpu
