// Stacks of their own to switch between, in one OS thread. The sanitizers are told.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qwen::host_cuda {

class Fiber {
 public:
  Fiber() = default;                   // of the OS thread's own stack: where switch_to() is first called from
  explicit Fiber(void (*function)());  // which never returns
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Goes on in `next`, and comes back when somebody switches to this one, which is the current one.
  void switch_to(Fiber& next);
  // What stands on the stack is forgotten: the function begins anew.
  void restart();

  unsigned thread = 0;  // which of a block's threads it runs

 private:
  friend void fiber_begins();
  void arrive();

  void (*function_)() = nullptr;
  std::byte* memory_ = nullptr;
  void* stack_pointer_ = nullptr;
  const void* bottom_ = nullptr;
  size_t size_ = 0;
  void* fake_stack_ = nullptr;  // of AddressSanitizer
  void* tsan_ = nullptr;
};

}  // namespace qwen::host_cuda
