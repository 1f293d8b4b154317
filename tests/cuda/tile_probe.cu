#include "tile_probe.h"

#include "backend/cuda/dialect.h"

namespace qwen::test {
namespace {

using namespace cuda;

__global__ void multiply_tile(const uint16_t* a, const uint16_t* b, float* d) {
  begin_kernel();
  const unsigned row = threadIdx.x / 4, column = threadIdx.x % 4 * 2;
  a += size_t{blockIdx.x} * 256;
  b += size_t{blockIdx.x} * 128;
  d += size_t{blockIdx.x} * 128;
  const auto of_a = [&](unsigned r, unsigned c) {
    return uint32_t{a[r * 16 + c]} | uint32_t{a[r * 16 + c + 1]} << 16;
  };
  const auto of_b = [&](unsigned r) { return uint32_t{b[r * 8 + row]} | uint32_t{b[(r + 1) * 8 + row]} << 16; };
  const uint32_t left[4] = {of_a(row, column), of_a(row + 8, column), of_a(row, column + 8),
                            of_a(row + 8, column + 8)};
  const uint32_t right[2] = {of_b(column), of_b(column + 8)};
  float* const low = d + row * 8 + column;
  float* const high = low + 64;
  float sum[4] = {low[0], low[1], high[0], high[1]};
  mma_bf16(sum, left, right);
  low[0] = sum[0], low[1] = sum[1];
  high[0] = sum[2], high[1] = sum[3];
}

}  // namespace

void multiply_tiles(Stream& stream, const uint16_t* a, const uint16_t* b, float* d, int64_t count) {
  launch(stream, multiply_tile, count, kWarp, 0, a, b, d);
}

}  // namespace qwen::test
