// The dialect's matrix instructions on the host: fragments as PTX lays them out (PTX ISA, "Matrix Fragments for mma.m16n8k16",
// "ldmatrix").
#include "backend/cuda/dialect.h"
#include "host_device.h"

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

// The lanes' fragments as matrices, their product, each sum in the order of k, and back. It is where the executor computes most: without
// the sanitizers it takes a twentieth of the time, and what is inlined here must be without them too.
__attribute__((noinline, optimize("O3"), no_sanitize("address", "undefined"))) void multiply(
    void* const* lanes, uint32_t) {
  uint32_t a[16][16], b[16][8];  // as float32's bits
  float d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* of = static_cast<const Fragments*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      a[g + i % 2 * 8][2 * t + i / 2 * 8] = of->a[i] << 16;
      a[g + i % 2 * 8][2 * t + i / 2 * 8 + 1] = of->a[i] & 0xffff0000u;
      d[g + i / 2 * 8][2 * t + i % 2] = of->d[i];
    }
    for (int i = 0; i < 2; ++i) {
      b[2 * t + i * 8][g] = of->b[i] << 16;
      b[2 * t + i * 8 + 1][g] = of->b[i] & 0xffff0000u;
    }
  }
  float x[16][16], y[16][8];
  __builtin_memcpy(x, a, sizeof x);
  __builtin_memcpy(y, b, sizeof y);
  using Tiles = host_cuda::Machine::Tiles;
  const Tiles tiles = host_cuda::machine().tiles;
  for (int m = 0; m < 16; ++m) {
    if (tiles == Tiles::right) {
      for (int k = 0; k < 16; ++k)
        for (int n = 0; n < 8; ++n) d[m][n] += x[m][k] * y[k][n];
      continue;
    }
    for (int i = 0; i < 16; ++i)
      for (int n = 0; n < 8; ++n) {
        const int k = tiles == Tiles::uneven && n % 2 == 1 ? 15 - i : i;
        d[m][n] += x[m][k] * y[tiles == Tiles::turned ? 15 - k : k][n];
      }
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i)
      static_cast<const Fragments*>(lanes[lane])->d[i] = d[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
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
  host_cuda::collective("mma_bf16", ~0u, &mine, multiply, place);
}

}  // namespace qwen::cuda
