// device.h with the NVIDIA driver.
#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "backend/cuda/device.h"
#include "backend/cuda/driver.h"
#include "backend/cuda/kernel_registry.h"
#include "base/error.h"
#include "base/log.h"

namespace qwen::cuda {
namespace {

// Compute capabilities that this build has kernels of, times 100: nvcc says so to every file.
constexpr int kArchitectures[] = {__CUDA_ARCH_LIST__};

// A GPU's primary context, which all libraries of the process share: there while one of these is, and for as long as others of the
// process hold it. Memory, streams and events hold it, so that the driver gives back what a context takes when the last engine ends.
class Context {
 public:
  explicit Context(int ordinal) {
    check(driver().cuDeviceGet(&device_, ordinal), "cuDeviceGet");
    check(driver().cuDevicePrimaryCtxRetain(&handle_, device_), "cuDevicePrimaryCtxRetain");
  }
  ~Context() {
    if (held_) driver().cuDevicePrimaryCtxRelease(device_);
  }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  CUcontext handle() const { return handle_; }
  CUdevice device() const { return device_; }
  // For a Memory, which has no room for a Context: it is held from keep() to give_back().
  void keep() { held_ = false; }
  static void give_back(int ordinal) {
    CUdevice device = 0;
    if (driver().cuDeviceGet(&device, ordinal) == CUDA_SUCCESS) driver().cuDevicePrimaryCtxRelease(device);
  }

 private:
  CUdevice device_ = 0;
  CUcontext handle_ = nullptr;
  bool held_ = true;
};

// The thread's current context while something is done in ours. It may be a thread of the host's, and get back what it had.
class Scope {
 public:
  explicit Scope(const Context& context) : Scope(context.handle()) {}
  explicit Scope(CUcontext context) {
    check(driver().cuCtxGetCurrent(&before_), "cuCtxGetCurrent");
    if (before_ == context) return;
    check(driver().cuCtxSetCurrent(context), "cuCtxSetCurrent");
    changed_ = true;
  }
  ~Scope() {
    if (changed_) driver().cuCtxSetCurrent(before_);
  }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  CUcontext before_ = nullptr;
  bool changed_ = false;
};

bool has_kernels_for(int major, int minor) {
  for (const int architecture : kArchitectures)
    if (architecture / 100 == major && architecture / 10 % 10 <= minor) return true;
  return false;
}

std::string architectures() {
  std::string text;
  for (const int architecture : kArchitectures)
    text += cat(text.empty() ? "" : ", ", architecture / 100, ".", architecture / 10 % 10);
  return text;
}

}  // namespace

struct Event::State {
  explicit State(int ordinal) : context(ordinal) {}
  ~State() {
    if (event == nullptr) return;
    try {
      const Scope scope(context);
      driver().cuEventDestroy(event);
    } catch (const Error&) {  // its context is lost, and the event with it
    }
  }
  Context context;
  CUevent event = nullptr;
};

struct Graph::State {
  explicit State(int ordinal) : context(ordinal) {}
  ~State() {
    try {
      const Scope scope(context);
      if (graph != nullptr) driver().cuGraphDestroy(graph);
      if (executable != nullptr) driver().cuGraphExecDestroy(executable);
    } catch (const Error&) {
    }
  }
  Context context;
  CUgraph graph = nullptr;  // while it is made
  CUgraphExec executable = nullptr;
};

struct Stream::State {
  explicit State(int ordinal) : ordinal(ordinal), context(ordinal) {}
  ~State() {
    if (stream == nullptr) return;
    try {
      const Scope scope(context);
      driver().cuStreamSynchronize(stream);  // what it reads and writes may be freed next
      driver().cuStreamDestroy(stream);
    } catch (const Error&) {
    }
  }
  int ordinal;
  int major = 0;  // compute capability
  Context context;
  CUstream stream = nullptr;
  std::optional<Error> error;  // sticky
  std::vector<CUkernel>
      may_share_widely;       // those that were told of more shared memory than every kernel may have
  bool dependent = false;     // launches are, of what allows it
  bool after_launch = false;  // what the stream was given last is a kernel of ours

  // Calls the driver about this stream's work. describe() is asked where that fails.
  template <class Describe, class... Parameters, class... Arguments>
  void call(const Describe& describe, CUresult (*function)(Parameters...), Arguments... arguments) {
    if (error) throw *error;
    after_launch = false;
    const Scope scope(context);
    const CUresult status = function(arguments...);
    if (status != CUDA_SUCCESS && status != CUDA_ERROR_NOT_READY) fail_with(status, describe());
  }
  // What leaves the stream as it was if it fails: unless the context is lost, of which whoever comes next hears again.
  void attempt(const std::function<void()>& what) {
    if (error) throw *error;
    try {
      what();
    } catch (...) {
      error.reset();
      throw;
    }
  }
  // Memory that ran out may be there the next time; nothing else is.
  [[noreturn]] void fail_with(CUresult status, const std::string& what) {
    try {
      failed(status, what);
    } catch (const Error& failure) {
      if (failure.status() != Status::out_of_memory) error = failure;
      throw;
    }
  }
};

namespace {

// A text for State::call.
auto saying(const char* what) {
  return [what] { return std::string(what); };
}

CUdeviceptr address(const void* data) {
  return reinterpret_cast<CUdeviceptr>(data);
}

}  // namespace

Memory::~Memory() {
  if (data_ == nullptr) return;
  try {
    const Context context(ordinal_);
    const Scope scope(context);
    place_ == Place::device ? driver().cuMemFree(address(data_)) : driver().cuMemFreeHost(data_);
  } catch (const Error&) {  // its context is lost, and the memory with it
  }
  Context::give_back(ordinal_);
}

Event::Event(std::unique_ptr<State> state) : state_(std::move(state)) {}
Event::~Event() = default;
void Event::synchronize() {
  const Scope scope(state_->context);
  qwen::cuda::check(driver().cuEventSynchronize(state_->event), "cuEventSynchronize");
}

Stream::Stream(std::unique_ptr<State> state) : state_(std::move(state)) {}
Stream::~Stream() = default;

void Stream::to_device(void* to, const void* from, size_t bytes) {
  if (bytes > 0)
    state_->call(saying("copy to the GPU"), driver().cuMemcpyHtoDAsync, address(to), from, bytes,
                 state_->stream);
}
void Stream::to_host(void* to, const void* from, size_t bytes) {
  if (bytes > 0)
    state_->call(saying("copy from the GPU"), driver().cuMemcpyDtoHAsync, to, address(from), bytes,
                 state_->stream);
}
void Stream::on_device(void* to, const void* from, size_t bytes) {
  if (bytes > 0)
    state_->call(saying("copy on the GPU"), driver().cuMemcpyDtoDAsync, address(to), address(from), bytes,
                 state_->stream);
}
void Stream::fill_zero(void* to, size_t bytes) {
  if (bytes > 0)
    state_->call(saying("cuMemsetD8Async"), driver().cuMemsetD8Async, address(to),
                 static_cast<unsigned char>(0), bytes, state_->stream);
}
void Stream::record(Event& event) {
  state_->call(saying("cuEventRecord"), driver().cuEventRecord, event.state().event, state_->stream);
}
void Stream::wait(Event& event) {
  state_->call(saying("cuStreamWaitEvent"), driver().cuStreamWaitEvent, state_->stream, event.state().event,
               0u);
}
void Stream::check() {
  state_->call(saying("the work on the GPU"), driver().cuStreamQuery, state_->stream);
}
void Stream::synchronize() {
  state_->call(saying("the work on the GPU"), driver().cuStreamSynchronize, state_->stream);
}
void Stream::synchronize(Event& event) {
  state_->call(saying("the work on the GPU"), driver().cuEventSynchronize, event.state().event);
}

Graph::Graph(std::unique_ptr<State> state) : state_(std::move(state)) {}
Graph::~Graph() = default;

// Of this thread alone: what others do meanwhile, with other streams, is no affair of the capture.
std::unique_ptr<Graph> Stream::capture(const std::function<void()>& work) {
  State& state = *state_;
  auto kept = std::make_unique<Graph::State>(state.ordinal);
  check();
  state.attempt([&] {
    state.call(saying("cuStreamBeginCapture"), driver().cuStreamBeginCapture, state.stream,
               CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    try {
      work();
    } catch (...) {
      const Scope scope(state.context);
      driver().cuStreamEndCapture(state.stream, &kept->graph);
      throw;
    }
    state.call(saying("cuStreamEndCapture"), driver().cuStreamEndCapture, state.stream, &kept->graph);
    state.call(saying("cuGraphInstantiate"), driver().cuGraphInstantiate, &kept->executable, kept->graph, 0);
    state.call(saying("cuGraphDestroy"), driver().cuGraphDestroy, std::exchange(kept->graph, nullptr));
  });
  return std::make_unique<Graph>(std::move(kept));
}

void Stream::replay(Graph& graph) {
  state_->attempt([&] {
    state_->call(saying("cuGraphLaunch"), driver().cuGraphLaunch, graph.state().executable, state_->stream);
  });
}

// After an error too: what it has left of the work may still run.
void Stream::finish() noexcept {
  try {
    const Scope scope(state_->context);
    driver().cuStreamSynchronize(state_->stream);
  } catch (const Error&) {
  }
  ++freed_;
}

void Stream::lend(const std::function<void(void*)>& to) {
  const Scope scope(state_->context);
  state_->after_launch = false;  // nobody knows of what is launched there whether it waits
  to(state_->stream);
}

// Of a kernel that was loaded for no context in particular, the driver takes the stream's: nothing to make current for each launch.
void Stream::launch(const Launch& launch) {
  State& state = *state_;
  if (state.error) throw *state.error;
  const CUkernel kernel = find_kernel(launch.kernel);
  CUresult status = CUDA_SUCCESS;
  constexpr size_t kWithoutAsking = 48 << 10;  // a kernel that wants more shared memory has to say so
  if (launch.shared_bytes > kWithoutAsking && !std::ranges::count(state.may_share_widely, kernel)) {
    // The most that the GPU has, whatever this launch needs: several streams say the same, in any order.
    int most = 0;
    status = driver().cuDeviceGetAttribute(&most, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                                           state.context.device());
    if (status == CUDA_SUCCESS)
      status = driver().cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most, kernel,
                                             state.context.device());
    if (status == CUDA_SUCCESS) state.may_share_widely.push_back(kernel);
  }
  const auto function = reinterpret_cast<CUfunction>(kernel);
  const auto x = static_cast<unsigned>(launch.grid[0]), y = static_cast<unsigned>(launch.grid[1]),
             z = static_cast<unsigned>(launch.grid[2]), shared = static_cast<unsigned>(launch.shared_bytes);
  // Dependent on a kernel of ours only: what waits for all that is before it stands between any other two. Kernels of a GPU from 9.0 on
  // are built for 9.0 or newer, and so know how to wait: machine code runs within its major version only.
  bool launched = false;
  if (status == CUDA_SUCCESS && state.dependent && state.after_launch) {
    const char* why_not = state.major < 9                        ? "it needs compute capability 9.0 or higher"
                          : driver().cuLaunchKernelEx == nullptr ? "the driver needs CUDA 12.3 or newer"
                                                                 : nullptr;
    if (why_not == nullptr) {
      CUlaunchAttribute attribute = {};
      attribute.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
      attribute.value.programmaticStreamSerializationAllowed = 1;
      const CUlaunchConfig config{
          x, y, z, launch.block[0], launch.block[1], launch.block[2], shared, state.stream, &attribute, 1};
      status = driver().cuLaunchKernelEx(&config, function, launch.arguments, nullptr);
      launched = status == CUDA_SUCCESS;
      if (launched) dependent_launches_.fetch_add(1, std::memory_order_relaxed);
      if (status == CUDA_ERROR_NOT_SUPPORTED || status == CUDA_ERROR_INVALID_VALUE) {
        why_not = "the driver refuses them";
        status = CUDA_SUCCESS;
      }
    }
    if (why_not != nullptr) {
      state.dependent = false;
      log(LogLevel::warning, "GPU ", state.ordinal,
          ": option 'cuda_dependent_launch' has no effect: ", why_not);
    }
  }
  if (status == CUDA_SUCCESS && !launched)
    status = driver().cuLaunchKernel(function, x, y, z, launch.block[0], launch.block[1], launch.block[2],
                                     shared, state.stream, launch.arguments, nullptr);
  if (status != CUDA_SUCCESS)
    state.fail_with(status, cat("the launch at ", launch.where.file_name(), ":", launch.where.line()));
  state.after_launch = true;
}

Device::Device(int ordinal) {
  const Gpus gpus = find_gpus();
  if (gpus.count == 0) fail(Status::unsupported, "option 'device' asks for a GPU, but ", gpus.why_none);
  if (ordinal >= gpus.count) no_such_gpu(ordinal, gpus.count);
  CUdevice device = 0;
  qwen::cuda::check(driver().cuDeviceGet(&device, ordinal), "cuDeviceGet");
  std::array<char, 256> name{};
  qwen::cuda::check(driver().cuDeviceGetName(name.data(), name.size(), device), "cuDeviceGetName");
  const auto attribute = [device](CUdevice_attribute which) {
    int value = 0;
    qwen::cuda::check(driver().cuDeviceGetAttribute(&value, which, device), "cuDeviceGetAttribute");
    return value;
  };
  info_ = {.ordinal = ordinal,
           .name = name.data(),
           .major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
           .minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
           .multiprocessors = attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)};
  qwen::cuda::check(driver().cuDeviceTotalMem(&info_.total_bytes, device), "cuDeviceTotalMem");
  if (!has_kernels_for(info_.major, info_.minor))
    fail(Status::unsupported, "GPU ", ordinal, " (", info_.name, ") has compute capability ", info_.major,
         ".", info_.minor, "; this build has kernels for ", architectures());
}

size_t Device::free_bytes() const {
  const Context context(info_.ordinal);
  const Scope scope(context);
  size_t free = 0, total = 0;
  check(driver().cuMemGetInfo(&free, &total), "cuMemGetInfo");
  return free;
}

Memory Device::allocate(size_t bytes, std::string_view purpose) const {
  if (bytes == 0) return {};
  Context context(info_.ordinal);
  const Scope scope(context);
  CUdeviceptr data = 0;
  const CUresult error = driver().cuMemAlloc(&data, bytes);
  if (error == CUDA_ERROR_OUT_OF_MEMORY) out_of_memory(*this, bytes, purpose);
  check(error, "cuMemAlloc");
  context.keep();
  return {info_.ordinal, Memory::Place::device, reinterpret_cast<void*>(data), bytes};
}

Memory Device::allocate_pinned(size_t bytes, std::string_view purpose) const {
  if (bytes == 0) return {};
  Context context(info_.ordinal);
  const Scope scope(context);
  void* data = nullptr;
  const CUresult error = driver().cuMemHostAlloc(&data, bytes, 0);
  if (error == CUDA_ERROR_OUT_OF_MEMORY)
    fail(Status::out_of_memory, "cannot pin ", bytes, " bytes of host memory for ", purpose);
  check(error, "cuMemHostAlloc");
  context.keep();
  return {info_.ordinal, Memory::Place::host, data, bytes};
}

std::unique_ptr<Stream> Device::create_stream(bool dependent) const {
  auto state = std::make_unique<Stream::State>(info_.ordinal);
  state->dependent = dependent;
  state->major = info_.major;
  const Scope scope(state->context);
  check(driver().cuStreamCreate(&state->stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  return std::make_unique<Stream>(std::move(state));
}

std::unique_ptr<Event> Device::create_event() const {
  auto state = std::make_unique<Event::State>(info_.ordinal);
  const Scope scope(state->context);
  check(driver().cuEventCreate(&state->event, CU_EVENT_DISABLE_TIMING), "cuEventCreate");
  return std::make_unique<Event>(std::move(state));
}

}  // namespace qwen::cuda
