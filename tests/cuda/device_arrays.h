// Arrays on a device, for tests of kernels: random, odd in size, and full of NaN where nothing has been written.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "backend/cuda/device.h"
#include "backend/cuda/dialect.h"
#include "kernel_fixtures.h"

namespace qwen::test {

using Bits = std::vector<uint16_t>;  // of bfloat16

struct DeviceArrays {
  cuda::Device device{0};
  std::unique_ptr<cuda::Stream> stream = device.create_stream();

  template <class T>
  cuda::Memory room(size_t n) {
    cuda::Memory memory = device.allocate(n * sizeof(T), "a test");
#ifdef QWEN_TEST_ON_GPU  // the executor's is full of NaN as it comes
    if (memory.size() > 0) {
      const cuda::Memory nan = device.allocate_pinned(memory.size(), "a test");
      std::memset(nan.data(), 0xff, nan.size());
      stream->to_device(memory.data(), nan.data(), memory.size());
      stream->synchronize();
    }
#endif
    return memory;
  }
  // `offset` elements further on than the allocation: to suit no vector load.
  template <class T>
  cuda::Memory put(const std::vector<T>& values, size_t offset = 0) {
    cuda::Memory memory = room<T>(values.size() + offset);
    const cuda::Memory pinned = device.allocate_pinned(values.size() * sizeof(T), "a test");
    if (!values.empty()) std::memcpy(pinned.data(), values.data(), pinned.size());
    stream->to_device(memory.data() + offset * sizeof(T), pinned.data(), pinned.size());
    stream->synchronize();
    return memory;
  }
  template <class T>
  std::vector<T> get(const cuda::Memory& memory) {
    const cuda::Memory pinned = device.allocate_pinned(memory.size(), "a test");
    stream->to_host(pinned.data(), memory.data(), memory.size());
    stream->synchronize();
    std::vector<T> values(memory.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), pinned.data(), memory.size());
    return values;
  }
};

template <class T>
T* on(const cuda::Memory& memory, size_t offset = 0) {
  return reinterpret_cast<T*>(memory.data()) + offset;
}

inline Bits to_bf16(const Floats& values) {
  Bits bits;
  for (const float value : values) bits.push_back(cuda::to_bf16(value));
  return bits;
}
inline Floats widened(const Bits& bits) {
  Floats values;
  for (const uint16_t each : bits) values.push_back(cuda::to_float(each));
  return values;
}

}  // namespace qwen::test
