// Something that is computed meanwhile.
#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/thread.h"

namespace qwen {

// Runs `work` on a thread of its own, which has ended when get() returns or the task is destroyed. Where the system refuses a
// thread, get() does the work.
template <class T>
class Task {
 public:
  Task(const char* name, std::function<T()> work) : work_(std::move(work)) {
    under_way_ = true;
    try {
      thread_ = Thread(name, [this] {
        run();
        under_way_ = false;
      });
    } catch (const Error&) {
      under_way_ = false;
    }
  }
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  // Whether the thread is at it, and get() would only wait.
  bool under_way() const { return under_way_; }

  // Once. Throws what the work threw.
  T get() {
    thread_.join();
    if (!result_ && !error_) run();
    if (error_) std::rethrow_exception(error_);
    return std::move(*result_);
  }

 private:
  void run() noexcept {
    try {
      result_ = work_();
    } catch (...) {
      error_ = std::current_exception();
    }
  }

  std::function<T()> work_;
  std::optional<T> result_;
  std::exception_ptr error_;
  std::atomic<bool> under_way_{false};
  Thread thread_;  // last: joined before the others go
};

}  // namespace qwen
