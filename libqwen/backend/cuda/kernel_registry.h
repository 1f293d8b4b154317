// The kernels of this build, as nvcc leaves them in each .cu file's object: machine code, and for each kernel a host function whose
// address stands for it. The object's static initialisers register both; nothing is loaded before a kernel is first launched.
#pragma once

#include <cuda.h>

namespace qwen::cuda {

// What the driver launches for a kernel, by its host function's address, in any context; loaded at the first call, which the others
// do not wait for unless they need a kernel that was never loaded either. Throws Error(internal): not registered, or the driver
// refuses it; out_of_memory.
CUkernel find_kernel(const void* host_function);

}  // namespace qwen::cuda
