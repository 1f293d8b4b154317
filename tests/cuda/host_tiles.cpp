// The dialect's matrix instructions on the host: fragments as PTX lays them out (PTX ISA, "Matrix Fragments for mma.m16n8k16",
// "ldmatrix").
#include "backend/cuda/dialect.h"

namespace qwen::cuda {
namespace {

struct LoadedRow {
  const uint16_t* row;
  uint32_t* r;
};

void load(uint32_t (&r)[4], const void* shared_row, bool transposed, HostPlace place) {
  host_cuda::check_aligned(shared_row, 16, "ldmatrix_x4");
  LoadedRow mine{static_cast<const uint16_t*>(shared_row), r};
  const auto straight = [](void* const* lanes, uint32_t) {
    for (int lane = 0; lane < 32; ++lane)
      for (int m = 0; m < 4; ++m) {
        const uint16_t* const row =
            static_cast<const LoadedRow*>(lanes[8 * m + lane / 4])->row + 2 * (lane % 4);
        static_cast<LoadedRow*>(lanes[lane])->r[m] = row[0] | uint32_t{row[1]} << 16;
      }
  };
  const auto turned = [](void* const* lanes, uint32_t) {
    for (int lane = 0; lane < 32; ++lane)
      for (int m = 0; m < 4; ++m) {
        const auto row = [&](int i) { return static_cast<const LoadedRow*>(lanes[8 * m + i])->row; };
        static_cast<LoadedRow*>(lanes[lane])->r[m] =
            row(2 * (lane % 4))[lane / 4] | uint32_t{row(2 * (lane % 4) + 1)[lane / 4]} << 16;
      }
  };
  if (transposed)
    host_cuda::collective("ldmatrix_x4_trans", ~0u, &mine, turned, place);
  else
    host_cuda::collective("ldmatrix_x4", ~0u, &mine, straight, place);
}

struct Fragments {
  float* d;
  const uint32_t *a, *b;
};

float half(uint32_t pair, int high) {
  return to_float(static_cast<uint16_t>(high ? pair >> 16 : pair));
}

// Each sum in the order of k. The one place where the executor computes much: without the sanitizers it is 20 times as fast.
__attribute__((noinline, optimize("O3"), no_sanitize("address", "undefined"))) void multiply_tiles(
    const float (&a)[16][16], const float (&b)[16][8], float (&d)[16][8]) {
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
}

}  // namespace

void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row, HostPlace place) {
  load(r, shared_row, false, place);
}

void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row, HostPlace place) {
  load(r, shared_row, true, place);
}

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], HostPlace place) {
  Fragments mine{d, a, b};
  const auto multiply = [](void* const* lanes, uint32_t) {
    float a[16][16], b[16][8], d[16][8];
    const auto for_each = [&](auto&& visit) {  // (fragments, g, t) of every lane
      for (int lane = 0; lane < 32; ++lane)
        visit(*static_cast<const Fragments*>(lanes[lane]), lane / 4, lane % 4);
    };
    for_each([&](const Fragments& of, int g, int t) {
      for (int i = 0; i < 4; ++i)
        for (int high = 0; high < 2; ++high) a[g + i % 2 * 8][2 * t + i / 2 * 8 + high] = half(of.a[i], high);
      for (int i = 0; i < 2; ++i)
        for (int high = 0; high < 2; ++high) b[2 * t + i * 8 + high][g] = half(of.b[i], high);
      for (int i = 0; i < 4; ++i) d[g + i / 2 * 8][2 * t + i % 2] = of.d[i];
    });
    multiply_tiles(a, b, d);
    for_each([&](const Fragments& of, int g, int t) {
      for (int i = 0; i < 4; ++i) of.d[i] = d[g + i / 2 * 8][2 * t + i % 2];
    });
  };
  host_cuda::collective("mma_bf16", ~0u, &mine, multiply, place);
}

}  // namespace qwen::cuda
