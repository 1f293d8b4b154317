#include "host_device.h"

#include <cstring>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "base/error.h"
#include "guarded.h"
#include "host_executor.h"

namespace qwen {
namespace host_cuda {
namespace {

// All allocations of all devices: engines share weights, and have threads of their own.
struct Allocations {
  std::recursive_mutex mutex;
  std::map<const void*, std::unique_ptr<Guarded>> of;
  size_t device_bytes = 0;
};
Allocations& allocations() {
  static Allocations all;
  return all;
}

void check_guards(const std::source_location& where) {
  Allocations& all = allocations();
  const std::lock_guard lock(all.mutex);
  for (const auto& [data, memory] : all.of)
    if (!memory->intact())
      fail(Status::internal, "the launch at ", where.file_name(), ":", where.line(),
           " wrote outside of an allocation of ", memory->size(), " bytes");
}

}  // namespace

// Whether all of it is in one allocation.
static bool allocated(const void* data, size_t bytes) {
  Allocations& all = allocations();
  const std::lock_guard lock(all.mutex);
  auto next = all.of.upper_bound(data);
  if (next == all.of.begin()) return bytes == 0;
  const Guarded& memory = *std::prev(next)->second;
  return static_cast<const std::byte*>(data) + bytes <= memory.data() + memory.size();
}

Machine& machine() {
  static Machine one;
  return one;
}

size_t allocated_bytes() {
  Allocations& all = allocations();
  const std::lock_guard lock(all.mutex);
  return all.device_bytes;
}

}  // namespace host_cuda

namespace cuda {

using host_cuda::allocations;

using Work = std::vector<std::function<void()>>;

struct Graph::State {
  std::shared_ptr<const Work> work;
};

// Of this thread's stream that captures, if one does.
thread_local const Stream::State* capturing = nullptr;
thread_local Work* captured = nullptr;  // what it was given
thread_local bool spoilt = false;       // the capture is not to succeed any more

// What no thread may do that captures.
void outside_of_capture(const char* what) {
  if (capturing == nullptr) return;
  spoilt = true;
  fail(Status::internal, what, " while a stream captures");
}

struct Stream::State {
  std::recursive_mutex mutex;  // those who wait for an event are of any thread
  std::deque<std::function<void()>> work;
  uint64_t given = 0, done = 0;
  std::optional<Error> error;  // sticky

  void give(std::function<void()> what) {
    const std::lock_guard lock(mutex);
    check();
    if (capturing == this) return captured->push_back(std::move(what));
    work.push_back(std::move(what));
    ++given;
  }
  void check() const {
    if (error) throw *error;
  }
  void run_until(uint64_t end) {
    outside_of_capture("waiting");
    const std::lock_guard lock(mutex);
    check();
    try {
      while (done < end) {
        const std::function<void()> next = std::move(work.front());
        work.pop_front();
        ++done;
        next();
      }
    } catch (const Error& failure) {
      error = failure;
      work.clear();
      done = given;
      throw;
    }
  }
};

struct Event::State {
  Stream::State* stream = nullptr;
  uint64_t until = 0;
};

Memory::~Memory() {
  if (data_ == nullptr) return;
  if (capturing != nullptr) spoilt = true;
  auto& all = allocations();
  const std::lock_guard lock(all.mutex);
  if (place_ == Place::device) all.device_bytes -= size_;
  all.of.erase(data_);
}

Event::Event(std::unique_ptr<State> state) : state_(std::move(state)) {}
Event::~Event() = default;
void Event::synchronize() {
  outside_of_capture("waiting for an event");
  if (state_->stream != nullptr) state_->stream->run_until(state_->until);
}

Graph::Graph(std::unique_ptr<State> state) : state_(std::move(state)) {}
Graph::~Graph() = default;

Stream::Stream(std::unique_ptr<State> state) : state_(std::move(state)) {}
Stream::~Stream() {
  finish();
}

// Pageable memory of the host makes a copy wait.
void Stream::to_device(void* to, const void* from, size_t bytes) {
  if (!host_cuda::allocated(from, bytes)) outside_of_capture("copying from memory that is not pinned");
  on_device(to, from, bytes);
}
void Stream::to_host(void* to, const void* from, size_t bytes) {
  if (!host_cuda::allocated(to, bytes)) outside_of_capture("copying to memory that is not pinned");
  on_device(to, from, bytes);
}
void Stream::on_device(void* to, const void* from, size_t bytes) {
  state_->give([=] {
    if (bytes > 0) std::memcpy(to, from, bytes);
  });
}
void Stream::fill_zero(void* to, size_t bytes) {
  state_->give([=] {
    if (bytes > 0) std::memset(to, 0, bytes);
  });
}
void Stream::record(Event& event) {
  outside_of_capture(
      "recording an event");  // a driver lets others wait for it in the same capture, which nobody here does
  const std::lock_guard lock(state_->mutex);
  event.state() = {state_.get(), state_->given};
}
void Stream::wait(Event& event) {
  state_->give([of = event.state()] {
    if (of.stream != nullptr) of.stream->run_until(of.until);
  });
}
void Stream::check() {
  outside_of_capture("asking for errors");
  const std::lock_guard lock(state_->mutex);
  state_->check();
}
void Stream::synchronize() {
  const std::lock_guard lock(state_->mutex);
  state_->run_until(state_->given);
}

void Stream::synchronize(Event& event) {
  const std::lock_guard lock(state_->mutex);
  state_->run_until(event.state().until);
}

std::unique_ptr<Graph> Stream::capture(const std::function<void()>& work) {
  check();
  Work kept;
  const struct Capture {
    Capture(const State& stream, Work& kept) {
      capturing = &stream;
      captured = &kept;
      spoilt = false;
    }
    ~Capture() { capturing = nullptr; }
  } capture(*state_, kept);
  work();
  if (spoilt) fail(Status::internal, "what was captured is not whole");
  if (host_cuda::machine().captures-- <= 0) fail(Status::out_of_memory, "no memory for a graph");
  return std::make_unique<Graph>(
      std::make_unique<Graph::State>(Graph::State{std::make_shared<const Work>(std::move(kept))}));
}

void Stream::replay(Graph& graph) {
  if (host_cuda::machine().replays-- <= 0) fail(Status::out_of_memory, "no memory for a replay");
  state_->give([work = graph.state().work] {
    for (const std::function<void()>& each : *work) each();
  });
}

void Stream::lend(const std::function<void(void*)>& to) {
  outside_of_capture("another library's work");
  to(state_.get());
}

void Stream::finish() noexcept {
  try {
    synchronize();
  } catch (const Error&) {
  }
  ++freed_;
}

Gpus find_gpus() {
  return {host_cuda::machine().devices, "no GPU", LogLevel::info};
}

Device::Device(int ordinal) : info_{ordinal, "host executor", 9, 0, 2, host_cuda::machine().bytes} {
  if (const int count = find_gpus().count; ordinal >= count) no_such_gpu(ordinal, count);
}

size_t Device::free_bytes() const {
  outside_of_capture("asking for free memory");
  return info_.total_bytes - host_cuda::allocated_bytes();
}

Memory Device::allocate(size_t bytes, std::string_view purpose) const {
  if (bytes == 0) return {};
  outside_of_capture("allocating");
  auto& all = allocations();
  const std::lock_guard lock(all.mutex);
  if (bytes > free_bytes()) out_of_memory(*this, bytes, purpose);
  auto memory = std::make_unique<host_cuda::Guarded>(bytes);
  void* const data = memory->data();
  all.of.emplace(data, std::move(memory));
  all.device_bytes += bytes;
  return {info_.ordinal, Memory::Place::device, data, bytes};
}

Memory Device::allocate_pinned(size_t bytes, std::string_view) const {
  if (bytes == 0) return {};
  outside_of_capture("allocating");
  auto& all = allocations();
  const std::lock_guard lock(all.mutex);
  auto memory = std::make_unique<host_cuda::Guarded>(bytes);
  void* const data = memory->data();
  all.of.emplace(data, std::move(memory));
  return {info_.ordinal, Memory::Place::host, data, bytes};
}

std::unique_ptr<Stream> Device::create_stream(bool) const {
  return std::make_unique<Stream>(std::make_unique<Stream::State>());
}

std::unique_ptr<Event> Device::create_event() const {
  return std::make_unique<Event>(std::make_unique<Event::State>());
}

}  // namespace cuda

void host_cuda::give(void* stream, std::function<void()> work) {
  static_cast<cuda::Stream::State*>(stream)->give([work = std::move(work)] {
    work();
    check_guards(std::source_location::current());
  });
}

void host_cuda::enqueue(cuda::Stream& stream, Launch launch) {
  stream.state().give([launch = std::move(launch)] {
    run(launch);
    check_guards(launch.where);
  });
}

}  // namespace qwen
