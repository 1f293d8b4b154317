// Runs a kernel's grid on the CPU, to find in it what is wrong: one OS thread, a fiber for each CUDA thread that has to wait. Blocks
// come in a shuffled order, and so do the threads of a block whenever several could go on; both are a function of a seed.
//
// What it insists on, naming the launch, block and thread in an Error(internal):
// - a barrier is met by all threads of the block, at one place of the source; none of them has ended
// - a warp's collective is met by all lanes of its mask, at one place of the source, with the same mask
// - nothing is written outside of the memory that was asked for (without AddressSanitizer, which says it better: guards)
// - operands of 16 bytes are aligned to as many
// - every thread lets dependents begin and then waits for what came before (dialect.h, begin_kernel()), ahead of anything of this and
//   of its end. Plain reads and writes are not seen: tests/gpu/kernel_report.py looks for them in the machine code
// Memory that nobody wrote is full of NaN (bytes 0xff): shared memory of each block, and what Device::allocate() gives. A
// cp_async16() happens in the wait that covers it, no sooner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>

#include "backend/cuda/device.h"

namespace qwen::host_cuda {

struct Dim3 {
  constexpr Dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  unsigned x, y, z;
};

inline constinit thread_local Dim3 threadIdx, blockIdx, blockDim, gridDim;

struct Launch {
  Dim3 grid, block;
  size_t shared_bytes = 0;
  std::source_location where;
  std::function<void()> body;  // of one thread
};

void enqueue(cuda::Stream& stream, Launch launch);
void run(const Launch& launch);
// Of the orders to come, in this OS thread.
void set_seed(uint64_t seed);

// For kernels; collective() calls combine once with what all lanes of the mask brought.
void barrier(const std::source_location& place);
void collective(const char* name, uint32_t mask, void* payload,
                void (*combine)(void* const* payloads, uint32_t mask), const std::source_location& place);
int lane();
std::byte* shared_memory();
void check_aligned(const void* address, size_t bytes, const char* what);
void let_dependents_begin();
void await_predecessors();
void check_begun(const char* what);                 // that the thread has done both
void async_copy(void* shared, const void* global);  // null: zeros
void async_commit();
void async_wait(int pending);
// Ends the launch: a lane of this warp does what it may not. From combine only.
[[noreturn]] void complain(int lane, const char* what);

}  // namespace qwen::host_cuda
