// Short rows, heads above all, are a warp's each; long ones a block's. One row of a decode step takes one block: its latency is what
// counts, and each number is read twice, the second time from L1.
#include "backend/cuda/rms_norm.h"
#include "backend/cuda/row_math.h"

namespace qwen::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) norm_short_rows(RmsNormArgs args) {
  begin_kernel();
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= args.rows) return;  // a whole warp
  const int64_t width = args.width, from = row * width;
  const float* const weight = args.weight + row % args.norms * width;
  const float factor = norm_factor(warp_squares(args.x + from, width), width, args.eps);
  for (int64_t i = threadIdx.x % kWarp; i < width; i += kWarp)
    store(args.out, args.out_element, from + i, args.x[from + i] * factor * weight[i]);
}

// Thread t has the numbers 4 t to 4 t + 3 of each kThreads * 4, whether four can be read at once or not.
__global__ void __launch_bounds__(kThreads) norm_long_rows(RmsNormArgs args, bool fours) {
  begin_kernel();
  const int64_t width = args.width, row = blockIdx.x;
  const float* const x = args.x + row * width;
  const float* const weight = args.weight + row % args.norms * width;
  const int64_t first = int64_t{threadIdx.x} * 4;
  const auto four = [&](const float* from, int64_t i) {
    if (fours) return *reinterpret_cast<const float4*>(from + i);
    return make_float4(from[i], i + 1 < width ? from[i + 1] : 0, i + 2 < width ? from[i + 2] : 0,
                       i + 3 < width ? from[i + 3] : 0);
  };
  float sum = 0;
  for (int64_t i = first; i < width; i += kThreads * 4) {
    const float4 v = four(x, i);
    sum = fmaf(v.w, v.w, fmaf(v.z, v.z, fmaf(v.y, v.y, fmaf(v.x, v.x, sum))));
  }
  const float factor = norm_factor(block_sum(sum, shared_memory<float>()), width, args.eps);
  for (int64_t i = first; i < width; i += kThreads * 4) {
    const float4 v = four(x, i), w = four(weight, i);
    const float4 y =
        make_float4(v.x * factor * w.x, v.y * factor * w.y, v.z * factor * w.z, v.w * factor * w.w);
    const int64_t at = row * width + i;
    if (!fours) {
      store(args.out, args.out_element, at, y.x);
      if (i + 1 < width) store(args.out, args.out_element, at + 1, y.y);
      if (i + 2 < width) store(args.out, args.out_element, at + 2, y.z);
      if (i + 3 < width) store(args.out, args.out_element, at + 3, y.w);
    } else if (args.out_element == Element::f32) {
      *reinterpret_cast<float4*>(static_cast<float*>(args.out) + at) = y;
    } else {
      *reinterpret_cast<uint2*>(static_cast<uint16_t*>(args.out) + at) =
          make_uint2(to_bf16x2(y.x, y.y), to_bf16x2(y.z, y.w));
    }
  }
}

bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

}  // namespace

void rms_norm(Stream& stream, const RmsNormArgs& args) {
  if (args.width <= kWarpRow) {
    constexpr int64_t kRows = kThreads / kWarp;
    return launch(stream, norm_short_rows, Grid((args.rows + kRows - 1) / kRows), kThreads, 0, args);
  }
  const bool fours = args.width % 4 == 0 && aligned(args.x) && aligned(args.weight) && aligned(args.out);
  launch(stream, norm_long_rows, Grid(args.rows), kThreads, kThreads / kWarp * sizeof(float), args, fours);
}

}  // namespace qwen::cuda
