// A function's static object that is never destroyed: threads of the host may be in the library while the process exits.
#pragma once

#include <cstddef>
#include <new>
#include <utility>

namespace qwen {

template <class T>
class Immortal {
 public:
  template <class... Arguments>
  explicit Immortal(Arguments&&... arguments) {
    new (memory_) T{std::forward<Arguments>(arguments)...};
  }
  Immortal(const Immortal&) = delete;
  Immortal& operator=(const Immortal&) = delete;

  T& operator*() { return *std::launder(reinterpret_cast<T*>(memory_)); }

 private:
  alignas(T) std::byte memory_[sizeof(T)];
};

}  // namespace qwen
