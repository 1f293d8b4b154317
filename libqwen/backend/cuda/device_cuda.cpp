// device.h with the CUDA runtime.
#include <cuda.h>
#include <cuda_runtime.h>

#include <array>
#include <optional>

#include "backend/cuda/device.h"
#include "base/error.h"

namespace qwen::cuda {
namespace {

// Compute capabilities that this build has kernels of, as in sm_90: 90.
constexpr int kArchitectures[] = {QWEN_CUDA_ARCHITECTURES};

constexpr int major_of(int version) {
  return version / 1000;
}
constexpr int minor_of(int version) {
  return version % 1000 / 10;
}

[[noreturn]] void failed(cudaError_t error, const char* what) {
  cudaGetLastError();  // seen
  const Status status = error == cudaErrorMemoryAllocation ? Status::out_of_memory : Status::internal;
  fail(status, "CUDA: ", what, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) failed(error, what);
}

// How many GPUs there are, or why there is none.
struct Found {
  int count = 0;
  std::string why_none;
};

Found find_devices() {
  Found found;
  int driver = 0;
  cudaDriverGetVersion(&driver);
  const cudaError_t error = cudaGetDeviceCount(&found.count);
  if (error == cudaSuccess && found.count > 0) return found;
  cudaGetLastError();
  found.count = 0;
  if (driver == 0) {
    found.why_none = "there is no NVIDIA driver (libcuda.so.1)";
  } else if (error == cudaErrorInsufficientDriver) {
    found.why_none =
        cat("the NVIDIA driver knows CUDA ", major_of(driver), ".", minor_of(driver), "; this build needs ",
            major_of(CUDART_VERSION), ".", minor_of(CUDART_VERSION), " or newer");
  } else {
    found.why_none = "the NVIDIA driver reports no GPU";
    if (error != cudaSuccess && error != cudaErrorNoDevice)
      found.why_none += cat(": ", cudaGetErrorString(error));
  }
  return found;
}

// The thread's current device while something is done with one of ours; the host's threads get back what they had: a context of
// the driver's, which a host may share with other libraries.
thread_local int entered = -1;  // by this thread, for good: see Stream::handle()

class Scope {
 public:
  explicit Scope(int ordinal) {
    if (entered == ordinal) return;
    if (functions().get != nullptr && functions().get(&before_) == CUDA_SUCCESS) restore_ = true;
    check(cudaSetDevice(ordinal), "cudaSetDevice");
  }
  ~Scope() {
    if (restore_) functions().set(before_);
  }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  struct Functions {
    CUresult (*get)(CUcontext*) = nullptr;
    CUresult (*set)(CUcontext) = nullptr;
  };
  // The driver is not linked: the runtime has opened it.
  static const Functions& functions() {
    static const Functions found = [] {
      Functions f;
      constexpr unsigned kVersion = 4000;  // of CUDA, that brought them
      const auto find = [](const char* name, auto& function) {
        void* address = nullptr;
        cudaDriverEntryPointQueryResult status;
        if (cudaGetDriverEntryPointByVersion(name, &address, kVersion, cudaEnableDefault, &status) ==
                cudaSuccess &&
            status == cudaDriverEntryPointSuccess)
          function = reinterpret_cast<std::decay_t<decltype(function)>>(address);
      };
      find("cuCtxSetCurrent", f.set);
      if (f.set != nullptr) find("cuCtxGetCurrent", f.get);
      return f;
    }();
    return found;
  }

  CUcontext before_ = nullptr;
  bool restore_ = false;
};

bool has_kernels_for(int major, int minor) {
  for (const int architecture : kArchitectures)
    if (architecture / 10 == major && architecture % 10 <= minor) return true;
  return false;
}

std::string architectures() {
  std::string text;
  for (const int architecture : kArchitectures)
    text += cat(text.empty() ? "" : ", ", architecture / 10, ".", architecture % 10);
  return text;
}

}  // namespace

struct Event::State {
  int ordinal = 0;
  cudaEvent_t event = nullptr;
};

struct Stream::State {
  int ordinal = 0;
  cudaStream_t stream = nullptr;
  std::optional<Error> error;  // sticky

  // Of a call about this stream's work.
  void check(cudaError_t status, const char* what) {
    if (error) throw *error;
    if (status == cudaSuccess || status == cudaErrorNotReady) return;
    try {
      failed(status, what);
    } catch (const Error& failure) {
      error = failure;
      throw;
    }
  }
};

Memory::~Memory() {
  if (data_ == nullptr) return;
  try {
    const Scope scope(ordinal_);
    place_ == Place::device ? cudaFree(data_) : cudaFreeHost(data_);
  } catch (const Error&) {  // of a device that is lost
  }
  cudaGetLastError();
}

Event::Event(std::unique_ptr<State> state) : state_(std::move(state)) {}
Event::~Event() {
  cudaEventDestroy(state_->event);
}
void Event::synchronize() {
  check(cudaEventSynchronize(state_->event), "cudaEventSynchronize");
}

Stream::Stream(std::unique_ptr<State> state) : state_(std::move(state)) {}
Stream::~Stream() {
  cudaStreamSynchronize(state_->stream);  // what it reads and writes may be freed next
  cudaStreamDestroy(state_->stream);
  cudaGetLastError();
}

void Stream::to_device(void* to, const void* from, size_t bytes) {
  const Scope scope(state_->ordinal);
  state_->check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, state_->stream), "copy to the GPU");
}
void Stream::to_host(void* to, const void* from, size_t bytes) {
  const Scope scope(state_->ordinal);
  state_->check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, state_->stream),
                "copy from the GPU");
}
void Stream::on_device(void* to, const void* from, size_t bytes) {
  const Scope scope(state_->ordinal);
  state_->check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, state_->stream),
                "copy on the GPU");
}
void Stream::fill_zero(void* to, size_t bytes) {
  const Scope scope(state_->ordinal);
  state_->check(cudaMemsetAsync(to, 0, bytes, state_->stream), "cudaMemsetAsync");
}
void Stream::record(Event& event) {
  const Scope scope(state_->ordinal);
  state_->check(cudaEventRecord(event.state().event, state_->stream), "cudaEventRecord");
}
void Stream::wait(Event& event) {
  const Scope scope(state_->ordinal);
  state_->check(cudaStreamWaitEvent(state_->stream, event.state().event), "cudaStreamWaitEvent");
}
void Stream::check() {
  const Scope scope(state_->ordinal);
  state_->check(cudaStreamQuery(state_->stream), "the work on the GPU");
}
void Stream::synchronize() {
  const Scope scope(state_->ordinal);
  state_->check(cudaStreamSynchronize(state_->stream), "the work on the GPU");
}
// Kernels are launched by the engine's own step thread, which has no other device and no host to give one back to.
void* Stream::handle() const {
  if (entered != state_->ordinal) {
    qwen::cuda::check(cudaSetDevice(state_->ordinal), "cudaSetDevice");
    entered = state_->ordinal;
  }
  return state_->stream;
}

int Device::count() {
  return find_devices().count;
}

Device::Device(int ordinal) {
  const Found found = find_devices();
  if (found.count == 0) fail(Status::unsupported, "option 'device' asks for a GPU, but ", found.why_none);
  if (ordinal >= found.count) no_such_gpu(ordinal, found.count);
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties");
  info_ = {ordinal,
           properties.name,
           properties.major,
           properties.minor,
           properties.multiProcessorCount,
           properties.totalGlobalMem};
  if (!has_kernels_for(info_.major, info_.minor))
    fail(Status::unsupported, "GPU ", ordinal, " (", info_.name, ") has compute capability ", info_.major,
         ".", info_.minor, "; this build has kernels for ", architectures());
}

size_t Device::free_bytes() const {
  const Scope scope(info_.ordinal);
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}

Memory Device::allocate(size_t bytes, std::string_view purpose) const {
  if (bytes == 0) return {};
  const Scope scope(info_.ordinal);
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    out_of_memory(*this, bytes, purpose);
  }
  check(error, "cudaMalloc");
  return {info_.ordinal, Memory::Place::device, data, bytes};
}

Memory Device::allocate_pinned(size_t bytes, std::string_view purpose) const {
  if (bytes == 0) return {};
  const Scope scope(info_.ordinal);
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, bytes, cudaHostAllocDefault);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    fail(Status::out_of_memory, "cannot pin ", bytes, " bytes of host memory for ", purpose);
  }
  check(error, "cudaHostAlloc");
  return {info_.ordinal, Memory::Place::host, data, bytes};
}

std::unique_ptr<Stream> Device::create_stream() const {
  const Scope scope(info_.ordinal);
  auto state = std::make_unique<Stream::State>();
  state->ordinal = info_.ordinal;
  check(cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return std::make_unique<Stream>(std::move(state));
}

std::unique_ptr<Event> Device::create_event() const {
  const Scope scope(info_.ordinal);
  auto state = std::make_unique<Event::State>();
  state->ordinal = info_.ordinal;
  check(cudaEventCreateWithFlags(&state->event, cudaEventDisableTiming), "cudaEventCreate");
  return std::make_unique<Event>(std::move(state));
}

void launched(int status, const std::source_location& where) {
  const auto error = static_cast<cudaError_t>(status);
  if (error == cudaSuccess) return;
  cudaGetLastError();
  fail(Status::internal, "CUDA: the launch at ", where.file_name(), ":", where.line(), ": ",
       cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
}

}  // namespace qwen::cuda
