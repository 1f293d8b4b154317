#include "base/thread_pool.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>

#include "base/error.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace qwen {
namespace {

constexpr uint64_t kClosed = 0xffffffff;

// How often to look before going to sleep, each look a pause of some 40 ns: longer than the serial gaps
// between the operations of a step, short enough that an idle engine takes no CPU.
constexpr int kSpins = 2000;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// quota / period of a cgroup v2 "cpu.max" line ("max 100000", "150000 100000"), 0: no limit.
double cgroup_v2_cpus(const std::string& path) {
  std::ifstream file(path);
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return 0;
  return std::strtod(quota.c_str(), nullptr) / period;
}

double cgroup_v1_cpus(const std::string& folder) {
  std::ifstream quota_file(folder + "/cpu.cfs_quota_us"), period_file(folder + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (!(quota_file >> quota) || !(period_file >> period) || quota <= 0 || period <= 0) return 0;
  return quota / period;
}

// The tightest CPU quota on the way from this process's cgroup to the root; 0: none.
double cgroup_cpus() {
  double tightest = 0;
  const auto consider = [&](double cpus) {
    if (cpus > 0 && (tightest == 0 || cpus < tightest)) tightest = cpus;
  };
  std::ifstream groups("/proc/self/cgroup");
  std::string line;  // "0::/user.slice/x" (v2) or "4:cpu,cpuacct:/docker/x" (v1)
  while (std::getline(groups, line)) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    std::string path = line.substr(second + 1);
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",cpu,") == std::string::npos) continue;
    if (path == "/") path.clear();
    while (true) {
      if (v2)
        consider(cgroup_v2_cpus("/sys/fs/cgroup" + path + "/cpu.max"));
      else
        consider(cgroup_v1_cpus("/sys/fs/cgroup/cpu" + path));
      if (path.empty()) break;
      const size_t slash = path.rfind('/');
      path.resize(slash == std::string::npos ? 0 : slash);
    }
  }
  return tightest;
}

}  // namespace

int default_thread_count() {
  int cores = 0;
  // A fixed cpu_set_t holds 1024 CPUs; larger machines need a larger mask.
  for (int cpus = 1024; cpus <= 1 << 16 && cores == 0; cpus *= 4) {
    cpu_set_t* mask = CPU_ALLOC(static_cast<size_t>(cpus));
    if (mask == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(cpus));
    if (sched_getaffinity(0, bytes, mask) == 0) cores = CPU_COUNT_S(bytes, mask);
    CPU_FREE(mask);
  }
  if (cores == 0) cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const double quota = cgroup_cpus();
  if (quota > 0) cores = std::min(cores, static_cast<int>(std::ceil(quota)));
  return std::max(cores, 1);
}

ThreadPool::ThreadPool(int threads) {
  // With more threads than cores a spinning thread keeps a working one off its core.
  spins_ = threads <= default_thread_count() ? kSpins : 0;
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
  wake_.fetch_add(1, std::memory_order_release);
  wake_.notify_all();

  drain(0);
  for (int spin = 0; spin < spins_ && unfinished_.load(std::memory_order_acquire) != 0; ++spin) pause();
  for (int left; (left = unfinished_.load(std::memory_order_acquire)) != 0;) unfinished_.wait(left);
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
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
  }
}

void ThreadPool::work(int worker) {
  int seen = 0;
  while (!stopping_.load(std::memory_order_acquire)) {
    drain(worker);
    for (int spin = 0; spin < spins_ && wake_.load(std::memory_order_acquire) == seen; ++spin) pause();
    wake_.wait(seen, std::memory_order_acquire);
    seen = wake_.load(std::memory_order_acquire);
  }
}

}  // namespace qwen
