// The language of the .cu files. nvcc compiles them for the GPU; a host compiler compiles the very same files as C++20 for the
// executor in tests/cuda, which runs each kernel's grid on the CPU. So they use what stands here and nothing else of CUDA:
//   __global__ __device__ __host__ __forceinline__ __launch_bounds__, threadIdx blockIdx blockDim gridDim, dim3, uint2 uint4 float2
//   float4 and make_…, __syncthreads __syncwarp __shfl_sync __shfl_xor_sync __shfl_down_sync __shfl_up_sync __ballot_sync __any_sync
//   __all_sync, __popc __ffs __clz, __float_as_uint __uint_as_float, __fmul_rn, atomicAdd of int, unsigned and unsigned long long,
//   <cmath>'s names, rsqrtf.
// bfloat16 is uint16_t. Nothing is declared __shared__ or __constant__: shared_memory() is the launch's dynamic shared memory.
// Every thread of a block meets every __syncthreads(), every lane of a mask every collective: the executor insists, and so an early
// return stands only where a whole block takes it or no barrier follows. No atomics on floats.
// The first statement of every kernel is begin_kernel(): see there.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <source_location>
#include <tuple>

#include "backend/cuda/device.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include <host_cuda.h>  // tests/cuda
#endif

namespace qwen::cuda {

inline constexpr int kWarp = 32;

// The blocks of a launch, and where in the source that is: what an error of it names.
struct Grid {
  Grid(int64_t x, int64_t y = 1, int64_t z = 1, std::source_location place = std::source_location::current())
      : x(x), y(y), z(z), where(place) {}
  Grid(dim3 blocks, std::source_location place = std::source_location::current())
      : x(blocks.x), y(blocks.y), z(blocks.z), where(place) {}
  int64_t x, y, z;
  std::source_location where;
};

#ifdef __CUDACC__

__device__ __forceinline__ float to_float(uint16_t bf16) {
  return __uint_as_float(uint32_t{bf16} << 16);
}

// To the nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ uint16_t to_bf16(float value) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

__device__ __forceinline__ uint32_t to_bf16x2(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

// The block's dynamic shared memory, uninitialised, aligned to 128 bytes; as large as the launch said.
template <class T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(128) unsigned char qwen_dynamic_shared[];
  return reinterpret_cast<T*>(qwen_dynamic_shared);
}

// Dependent launches (PTX ISA, griddepcontrol; option cuda_dependent_launch). From compute capability 9.0 on a kernel may begin while
// the one before it on its stream still runs: as soon as all blocks of that one have let it, or have ended. So every kernel lets its
// dependents begin and then, with all its threads, waits until what came before is complete and can be seen. Only behind that it
// touches memory or returns: so a kernel that is complete says that all before it are, however many have begun meanwhile.
// Launched in the ordinary way, it finds nothing to wait for.
__device__ __forceinline__ void let_dependents_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void await_predecessors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// What stands between the two, where a kernel says them apart, knows its arguments, and of memory what load_weight() may read.
__device__ __forceinline__ void begin_kernel() {
  let_dependents_begin();
  await_predecessors();
}

// 16 bytes that this launch reads once and does not write: past L1, and L2 fetches the line's neighbour with them.
__device__ __forceinline__ uint4 load_once(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}
// The same of what no launch ever writes: weights. The only loads by the way of data that stays as it is (.nc): PTX has that for memory
// that nobody writes while the kernel is there, and a dependent one is there while others write what it will read.
__device__ __forceinline__ uint4 load_weight(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// 16 bytes from global to shared memory, both aligned to 16, behind the thread's back; zeros where not valid (nothing is read then).
// There for this thread once cp_async_wait() has covered its group, for others after a barrier behind that.
__device__ __forceinline__ void cp_async16(void* shared, const void* global, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
// The thread's copies since the last commit are a group (an empty one too).
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits for all of the thread's groups but the newest `Pending`.
template <int Pending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements: lane 8 m + i gives row i (16 aligned bytes) of matrix m; a lane gets of matrix m in
// r[m] the elements (lane / 4, 2 (lane % 4)) and, in the high half, the next one of that row.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}
// The same of the transposed matrices.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// d += a b of the warp's m16n8k16 tile, bfloat16 in, float32 out. With g = lane / 4, t = lane % 4, low halves first:
// a[0], a[1]: rows g, g + 8, columns 2 t and 2 t + 1; a[2], a[3]: the same rows, columns 8 further. b[0]: rows 2 t and 2 t + 1 of
// column g; b[1]: 8 rows further. d[0], d[1]: row g, columns 2 t and 2 t + 1; d[2], d[3]: row g + 8. The order of the sum over the 16
// is the hardware's own.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// kernel<<<grid, block, shared_bytes, stream>>>(arguments...), without the CUDA runtime; no blocks: nothing happens. Throws
// Error(internal) that names the place where the launch itself is refused; what goes wrong later comes out of Stream::check() and
// synchronize().
template <class... Parameters, class... Arguments>
void launch(Stream& stream, void (*kernel)(Parameters...), Grid grid, dim3 block, size_t shared_bytes,
            Arguments... arguments) {
  if (!launchable(grid.x, grid.y, grid.z, grid.where)) return;
  std::tuple<Parameters...> values(static_cast<Parameters>(arguments)...);
  std::apply(
      [&](auto&... value) {
        void* addresses[] = {std::addressof(value)..., nullptr};
        stream.launch({.kernel = reinterpret_cast<const void*>(kernel),
                       .grid = {grid.x, grid.y, grid.z},
                       .block = {block.x, block.y, block.z},
                       .shared_bytes = shared_bytes,
                       .arguments = addresses,
                       .where = grid.where});
      },
      values);
}

#else

template <class... Parameters, class... Arguments>
void launch(Stream& stream, void (*kernel)(Parameters...), Grid grid, dim3 block, size_t shared_bytes,
            Arguments... arguments) {
  if (!launchable(grid.x, grid.y, grid.z, grid.where)) return;
  const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                    static_cast<unsigned>(grid.z));
  host_cuda::enqueue(stream, {blocks, block, shared_bytes, grid.where,
                              [kernel, arguments...] { kernel(static_cast<Parameters>(arguments)...); }});
}

#endif

// The sum over a warp's 32 lanes, in one order whatever the data: the same bits in every lane.
__device__ __forceinline__ float warp_sum(float value) {
  for (int apart = kWarp / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(~0u, value, apart);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
  for (int apart = kWarp / 2; apart > 0; apart /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, apart));
  return value;
}

// The sum over all threads of a one-dimensional block of whole warps, the same bits in every thread. scratch: one float per warp in
// shared memory, free again after the next barrier.
__device__ __forceinline__ float block_sum(float value, float* scratch) {
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  value = warp_sum(value);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  return warp_sum(lane < warps ? scratch[lane] : 0.0f);
}

}  // namespace qwen::cuda
