#include "base/thread_pool.h"

#include <algorithm>

#include "base/cores.h"
#include "base/error.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace qwen {
namespace {

constexpr uint64_t kClosed = 0xffffffff;

// How often to look before going to sleep, each look a pause of some 50 ns: a millisecond, longer than what one thread alone does
// in a step or between two of them, so that in an undisturbed one nobody sleeps (2,000 looks: 50 futex calls per token of a 0.6B
// model); short enough that an idle engine takes no CPU.
constexpr int kSpins = 20000;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  // With more threads than cores a spinning thread keeps a working one off its core.
  spins_ = threads <= usable_cores() ? kSpins : 0;
  ticket_.store(kClosed);
  try {
    workers_.reserve(static_cast<size_t>(std::max(threads - 1, 0)));
    for (int worker = 1; worker < threads; ++worker)
      workers_.emplace_back(cat("qwen-cpu-", worker).c_str(), [this, worker] { work(worker); });
  } catch (...) {
    stop();  // those that have started
    throw;
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() noexcept {
  stopping_.store(true);
  wake_.fetch_add(1);
  wake_.notify_all();
  workers_.clear();  // joins them
}

void ThreadPool::run(int64_t count, Call call, void* context) {
  if (count <= 1 || workers_.empty()) {
    for (int64_t item = 0; item < count; ++item) call(context, item, 0);
    return;
  }
  if (count >= static_cast<int64_t>(kClosed) / 2) fail(Status::internal, "thread pool: ", count, " items");

  // Closed since the last loop was drained, so nobody claims while the fields change.
  const uint64_t generation = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  unfinished_.store(static_cast<int>(count), std::memory_order_relaxed);
  count_.store(count, std::memory_order_relaxed);
  call_.store(call, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  ticket_.store(generation << 32, std::memory_order_release);
  wake_.fetch_add(1);
  if (sleeping_workers_.load() > 0) wake_.notify_all();

  drain(0);
  for (int spin = 0; spin < spins_ && unfinished_.load(std::memory_order_acquire) != 0; ++spin) pause();
  if (unfinished_.load(std::memory_order_acquire) == 0) return;
  caller_sleeps_.store(true);
  for (int left; (left = unfinished_.load()) != 0;) unfinished_.wait(left);
  caller_sleeps_.store(false, std::memory_order_relaxed);
}

void ThreadPool::drain(int worker) {
  while (true) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    const uint64_t item = ticket & kClosed;
    const int64_t count = count_.load(std::memory_order_relaxed);
    const Call call = call_.load(std::memory_order_relaxed);
    void* const context = context_.load(std::memory_order_relaxed);
    if (item == kClosed) return;
    // The last claim closes the ticket. If the fields read belong to a later loop, the ticket has changed and
    // the exchange fails.
    const bool last = static_cast<int64_t>(item) + 1 >= count;
    const uint64_t next = last ? ticket | kClosed : ticket + 1;
    if (!ticket_.compare_exchange_weak(ticket, next, std::memory_order_acq_rel)) continue;
    call(context, static_cast<int64_t>(item), worker);
    if (unfinished_.fetch_sub(1) == 1 && caller_sleeps_.load()) unfinished_.notify_one();
  }
}

void ThreadPool::work(int worker) {
  int seen = 0;
  while (!stopping_.load(std::memory_order_acquire)) {
    drain(worker);
    for (int spin = 0; spin < spins_ && wake_.load(std::memory_order_acquire) == seen; ++spin) pause();
    if (wake_.load(std::memory_order_acquire) == seen) {
      sleeping_workers_.fetch_add(1);
      wake_.wait(seen);
      sleeping_workers_.fetch_sub(1, std::memory_order_relaxed);
    }
    seen = wake_.load(std::memory_order_acquire);
  }
}

}  // namespace qwen
