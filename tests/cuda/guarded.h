// Memory that says when somebody wrote beside it: AddressSanitizer at once, without it check() later.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace qwen::host_cuda {

// Aligned to 256 bytes as cudaMalloc's, filled with NaN.
class Guarded {
 public:
  static constexpr size_t kGuard = 256;

  explicit Guarded(size_t bytes) : size_(bytes) {
    memory_ = static_cast<std::byte*>(::operator new (bytes + 2 * kGuard, std::align_val_t{kGuard}));
    std::memset(memory_, kCanary, bytes + 2 * kGuard);
    poison();
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region(memory_, kGuard);
    __asan_poison_memory_region(data() + size_, kGuard);
#endif
  }
  ~Guarded() {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(memory_, size_ + 2 * kGuard);
#endif
    ::operator delete (memory_, std::align_val_t{kGuard});
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  std::byte* data() const {
    return memory_ + kGuard;
  }
  size_t size() const {
    return size_;
  }
  void poison() {
    std::memset(data(), 0xff, size_);
  }

  bool intact() const {
#ifndef __SANITIZE_ADDRESS__
    for (size_t i = 0; i < kGuard; ++i)
      if (memory_[i] != std::byte{kCanary} || data()[size_ + i] != std::byte{kCanary}) return false;
#endif
    return true;
  }

 private:
  static constexpr int kCanary = 0xa5;
  std::byte* memory_;
  size_t size_;
};

}  // namespace qwen::host_cuda
