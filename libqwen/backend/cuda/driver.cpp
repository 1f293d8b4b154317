#include "backend/cuda/driver.h"

#include <dlfcn.h>

#include "backend/cuda/device.h"
#include "base/error.h"

namespace qwen::cuda {
namespace {

constexpr int major_of(int version) {
  return version / 1000;
}
constexpr int minor_of(int version) {
  return version % 1000 / 10;
}

// Kernels of CUDA N.x run on every driver that knows CUDA N.0: there is nothing in them to be compiled there.
constexpr int kOldest = major_of(CUDA_VERSION) * 1000;

// Nothing to destroy: what may run while the process ends finds it as it was.
struct Opened {
  bool found = false;
  int version = 0;                // the newest CUDA that the driver knows; 0 where it does not say
  const char* missing = nullptr;  // a function
  Driver driver{};
};

Opened open() {
  Opened opened;
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return opened;
  opened.found = true;
  const auto find = [&](const char* name, auto& function) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
    if (function == nullptr && opened.missing == nullptr) opened.missing = name;
  };
  decltype(&::cuDriverGetVersion) get_version = nullptr;
  find("cuDriverGetVersion", get_version);
  if (get_version == nullptr || get_version(&opened.version) != CUDA_SUCCESS) opened.version = 0;
#define QWEN_NAME(name) #name
#define QWEN_FIND(name) find(QWEN_NAME(name), opened.driver.name);
  QWEN_DRIVER_FUNCTIONS(QWEN_FIND)
#undef QWEN_FIND
#undef QWEN_NAME
  constexpr int kCapturesDependence = 12030;
  if (opened.version >= kCapturesDependence)
    opened.driver.cuLaunchKernelEx =
        reinterpret_cast<decltype(&::cuLaunchKernelEx)>(dlsym(library, "cuLaunchKernelEx"));
  return opened;
}

const Opened& opened() {
  static const Opened once = open();
  return once;
}

// After these nothing works any more in the GPU's context, which a process has one of; the manual of CUresult says of each that the
// process must be started anew.
bool is_the_end(CUresult error) {
  switch (error) {
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
      return true;
    default:
      return false;
  }
}

std::string words(CUresult error) {
  const char* name = nullptr;
  const char* text = nullptr;
  if (driver().cuGetErrorName(error, &name) != CUDA_SUCCESS || name == nullptr) name = "unknown";
  if (driver().cuGetErrorString(error, &text) != CUDA_SUCCESS || text == nullptr) text = "error";
  return cat(text, " (", name, ", ", static_cast<int>(error), ")");
}

}  // namespace

Gpus find_gpus() {
  const Opened& o = opened();
  if (!o.found) return {0, "there is no NVIDIA driver (libcuda.so.1)", LogLevel::debug};
  if (o.version != 0 && o.version < kOldest)
    return {0,
            cat("the NVIDIA driver knows CUDA ", major_of(o.version), ".", minor_of(o.version),
                "; this build needs ", major_of(kOldest), ".", minor_of(kOldest), " or newer"),
            LogLevel::warning};
  if (o.missing != nullptr)
    return {0, cat("the NVIDIA driver (libcuda.so.1) has no function ", o.missing), LogLevel::warning};
  Gpus gpus;
  CUresult error = o.driver.cuInit(0);
  if (error == CUDA_SUCCESS) error = o.driver.cuDeviceGetCount(&gpus.count);
  if (error == CUDA_SUCCESS && gpus.count > 0) return gpus;
  gpus.count = 0;
  gpus.why_none = "the NVIDIA driver reports no GPU";
  if (error != CUDA_SUCCESS && error != CUDA_ERROR_NO_DEVICE) {
    gpus.why_none += ": " + words(error);
  } else {
    gpus.level = LogLevel::info;
  }
  return gpus;
}

const Driver& driver() {
  return opened().driver;
}

void failed(CUresult error, const std::string& what) {
  const Status status = error == CUDA_ERROR_OUT_OF_MEMORY ? Status::out_of_memory : Status::internal;
  fail(status, "CUDA: ", what, ": ", words(error),
       is_the_end(error) ? "; this process can use the GPU no more: start it anew" : "");
}

void check(CUresult error, const char* what) {
  if (error != CUDA_SUCCESS) failed(error, what);
}

}  // namespace qwen::cuda
