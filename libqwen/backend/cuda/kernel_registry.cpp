// The registration ABI that nvcc's objects call (12.8 to 13.0: crt/host_runtime.h of the toolkit), which the CUDA runtime answers
// elsewhere. Hidden: a host's own runtime and ours do not meet.
#include "backend/cuda/kernel_registry.h"

#include <atomic>
#include <cstdint>
#include <mutex>

#include "backend/cuda/driver.h"
#include "base/error.h"

namespace qwen::cuda {
namespace {

// One .cu file's machine code.
struct Binary {
  const void* image = nullptr;
  CUlibrary library = nullptr;  // under loading
};

struct Kernel {
  const void* host_function = nullptr;  // nullptr: a free slot
  const char* name = nullptr;           // mangled
  Binary* binary = nullptr;
  std::atomic<CUkernel> loaded = nullptr;
};

// Written by static initialisers, perhaps before this file's own would have run, perhaps where no memory is to be had: so these need
// neither. Open addressing; slots never run out while a test launches the kernels that came last.
constexpr size_t kBinaries = 64, kSlots = 2048, kKernels = kSlots * 3 / 4;
constinit Binary binaries[kBinaries];
constinit Kernel kernels[kSlots];
constinit size_t binary_count = 0, kernel_count = 0;
constinit bool overflowed = false;
constinit std::mutex loading;

// The kernel's slot, or the free one where it would be.
Kernel& slot(const void* host_function) {
  const uint64_t mixed = reinterpret_cast<uintptr_t>(host_function) * 0x9E3779B97F4A7C15u;
  size_t at = mixed >> 32;
  while (kernels[at % kSlots].host_function != nullptr && kernels[at % kSlots].host_function != host_function)
    ++at;
  return kernels[at % kSlots];
}

// fatbinary_section.h of the toolkit.
struct FatBinaryWrapper {
  int magic, version;
  const void* data;
  void* more;
};
constexpr int kFatBinaryMagic = 0x466243B1, kFatBinaryVersion = 1;

void** register_binary(const void* wrapper) {
  const auto& given = *static_cast<const FatBinaryWrapper*>(wrapper);
  if (given.magic != kFatBinaryMagic || given.version != kFatBinaryVersion || binary_count == kBinaries) {
    overflowed = true;
    return nullptr;
  }
  Binary& binary = binaries[binary_count++];
  binary.image = given.data;
  return reinterpret_cast<void**>(&binary);
}

void register_kernel(void** binary, const void* host_function, const char* name) {
  if (binary == nullptr || kernel_count == kKernels) {
    overflowed = true;
    return;
  }
  Kernel& kernel = slot(host_function);
  kernel.host_function = host_function;
  kernel.name = name;
  kernel.binary = reinterpret_cast<Binary*>(binary);
  ++kernel_count;
}

}  // namespace

CUkernel find_kernel(const void* host_function) {
  Kernel& kernel = slot(host_function);
  if (const CUkernel loaded = kernel.loaded.load(std::memory_order_acquire)) return loaded;
  if (kernel.host_function == nullptr)
    fail(Status::internal, "a kernel is not registered",
         overflowed ? ": nvcc's objects hold more of them, or in another form, than this build knows" : "");
  const std::lock_guard lock(loading);
  Binary& binary = *kernel.binary;
  if (binary.library == nullptr)
    check(driver().cuLibraryLoadData(&binary.library, binary.image, nullptr, nullptr, 0, nullptr, nullptr, 0),
          "cuLibraryLoadData");
  CUkernel loaded = nullptr;
  if (const CUresult error = driver().cuLibraryGetKernel(&loaded, binary.library, kernel.name))
    failed(error, cat("cuLibraryGetKernel of ", kernel.name));
  kernel.loaded.store(loaded, std::memory_order_release);
  return loaded;
}

}  // namespace qwen::cuda

extern "C" {

// Called by static initialisers.
void** __cudaRegisterFatBinary(void* wrapper) {
  return qwen::cuda::register_binary(wrapper);
}
void __cudaRegisterFunction(void** binary, const char* host_function, char*, const char* name, int, void*,
                            void*, void*, void*, int*) {
  qwen::cuda::register_kernel(binary, host_function, name);
}
void __cudaRegisterFatBinaryEnd(void**) {}
// Called at exit, when the driver may be gone already: it frees what it holds itself.
void __cudaUnregisterFatBinary(void**) {}

// Called by the host functions, which nobody calls: launch() of dialect.h goes another way. cudaErrorNotSupported.
constexpr int kNotSupported = 801;
int __cudaPopCallConfiguration(void*, void*, size_t*, void*) {
  return kNotSupported;
}
int __cudaGetKernel(void*, const void*) {
  return kNotSupported;
}
struct QwenDim3 {
  unsigned x, y, z;
};
int __cudaLaunchKernel(void*, QwenDim3, QwenDim3, void**, size_t, void*) {
  return kNotSupported;
}

}  // extern "C"
