// The NVIDIA driver, libcuda.so.1: opened when a GPU is first asked for, never linked, so that the library loads everywhere; and the
// only part of CUDA that runs here. The CUDA runtime would bring a page of thread-local memory, which glibc finds no static room for
// (base/thread.cpp), megabytes of code, and errors of its own that a process's engines share.
#pragma once

#include <cuda.h>

#include <string>

namespace qwen::cuda {

// cuda.h names the version of a function by a macro: cuMemAlloc is cuMemAlloc_v2, here too.
#define QWEN_DRIVER_FUNCTIONS(X) \
  X(cuCtxGetCurrent)             \
  X(cuCtxSetCurrent)             \
  X(cuDeviceGet)                 \
  X(cuDeviceGetAttribute)        \
  X(cuDeviceGetCount)            \
  X(cuDeviceGetName)             \
  X(cuDevicePrimaryCtxRelease)   \
  X(cuDevicePrimaryCtxRetain)    \
  X(cuDeviceTotalMem)            \
  X(cuEventCreate)               \
  X(cuEventDestroy)              \
  X(cuEventRecord)               \
  X(cuEventSynchronize)          \
  X(cuGetErrorName)              \
  X(cuGetErrorString)            \
  X(cuGraphDestroy)              \
  X(cuGraphExecDestroy)          \
  X(cuGraphInstantiate)          \
  X(cuGraphLaunch)               \
  X(cuInit)                      \
  X(cuKernelSetAttribute)        \
  X(cuLaunchKernel)              \
  X(cuLibraryGetKernel)          \
  X(cuLibraryLoadData)           \
  X(cuMemAlloc)                  \
  X(cuMemFree)                   \
  X(cuMemFreeHost)               \
  X(cuMemGetInfo)                \
  X(cuMemHostAlloc)              \
  X(cuMemcpyDtoDAsync)           \
  X(cuMemcpyDtoHAsync)           \
  X(cuMemcpyHtoDAsync)           \
  X(cuMemsetD8Async)             \
  X(cuStreamBeginCapture)        \
  X(cuStreamCreate)              \
  X(cuStreamDestroy)             \
  X(cuStreamEndCapture)          \
  X(cuStreamQuery)               \
  X(cuStreamSynchronize)         \
  X(cuStreamWaitEvent)

struct Driver {
#define QWEN_DRIVER_MEMBER(name) decltype(&::name) name;
  QWEN_DRIVER_FUNCTIONS(QWEN_DRIVER_MEMBER)
#undef QWEN_DRIVER_MEMBER
  // nullptr: a driver without it, or one that cannot capture what it does (before CUDA 12.3).
  decltype(&::cuLaunchKernelEx) cuLaunchKernelEx;
};

// Only where find_gpus() has found one.
const Driver& driver();

// Throws Error where the driver reports one: "CUDA: {what}: {its words}". out_of_memory or internal.
[[noreturn]] void failed(CUresult error, const std::string& what);
void check(CUresult error, const char* what);

}  // namespace qwen::cuda
