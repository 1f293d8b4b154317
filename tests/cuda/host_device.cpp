#include "host_device.h"

#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>

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

struct Stream::State {
  std::recursive_mutex mutex;  // those who wait for an event are of any thread
  std::deque<std::function<void()>> work;
  uint64_t given = 0, done = 0;
  std::optional<Error> error;  // sticky

  void give(std::function<void()> what) {
    const std::lock_guard lock(mutex);
    check();
    work.push_back(std::move(what));
    ++given;
  }
  void check() const {
    if (error) throw *error;
  }
  void run_until(uint64_t end) {
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
  auto& all = allocations();
  const std::lock_guard lock(all.mutex);
  if (place_ == Place::device) all.device_bytes -= size_;
  all.of.erase(data_);
}

Event::Event(std::unique_ptr<State> state) : state_(std::move(state)) {}
Event::~Event() = default;
void Event::synchronize() {
  if (state_->stream != nullptr) state_->stream->run_until(state_->until);
}

Stream::Stream(std::unique_ptr<State> state) : state_(std::move(state)) {}
Stream::~Stream() {
  finish();
}

void Stream::to_device(void* to, const void* from, size_t bytes) {
  on_device(to, from, bytes);
}
void Stream::to_host(void* to, const void* from, size_t bytes) {
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
  const std::lock_guard lock(state_->mutex);
  event.state() = {state_.get(), state_->given};
}
void Stream::wait(Event& event) {
  state_->give([of = event.state()] {
    if (of.stream != nullptr) of.stream->run_until(of.until);
  });
}
void Stream::check() {
  const std::lock_guard lock(state_->mutex);
  state_->check();
}
void Stream::synchronize() {
  const std::lock_guard lock(state_->mutex);
  state_->run_until(state_->given);
}

void Stream::finish() noexcept {
  try {
    synchronize();
  } catch (const Error&) {
  }
}

Gpus find_gpus() {
  return {host_cuda::machine().devices, "no GPU", LogLevel::info};
}

Device::Device(int ordinal) : info_{ordinal, "host executor", 9, 0, 2, host_cuda::machine().bytes} {
  if (const int count = find_gpus().count; ordinal >= count) no_such_gpu(ordinal, count);
}

size_t Device::free_bytes() const {
  return info_.total_bytes - host_cuda::allocated_bytes();
}

Memory Device::allocate(size_t bytes, std::string_view purpose) const {
  if (bytes == 0) return {};
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
  auto& all = allocations();
  const std::lock_guard lock(all.mutex);
  auto memory = std::make_unique<host_cuda::Guarded>(bytes);
  void* const data = memory->data();
  all.of.emplace(data, std::move(memory));
  return {info_.ordinal, Memory::Place::host, data, bytes};
}

std::unique_ptr<Stream> Device::create_stream() const {
  return std::make_unique<Stream>(std::make_unique<Stream::State>());
}

std::unique_ptr<Event> Device::create_event() const {
  return std::make_unique<Event>(std::make_unique<Event::State>());
}

}  // namespace cuda

void host_cuda::enqueue(cuda::Stream& stream, Launch launch) {
  stream.state().give([launch = std::move(launch)] {
    run(launch);
    check_guards(launch.where);
  });
}

}  // namespace qwen
