// A thread in somebody else's process.
#pragma once

#include <pthread.h>

#include <functional>
#include <utility>

namespace qwen {

// Runs `body` on a thread of its own until join(). It has the name, which debuggers and top show (at most 15 bytes); a stack
// of kStackBytes, whatever the host has set; the default float environment; and every signal blocked that is sent, so that the
// host's threads get them. Those that a fault of the thread itself raises stay as they are: the host's crash reporter sees it.
class Thread {
 public:
  static constexpr size_t kStackBytes = size_t{2} << 20;

  Thread() = default;
  // The body must not throw. Throws Error(out_of_memory) when the system refuses a thread.
  Thread(const char* name, std::function<void()> body);
  Thread(Thread&& other) noexcept
      : joinable_(std::exchange(other.joinable_, false)), thread_(other.thread_) {}
  Thread& operator=(Thread&& other) noexcept {
    std::swap(joinable_, other.joinable_);
    std::swap(thread_, other.thread_);
    return *this;
  }
  ~Thread() { join(); }

  // Returns when the body has; at once where there is no thread.
  void join() noexcept;

 private:
  bool joinable_ = false;
  pthread_t thread_{};
};

}  // namespace qwen
