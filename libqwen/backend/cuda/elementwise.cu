// One thread per element of the result, except where a sum stands: bound by memory, and small beside the products around them.
#include "backend/cuda/elementwise.h"

#include "backend/cuda/dialect.h"
#include "backend/cuda/row_math.h"

namespace qwen::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ int64_t element() {
  return int64_t{blockIdx.x} * kThreads + threadIdx.x;
}

int64_t blocks(int64_t n) {
  return (n + kThreads - 1) / kThreads;
}

__device__ __forceinline__ float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

__global__ void __launch_bounds__(kThreads) to_operand_kernel(const float* x, int64_t n, uint16_t* out) {
  begin_kernel();
  if (const int64_t i = element(); i < n) out[i] = to_bf16(x[i]);
}

__global__ void __launch_bounds__(kThreads)
    silu_mul_kernel(const float* gate, const float* up, int64_t n, void* out, Element out_element) {
  begin_kernel();
  if (const int64_t i = element(); i < n) store(out, out_element, i, silu_mul(gate[i], up[i]));
}

__global__ void __launch_bounds__(kThreads)
    sigmoid_mul_kernel(const float* gate, const float* x, int64_t n, void* out, Element out_element) {
  begin_kernel();
  if (const int64_t i = element(); i < n) store(out, out_element, i, x[i] * sigmoid(gate[i]));
}

__global__ void __launch_bounds__(kThreads) silu_kernel(const float* x, float factor, int64_t n, float* out) {
  begin_kernel();
  if (const int64_t i = element(); i < n) out[i] = silu_mul(factor * x[i], 1.0f);
}

__global__ void __launch_bounds__(kThreads)
    add_kernel(const float* x, const float* gate, int64_t n, int64_t width, float* out) {
  begin_kernel();
  const int64_t i = element();
  if (i >= n) return;
  out[i] = gate == nullptr ? out[i] + x[i] : fmaf(sigmoid(gate[i / width]), x[i], out[i]);
}

__global__ void __launch_bounds__(kThreads) split_kernel(SplitArgs args) {
  begin_kernel();
  const int64_t i = element(), all = args.groups * args.width;
  if (i >= args.rows * all) return;
  const int64_t row = i / all, group = i % all / args.width, j = i % args.width;
  args.out[row * args.out_width + args.column + group * args.width + j] =
      args.x[(row * args.groups + group) * args.group_width + args.first + j];
}

__global__ void __launch_bounds__(kThreads)
    gather_kernel(const float* x, const int32_t* indices, int64_t n, int64_t width, float* out) {
  begin_kernel();
  if (const int64_t i = element(); i < n) out[i] = x[indices[i / width] * width + i % width];
}

__global__ void __launch_bounds__(kThreads) scatter_add_kernel(const float* x, const int32_t* indices, int64_t n,
                                                               int64_t width, float scale, float* out) {
  begin_kernel();
  const int64_t i = element();
  if (i >= n) return;
  float& to = out[indices[i / width] * width + i % width];
  to = fmaf(scale, x[i], to);
}

// The angle is rounded to float as in transformers; its cosine and sine are computed in double.
__global__ void __launch_bounds__(kThreads) rope_angles_kernel(RopeAnglesArgs args) {
  begin_kernel();
  const int64_t i = element();
  if (i >= args.rows * args.half) return;
  const int64_t row = i / args.half, pair = i % args.half;
  const auto position = static_cast<float>(args.positions[row * 3 + args.axis[pair]]);
  const double angle = position * args.inverse_frequencies[pair];
  float* const to = args.out + row * 2 * args.half + pair;
  to[0] = static_cast<float>(cos(angle)) * args.scale;
  to[args.half] = static_cast<float>(sin(angle)) * args.scale;
}

__global__ void __launch_bounds__(kThreads)
    rope_kernel(float* x, int64_t n, int64_t heads, int64_t head_dim, const float* angles, int64_t half) {
  begin_kernel();
  const int64_t i = element();
  if (i >= n) return;
  const int64_t head = i / half, pair = i % half;
  const float* const angle = angles + head / heads * 2 * half + pair;
  float* const first = x + head * head_dim + pair;
  const float2 turned = rotate(first[0], first[half], angle[0], angle[half]);
  first[0] = turned.x;
  first[half] = turned.y;
}

__global__ void __launch_bounds__(kThreads)
    mean_of_streams_kernel(const float* x, int64_t n, int64_t streams, int64_t width, float* out) {
  begin_kernel();
  const int64_t i = element();
  if (i >= n) return;
  const float* const from = x + i / width * streams * width + i % width;
  float sum = from[0];
  for (int64_t s = 1; s < streams; ++s) sum += from[s * width];
  out[i] = sum * (1.0f / static_cast<float>(streams));
}

__global__ void __launch_bounds__(kThreads) add_to_streams_kernel(const float* h, const float* gate, int64_t n,
                                                                  int64_t streams, int64_t width, float* x) {
  begin_kernel();
  const int64_t i = element();
  if (i >= n) return;
  const int64_t row = i / (streams * width);
  const float factor = 2.0f * sigmoid(gate[i / width] / static_cast<float>(streams));
  x[i] = fmaf(factor, h[row * width + i % width], x[i]);
}

// A block of one warp for each stream of each row. The product is summed in double: the gate is steep where it is small.
__global__ void __launch_bounds__(kWarp) gate_streams_kernel(const float* key, const float* query, const float* value,
                                                             int64_t streams, int64_t width, float* out) {
  begin_kernel();
  const int64_t at = int64_t{blockIdx.x} * width;
  const float* const from = value + int64_t{blockIdx.x} / streams * width;
  double product = 0;
  for (int64_t i = threadIdx.x; i < width; i += kWarp) product = fma(double{key[at + i]}, double{query[at + i]}, product);
  for (int apart = kWarp / 2; apart > 0; apart /= 2) product += __shfl_xor_sync(~0u, product, apart);
  product /= sqrt(static_cast<double>(width));
  const double root = sqrt(fmax(1e-6, fabs(product)));
  const double gate = product > 0 ? root : product < 0 ? -root : product;  // of 0 it is 0, of NaN NaN
  const auto factor = static_cast<float>(1.0 / (1.0 + exp(-gate)));
  for (int64_t i = threadIdx.x; i < width; i += kWarp) out[at + i] = factor * from[i];
}

}  // namespace

void to_operand(Stream& stream, const float* x, int64_t n, uint16_t* out) {
  launch(stream, to_operand_kernel, blocks(n), kThreads, 0, x, n, out);
}

void silu_mul(Stream& stream, const float* gate, const float* up, int64_t n, void* out, Element out_element) {
  launch(stream, silu_mul_kernel, blocks(n), kThreads, 0, gate, up, n, out, out_element);
}

void sigmoid_mul(Stream& stream, const float* gate, const float* x, int64_t n, void* out, Element out_element) {
  launch(stream, sigmoid_mul_kernel, blocks(n), kThreads, 0, gate, x, n, out, out_element);
}

void silu(Stream& stream, const float* x, float factor, int64_t n, float* out) {
  launch(stream, silu_kernel, blocks(n), kThreads, 0, x, factor, n, out);
}

void add(Stream& stream, const float* x, const float* gate, int64_t rows, int64_t width, float* out) {
  launch(stream, add_kernel, blocks(rows * width), kThreads, 0, x, gate, rows * width, width, out);
}

void split(Stream& stream, const SplitArgs& args) {
  launch(stream, split_kernel, blocks(args.rows * args.groups * args.width), kThreads, 0, args);
}

void gather(Stream& stream, const float* x, const int32_t* indices, int64_t count, int64_t width, float* out) {
  launch(stream, gather_kernel, blocks(count * width), kThreads, 0, x, indices, count * width, width, out);
}

void scatter_add(Stream& stream, const float* x, const int32_t* indices, int64_t count, int64_t width, float scale,
                 float* out) {
  launch(stream, scatter_add_kernel, blocks(count * width), kThreads, 0, x, indices, count * width, width, scale, out);
}

void rope_angles(Stream& stream, const RopeAnglesArgs& args) {
  launch(stream, rope_angles_kernel, blocks(args.rows * args.half), kThreads, 0, args);
}

void rope(Stream& stream, float* x, int64_t rows, int64_t heads, int64_t head_dim, const float* angles, int64_t half) {
  const int64_t n = rows * heads * half;
  launch(stream, rope_kernel, blocks(n), kThreads, 0, x, n, heads, head_dim, angles, half);
}

void mean_of_streams(Stream& stream, const float* x, int64_t rows, int64_t streams, int64_t width, float* out) {
  launch(stream, mean_of_streams_kernel, blocks(rows * width), kThreads, 0, x, rows * width, streams, width, out);
}

void add_to_streams(Stream& stream, const float* h, const float* gate, int64_t rows, int64_t streams, int64_t width,
                    float* x) {
  const int64_t n = rows * streams * width;
  launch(stream, add_to_streams_kernel, blocks(n), kThreads, 0, h, gate, n, streams, width, x);
}

void gate_streams(Stream& stream, const float* key, const float* query, const float* value, int64_t rows,
                  int64_t streams, int64_t width, float* out) {
  launch(stream, gate_streams_kernel, rows * streams, kWarp, 0, key, query, value, streams, width, out);
}

}  // namespace qwen::cuda
