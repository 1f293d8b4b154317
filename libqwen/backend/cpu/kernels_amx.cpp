// The level with matrix tiles: AVX-512's kernels, and those of tile_kernels.h.
#include "backend/cpu/kernels.h"
#include "backend/cpu/tile_attention.h"
#include "backend/cpu/tile_linear.h"

namespace qwen::cpu {
namespace {

constexpr TileKernels kTiles = {.pack = tile_pack, .linear = tile_linear, .attention = tile_attention};

}  // namespace

const Kernels& amx_kernels() {
  static const Kernels table = [] {
    Kernels kernels = avx512_kernels();
    kernels.tiles = &kTiles;
    return kernels;
  }();
  return table;
}

}  // namespace qwen::cpu
