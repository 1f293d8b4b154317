// One GPU and its memory, as the backend sees it: what is small enough of CUDA to have a twin on the host. device_cuda.cpp does it
// with the driver; tests/cuda/host_device.cpp with malloc, memcpy and queues that run as late as a GPU may, so that a missing
// synchronize() is seen. Nothing of CUDA is included here, and nothing of CUDA is touched before the first call.
//
// Failures are thrown as Error: unsupported (no driver, no such GPU, too old a one), out_of_memory (with the bytes asked for and
// those free), internal (the device reports what only a defect of ours or of the machine brings about: it is sticky, every later
// call on the same stream throws it again).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <source_location>
#include <string>
#include <string_view>
#include <utility>

#include "base/log.h"

namespace qwen::cuda {

struct DeviceInfo {
  int ordinal = 0;
  std::string name;          // "NVIDIA H200"
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  size_t total_bytes = 0;
};

// Uninitialised memory: of a device, aligned to 256 bytes, or of the host, pinned, so that copies need not wait for the CPU. It may
// outlive the Device that allocated it. Freed only when the work that uses it is done.
class Memory {
 public:
  enum class Place : uint8_t { device, host };
  Memory() = default;
  Memory(int ordinal, Place place, void* data, size_t size)
      : ordinal_(ordinal), place_(place), data_(data), size_(size) {}
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(ordinal_, other.ordinal_);
    std::swap(place_, other.place_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Memory();

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  size_t size() const { return size_; }

 private:
  int ordinal_ = 0;
  Place place_ = Place::device;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// A place in a stream's work.
class Event {
 public:
  struct State;
  explicit Event(std::unique_ptr<State> state);
  ~Event();
  State& state() const { return *state_; }
  void synchronize();  // returns when the work recorded last is done; at once where nothing was. Any thread

 private:
  std::unique_ptr<State> state_;
};

// Work that a stream was given once, to be done again. Destroyed when it is not under way, and before its stream.
class Graph {
 public:
  struct State;
  explicit Graph(std::unique_ptr<State> state);
  ~Graph();
  State& state() const { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

// Work in the order in which it was given, behind the caller's back. One thread at a time.
class Stream {
 public:
  struct State;
  explicit Stream(std::unique_ptr<State> state);
  ~Stream();
  State& state() const { return *state_; }

  // Host memory of a copy is pinned, and stays as it is until the copy has happened.
  void to_device(void* to, const void* from, size_t bytes);
  void to_host(void* to, const void* from, size_t bytes);
  void on_device(void* to, const void* from, size_t bytes);
  void fill_zero(void* to, size_t bytes);

  void record(Event& event);
  void wait(Event& event);  // what follows on this stream comes after what was recorded

  void check();                    // throws what has failed so far, without waiting
  void synchronize();              // returns when all work is done
  void synchronize(Event& event);  // when that is which was recorded on this stream
  void finish() noexcept;     // the same, for those who free what it uses; an error is for others to hear
  void free(Memory& memory);  // when all work is done
  int64_t freed() const {
    return freed_;
  }  // how often either has been: graphs of before may hold addresses of nothing

  // What `work` gives this stream is not done but kept: launches with the values of their arguments, copies with their addresses.
  // Meanwhile nothing of this thread may wait for the GPU, ask it anything, allocate or free. Throws what `work` throws, and Error
  // where the driver cannot: the stream is then as it was.
  std::unique_ptr<Graph> capture(const std::function<void()>& work);
  void replay(Graph& graph);  // Error likewise

  // How many launches the driver was given as dependent ones (Device::create_stream()).
  int64_t dependent_launches() const { return dependent_launches_.load(std::memory_order_relaxed); }

  struct Launch {
    const void* kernel;  // the address of the host function that nvcc makes of it
    int64_t grid[3];
    unsigned block[3];
    size_t shared_bytes;
    void** arguments;  // their addresses, copied before launch() returns
    const std::source_location& where;
  };
  void launch(const Launch&
                  launch);  // what launch() of dialect.h does on a GPU; the host's twin has a way of its own

  // Calls `to` with the driver's name of this stream, while its context is the thread's: for other libraries, which give it work of
  // theirs. Throws what `to` throws. Not while it captures.
  void lend(const std::function<void(void* stream)>& to);

 private:
  std::unique_ptr<State> state_;
  int64_t freed_ = 0;
  std::atomic<int64_t> dependent_launches_ = 0;  // other threads ask
};

// GPUs that a driver reports; 0: why there are none.
struct Gpus {
  int count = 0;
  std::string why_none;
  // How loud a host ought to hear of it that wanted whatever is there: where there may be a GPU and it cannot be used, as a warning.
  LogLevel level = LogLevel::warning;
};
Gpus find_gpus();

class Device {
 public:
  explicit Device(int ordinal);

  const DeviceInfo& info() const { return info_; }
  size_t free_bytes() const;
  // purpose completes "cannot allocate N bytes for …".
  Memory allocate(size_t bytes, std::string_view purpose) const;
  Memory allocate_pinned(size_t bytes, std::string_view purpose) const;
  // dependent: a kernel may begin before the one given just before it is complete, and waits for it itself (dialect.h, begin_kernel()).
  // Where this GPU or its driver has no such launches, the log says so at the first of them, and they are as usual.
  std::unique_ptr<Stream> create_stream(bool dependent = false) const;
  std::unique_ptr<Event> create_event() const;

 private:
  DeviceInfo info_;
};

// What both implementations say.
[[noreturn]] void no_such_gpu(int ordinal, int count);
[[noreturn]] void out_of_memory(const Device& device, size_t bytes, std::string_view purpose);

// Whether a grid has blocks to launch; Error(internal) where it has more than a GPU takes.
bool launchable(int64_t x, int64_t y, int64_t z, const std::source_location& where);

}  // namespace qwen::cuda
