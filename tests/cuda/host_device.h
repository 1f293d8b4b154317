// The host's twin of libqwen/backend/cuda/device_cuda.cpp: a device that is malloc and memcpy. Whatever a stream is given waits in a
// queue until somebody waits for it: host memory that changes too soon, or is read too soon, is seen. After every launch the guards
// around all allocations are looked at. While a stream captures, its thread may do nothing that a driver forbids then, and hears of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "backend/cuda/device.h"

namespace qwen::host_cuda {

// What the machine has, for tests. Not while a stream has work.
struct Machine {
  int devices = 1;
  size_t bytes = size_t{1} << 30;  // memory of each device
  int captures = 1 << 30;          // so many succeed
  int replays = 1 << 30;           // likewise, and then there is no memory for one
  // What mma.sync does: as PTX says; with the inputs of b in another order; or so that a column's sum has an order of its own.
  enum class Tiles : uint8_t { right, turned, uneven } tiles = Tiles::right;
};
Machine& machine();

size_t allocated_bytes();

// Work of another library for a stream that it was lent (Stream::lend()).
void give(void* stream, std::function<void()> work);

}  // namespace qwen::host_cuda
