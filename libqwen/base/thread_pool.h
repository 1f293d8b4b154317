// A small thread pool for data-parallel loops. OpenMP runtimes clash inside other people's processes, so this
// is ours.
//
// The caller is worker 0. Items are claimed one by one in ascending order, and a loop is complete when its
// items are: a worker that is still asleep or was preempted between items is not waited for, so threads >
// cores and busy neighbours cost their share of the machine and no more.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "base/thread.h"

namespace qwen {

// [first, last) of `count` items for part `index` of `parts`: contiguous, sizes differ by at most one.
struct ItemRange {
  int64_t first;
  int64_t last;
};
constexpr ItemRange partition(int64_t count, int64_t parts, int64_t index) {
  const int64_t size = count / parts, rest = count % parts;
  const int64_t first = index * size + (index < rest ? index : rest);
  return {first, first + size + (index < rest ? 1 : 0)};
}

class ThreadPool {
 public:
  // Starts threads - 1 threads. Throws Error(out_of_memory) when the system refuses one.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(item, worker) once for every item in [0, count), worker in [0, threads()). Returns when all
  // are done. The task must not throw. One caller at a time, and never from inside a task. Allocates nothing.
  template <class Task>
  void for_each(int64_t count, Task&& task) {
    auto call = [](void* context, int64_t item, int worker) {
      (*static_cast<std::remove_reference_t<Task>*>(context))(item, worker);
    };
    run(count, call, const_cast<void*>(static_cast<const void*>(&task)));
  }

 private:
  using Call = void (*)(void* context, int64_t item, int worker);

  void run(int64_t count, Call call, void* context);
  void work(int worker);
  void drain(int worker);
  void stop() noexcept;

  // The loop in progress. A ticket is (generation << 32 | next item). Its fields change only while the ticket
  // is closed (next item = kClosed), and a claim succeeds only if the ticket did not change since the fields
  // were read: a late worker can never run an item of a loop it did not read.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  std::atomic<int64_t> count_{0};
  std::atomic<Call> call_{nullptr};
  std::atomic<void*> context_{nullptr};
  alignas(64) std::atomic<int> unfinished_{0};  // items not done; the caller sleeps on it
  alignas(64) std::atomic<int> wake_{0};        // bumped per loop; idle workers sleep on it
  // Who sleeps, and needs a system call to wake: sequentially consistent, as are the changes of what they sleep on, so that
  // either the sleeper sees the change or the changer sees the sleeper. (The C++ library shares its counts of sleepers between
  // unrelated atomics.)
  std::atomic<int> sleeping_workers_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stopping_{false};
  int spins_ = 0;
  std::vector<Thread> workers_;
};

}  // namespace qwen
