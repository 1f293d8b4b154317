// Memory for tables of megabytes in large pages, where the system has them: filled without a page fault for every 4 KB, and
// looked up without a miss of the TLB each time.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <vector>

namespace qwen {

inline constexpr size_t kLargePage = size_t{2} << 20;

template <class T>
struct LargePageAllocator {
  using value_type = T;

  LargePageAllocator() = default;
  template <class U>
  LargePageAllocator(const LargePageAllocator<U>&) {}
  bool operator==(const LargePageAllocator&) const { return true; }

  static std::align_val_t alignment(size_t count) {
    return std::align_val_t{count * sizeof(T) < kLargePage ? alignof(std::max_align_t) : kLargePage};
  }
  T* allocate(size_t count) {
    const size_t bytes = count * sizeof(T);
    void* const memory = ::operator new(bytes, alignment(count));
    if (bytes >= kLargePage) madvise(memory, bytes / kLargePage * kLargePage, MADV_HUGEPAGE);
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, size_t count) { ::operator delete(memory, alignment(count)); }
};

template <class T>
using LargeVector = std::vector<T, LargePageAllocator<T>>;

}  // namespace qwen
