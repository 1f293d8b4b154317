#include "fiber.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstring>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

namespace qwen::host_cuda {
namespace {

constexpr size_t kStack = 256 << 10, kGuard = 4096;

thread_local Fiber* from = nullptr;  // who switched last
thread_local Fiber* to = nullptr;    // and to whom

}  // namespace

void fiber_begins() {
  Fiber* const self = to;
  self->arrive();
  self->function_();
  __builtin_trap();
}

#if defined(__x86_64__)
// swapcontext(3) would ask the kernel for the signal mask each time, a hundred times what this costs.
extern "C" void qwen_switch_stack(void** save, void* load);
asm(R"(
.text
.type qwen_switch_stack, @function
qwen_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size qwen_switch_stack, .-qwen_switch_stack
)");
#else
extern "C" void qwen_switch_stack(void** save, void* load) {
  ucontext_t here;
  *save = &here;
  swapcontext(&here, static_cast<ucontext_t*>(load));
}
#endif

Fiber::Fiber(void (*function)()) : function_(function) {
  void* memory = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<std::byte*>(memory);
  mprotect(memory_, kGuard, PROT_NONE);
  bottom_ = memory_ + kGuard;
  size_ = kStack;
#ifdef __SANITIZE_THREAD__
  tsan_ = __tsan_create_fiber(0);
#endif
  restart();
}

Fiber::~Fiber() {
  if (memory_ == nullptr) return;
#ifdef __SANITIZE_THREAD__
  __tsan_destroy_fiber(tsan_);
#endif
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(bottom_, size_);
#endif
  munmap(memory_, kGuard + kStack);
}

void Fiber::restart() {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(bottom_, size_);
  fake_stack_ = nullptr;
#endif
#if defined(__x86_64__)
  // What the switch pops: six registers, then where to return to; there the stack is as after a call, 8 below a multiple of 16.
  void** const top = reinterpret_cast<void**>(memory_ + kGuard + kStack) - 2;
  top[0] = reinterpret_cast<void*>(&fiber_begins);
  std::memset(top - 6, 0, 6 * sizeof(void*));
  stack_pointer_ = top - 6;
#else
  constexpr size_t kContext = (sizeof(ucontext_t) + 63) / 64 * 64;
  auto* const context = reinterpret_cast<ucontext_t*>(memory_ + kGuard);
  getcontext(context);
  context->uc_stack.ss_sp = memory_ + kGuard + kContext;
  context->uc_stack.ss_size = kStack - kContext;
  context->uc_link = nullptr;
  makecontext(context, &fiber_begins, 0);
  stack_pointer_ = context;
#endif
}

void Fiber::switch_to(Fiber& next) {
  from = this;
  to = &next;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&fake_stack_, next.bottom_, next.size_);
#endif
#ifdef __SANITIZE_THREAD__
  if (tsan_ == nullptr) tsan_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(next.tsan_, 0);
#endif
  qwen_switch_stack(&stack_pointer_, next.stack_pointer_);
  arrive();
}

// On the stack that was switched to. Where the OS thread's own stack lies, AddressSanitizer knows.
void Fiber::arrive() {
#ifdef __SANITIZE_ADDRESS__
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(fake_stack_, &bottom, &size);
  if (from->function_ == nullptr) {
    from->bottom_ = bottom;
    from->size_ = size;
  }
#endif
}

}  // namespace qwen::host_cuda
