#include "base/thread_pool.h"

#include <doctest/doctest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/float_environment.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

using namespace qwen;

TEST_CASE("partition covers every item once, in order, evenly") {
  for (const int64_t count : {0, 1, 5, 16, 17, 1000}) {
    for (const int64_t parts : {1, 2, 3, 16, 20}) {
      int64_t next = 0;
      for (int64_t i = 0; i < parts; ++i) {
        const ItemRange range = partition(count, parts, i);
        CHECK(range.first == next);
        CHECK(range.last - range.first >= count / parts);
        CHECK(range.last - range.first <= (count + parts - 1) / parts);
        next = range.last;
      }
      CHECK(next == count);
    }
  }
}

TEST_CASE("for_each runs every item exactly once, with more threads than cores too") {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    std::vector<std::atomic<int>> ran(97);
    for (int loop = 0; loop < 3000; ++loop) {
      const int64_t count = loop % 98;
      pool.for_each(count, [&](int64_t item, int worker) {
        if (worker < 0 || worker >= threads) std::terminate();
        ran[static_cast<size_t>(item)].fetch_add(1, std::memory_order_relaxed);
      });
      int wrong = 0;
      for (int64_t i = 0; i < 97; ++i)
        wrong += ran[static_cast<size_t>(i)].exchange(0) != (i < count ? 1 : 0);
      REQUIRE(wrong == 0);
    }
  }
}

TEST_CASE("what a loop wrote is visible after it, without further synchronisation") {
  ThreadPool pool(3);
  std::vector<int64_t> values(64);
  for (int64_t loop = 0; loop < 2000; ++loop) {
    pool.for_each(64, [&](int64_t item, int) { values[static_cast<size_t>(item)] += item; });
  }
  for (int64_t i = 0; i < 64; ++i) CHECK(values[static_cast<size_t>(i)] == 2000 * i);
}

TEST_CASE("workers compute with the default float environment and leave signals to the host") {
#if defined(__x86_64__)
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);  // the host flushes denormals; its new threads inherit that
  ThreadPool pool(4);
  std::atomic<int> wrong{0}, on_workers{0};
  for (int loop = 0; loop < 200 || on_workers == 0; ++loop) {
    pool.for_each(64, [&](int64_t, int worker) {
      if (worker == 0) return;
      ++on_workers;
      sigset_t blocked;
      pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
      volatile float denormal = std::numeric_limits<float>::denorm_min();
      wrong += (_mm_getcsr() & ~0x3fu) != 0x1f80 || denormal * 1.0f == 0 || !sigismember(&blocked, SIGINT);
    });
  }
  CHECK(wrong == 0);
  const unsigned host = _mm_getcsr();
  {
    DefaultFloatEnvironment ours;
    CHECK(_mm_getcsr() == 0x1f80);
    ours.in_host([&] { CHECK(_mm_getcsr() == host); });
    CHECK(_mm_getcsr() == 0x1f80);
  }
  CHECK(_mm_getcsr() == host);
  _mm_setcsr(before);
#endif
}

TEST_CASE("an idle pool takes no CPU") {
  ThreadPool pool(4);
  pool.for_each(100, [](int64_t, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const auto cpu_seconds = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
  };
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  CHECK(cpu_seconds() - before < 0.02);
}
