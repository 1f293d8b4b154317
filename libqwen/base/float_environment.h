// How this thread rounds, and what becomes of denormal numbers: the host's choice on the host's threads, ours while we compute.
#pragma once

#include <cfenv>
#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace qwen {

// Rounds to nearest, keeps denormals, masks exceptions. New threads inherit the host's control word (a host may flush denormals
// to zero), so every thread of ours that computes calls this first.
inline void set_default_float_environment() {
  std::fesetenv(FE_DFL_ENV);
#if defined(__x86_64__)
  _mm_setcsr(0x1f80);  // what it is when a processor starts: fesetenv leaves the treatment of denormals alone
#endif
}

// The default environment as long as it lives, then the one that was there, its exception flags included. Cheap enough for
// every call of the C API: on x86-64 two control registers.
class DefaultFloatEnvironment {
 public:
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

  // Runs a callback of the host in the host's environment, which it may change.
  template <class Call>
  auto in_host(const Call& call) {
    const InHost scope(*this);
    return call();
  }

  DefaultFloatEnvironment() noexcept { enter(); }
  ~DefaultFloatEnvironment() { leave(); }

 private:
#if defined(__x86_64__)
  void enter() noexcept {
    static constexpr uint16_t kDefault = 0x37f;
    host_sse_ = _mm_getcsr();
    asm volatile("fnstcw %0" : "=m"(host_x87_));
    _mm_setcsr(0x1f80);
    asm volatile("fldcw %0" ::"m"(kDefault) : "memory");  // what is computed stays on its side of this
  }
  void leave() noexcept {
    asm volatile("fldcw %0" ::"m"(host_x87_) : "memory");
    _mm_setcsr(host_sse_);
  }
  uint32_t host_sse_ = 0;
  uint16_t host_x87_ = 0;
#else
  void enter() noexcept {
    std::fegetenv(&host_);
    set_default_float_environment();
  }
  void leave() noexcept {
    std::fesetenv(&host_);
  }
  std::fenv_t host_;
#endif

  class InHost {
   public:
    explicit InHost(DefaultFloatEnvironment& environment) : environment_(environment) {
      environment_.leave();
    }
    ~InHost() { environment_.enter(); }

   private:
    DefaultFloatEnvironment& environment_;
  };
};

}  // namespace qwen
