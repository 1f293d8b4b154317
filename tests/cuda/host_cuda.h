// What nvcc would bring to libqwen/backend/cuda/dialect.h, for a host compiler: CUDA's names, and the dialect's own functions over
// the executor (host_executor.h).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>

#include "host_executor.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

using dim3 = qwen::host_cuda::Dim3;
using uint3 = qwen::host_cuda::Dim3;
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) {
  return {x, y};
}
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  return {x, y, z, w};
}
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}

using qwen::host_cuda::blockDim;
using qwen::host_cuda::blockIdx;
using qwen::host_cuda::gridDim;
using qwen::host_cuda::threadIdx;
using std::max;
using std::min;
using HostPlace = std::source_location;

inline float rsqrtf(float x) {
  return 1 / std::sqrt(x);
}
inline uint32_t __float_as_uint(float x) {
  return std::bit_cast<uint32_t>(x);
}
inline float __uint_as_float(uint32_t x) {
  return std::bit_cast<float>(x);
}
inline float __fmul_rn(float a, float b) {  // a product that no compiler fuses with a sum
  return a * b;
}
inline int __popc(uint32_t x) {
  return std::popcount(x);
}
inline int __ffs(int x) {
  return x == 0 ? 0 : std::countr_zero(static_cast<uint32_t>(x)) + 1;
}
inline int __clz(int x) {
  return std::countl_zero(static_cast<uint32_t>(x));
}
// One OS thread runs everything.
template <class T>
T atomicAdd(T* to, T value) requires std::is_same_v<T, int> || std::is_same_v<T, unsigned> ||
    std::is_same_v<T, unsigned long long> {
  qwen::host_cuda::check_begun("atomicAdd");
  return std::exchange(*to, *to + value);
}

inline void __syncthreads(HostPlace place = HostPlace::current()) {
  qwen::host_cuda::barrier(place);
}
inline void __syncwarp(uint32_t mask = ~0u, HostPlace place = HostPlace::current()) {
  qwen::host_cuda::collective(
      "__syncwarp", mask, nullptr, [](void* const*, uint32_t) {}, place);
}

namespace qwen::host_cuda {

// What each lane brings to a shuffle or a vote, and takes away.
template <class T>
struct Exchange {
  T value;
  int source;  // lane; one outside the mask or the warp: undefined in CUDA, an error here
  T result;
};

template <class T>
T shuffle(const char* name, uint32_t mask, T value, int source, HostPlace place) {
  Exchange<T> mine{value, source, value};
  collective(
      name, mask, &mine,
      [](void* const* lanes, uint32_t present) {
        for (int lane = 0; lane < 32; ++lane) {
          if ((present >> lane & 1) == 0) continue;
          auto& to = *static_cast<Exchange<T>*>(lanes[lane]);
          if ((present >> to.source & 1) == 0)
            complain(lane, "shuffles from a lane that its mask does not name");
          to.result = static_cast<const Exchange<T>*>(lanes[to.source])->value;
        }
      },
      place);
  return mine.result;
}

inline uint32_t vote(const char* name, uint32_t mask, bool value, HostPlace place) {
  Exchange<uint32_t> mine{value ? 1u : 0u, 0, 0};
  collective(
      name, mask, &mine,
      [](void* const* lanes, uint32_t present) {
        uint32_t ballot = 0;
        for (int lane = 0; lane < 32; ++lane)
          if (present >> lane & 1) ballot |= static_cast<Exchange<uint32_t>*>(lanes[lane])->value << lane;
        for (int lane = 0; lane < 32; ++lane)
          if (present >> lane & 1) static_cast<Exchange<uint32_t>*>(lanes[lane])->result = ballot;
      },
      place);
  return mine.result;
}

}  // namespace qwen::host_cuda

template <class T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32, HostPlace place = HostPlace::current()) {
  const int lane = qwen::host_cuda::lane(), first = lane & ~(width - 1);
  return qwen::host_cuda::shuffle("__shfl_sync", mask, value, first + (source & (width - 1)), place);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32, HostPlace place = HostPlace::current()) {
  const int lane = qwen::host_cuda::lane(), source = lane ^ bits;
  const bool reachable = source < (lane & ~(width - 1)) + width;
  return qwen::host_cuda::shuffle("__shfl_xor_sync", mask, value, reachable ? source : lane, place);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned apart, int width = 32,
                   HostPlace place = HostPlace::current()) {
  const int lane = qwen::host_cuda::lane(), source = lane + static_cast<int>(apart);
  const bool reachable = source < (lane & ~(width - 1)) + width;
  return qwen::host_cuda::shuffle("__shfl_down_sync", mask, value, reachable ? source : lane, place);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned apart, int width = 32,
                 HostPlace place = HostPlace::current()) {
  const int lane = qwen::host_cuda::lane(), source = lane - static_cast<int>(apart);
  const bool reachable = source >= (lane & ~(width - 1));
  return qwen::host_cuda::shuffle("__shfl_up_sync", mask, value, reachable ? source : lane, place);
}
inline uint32_t __ballot_sync(uint32_t mask, bool value, HostPlace place = HostPlace::current()) {
  return qwen::host_cuda::vote("__ballot_sync", mask, value, place);
}
inline int __any_sync(uint32_t mask, bool value, HostPlace place = HostPlace::current()) {
  return qwen::host_cuda::vote("__any_sync", mask, value, place) != 0;
}
inline int __all_sync(uint32_t mask, bool value, HostPlace place = HostPlace::current()) {
  return qwen::host_cuda::vote("__all_sync", mask, value, place) == mask;
}

namespace qwen::cuda {

inline float to_float(uint16_t bf16) {
  return std::bit_cast<float>(uint32_t{bf16} << 16);
}
inline uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;  // the NaN that the GPU's own conversion gives
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline uint32_t to_bf16x2(float low, float high) {
  return to_bf16(low) | uint32_t{to_bf16(high)} << 16;
}

template <class T>
T* shared_memory() {
  return reinterpret_cast<T*>(host_cuda::shared_memory());
}

inline void let_dependents_begin() {
  host_cuda::let_dependents_begin();
}
inline void await_predecessors() {
  host_cuda::await_predecessors();
}
inline void begin_kernel() {
  let_dependents_begin();
  await_predecessors();
}

inline uint4 load_once(const uint4* from) {
  host_cuda::check_begun("load_once");
  host_cuda::check_aligned(from, 16, "load_once");
  return *from;
}
inline uint4 load_weight(const uint4* from) {
  host_cuda::check_aligned(from, 16, "load_weight");
  return *from;
}

inline void cp_async16(void* shared, const void* global, bool valid = true) {
  host_cuda::async_copy(shared, valid ? global : nullptr);
}
inline void cp_async_commit() {
  host_cuda::async_commit();
}
template <int Pending>
void cp_async_wait() {
  host_cuda::async_wait(Pending);
}

void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row, HostPlace place = HostPlace::current());
void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row, HostPlace place = HostPlace::current());
void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
              HostPlace place = HostPlace::current());

}  // namespace qwen::cuda
