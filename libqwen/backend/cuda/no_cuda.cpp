// Stands in for backend/cuda in a build without CUDA.
#include "backend/backend.h"
#include "base/error.h"

namespace qwen {

namespace {

[[noreturn]] void no_cuda() {
  fail(Status::unsupported,
       "option 'device' asks for a GPU, but this build of libqwen has no CUDA (meson's option cuda)");
}

}  // namespace

std::unique_ptr<Backend> create_cuda_backend(const CudaOptions&) {
  no_cuda();
}

MachineLimits measure_machine(const CudaOptions&) {
  no_cuda();
}

bool has_cuda_backend() {
  return false;
}

GpuOffer find_gpu() {
  return {-1, "this build of libqwen has no CUDA (meson's option cuda)", LogLevel::debug};
}

}  // namespace qwen
