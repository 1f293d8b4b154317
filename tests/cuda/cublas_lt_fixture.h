// The cuBLASLt that tests have: on the executor the stand-in of fake_cublas_lt.c, which is there under its name before libqwen looks
// for it; on a GPU the machine's own.
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <string_view>

#include "backend/backend.h"
#include "engine/engine.h"

#ifndef QWEN_TEST_ON_GPU
#include <dlfcn.h>

#include "host_device.h"
#endif

namespace qwen::test {

#ifndef QWEN_TEST_ON_GPU

// As fake_cublas_lt.c has it.
struct FakeLtCounts {
  long handles, layouts, operations, preferences, heuristics, products, misused;
};

class FakeCublasLt {
 public:
  FakeCublasLt() {
    void* const library = dlopen(QWEN_TEST_CUBLAS_LT, RTLD_NOW | RTLD_LOCAL);
    REQUIRE_MESSAGE(library != nullptr, dlerror());
    const auto find = [&](const char* name, auto& function) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
      REQUIRE_MESSAGE(static_cast<bool>(function), name);
    };
    void (*use)(void (*)(void*, void (*)(void*), void*)) = nullptr;
    find("fake_lt_use", use);
    find("fake_lt_fail", fail_);
    find("fake_lt_counts", counts_);
    use([](void* stream, void (*work)(void*), void* argument) {
      host_cuda::give(stream, [work, argument] { work(argument); });
    });
  }
  // The next call of this function, without cublasLt, or the next "found"; -1 of that: nothing was found.
  void fail(const char* name, int status) { fail_(name, status); }
  FakeLtCounts counts() {
    FakeLtCounts counts{};
    const char* const said = counts_(&counts);
    INFO(said);
    CHECK(counts.misused == 0);
    return counts;
  }
  long products() { return counts().products; }

 private:
  void (*fail_)(const char*, int) = nullptr;
  const char* (*counts_)(FakeLtCounts*) = nullptr;
};

inline FakeCublasLt& fake_cublas_lt() {
  static FakeCublasLt fake;
  return fake;
}

#endif

// How many products it has done of a backend that is not strict; -1: the backend has none.
template <class Of>  // Backend, Engine
int64_t by_library(const Of& of) {
  for (const KernelCount& count : of.kernel_counts())
    if (count.name == "linear.cublas_lt") return count.calls;
  return -1;
}

// Whether there is one: on the executor always, and looked for here first.
inline bool has_cublas_lt() {
#ifdef QWEN_TEST_ON_GPU
  const bool has = by_library(*create_cuda_backend({.check = false, .strict = false})) >= 0;
  if (!has) MESSAGE("this machine has no cuBLASLt");
  return has;
#else
  fake_cublas_lt();
  REQUIRE(by_library(*create_cuda_backend({.check = false, .strict = false})) == 0);
  return true;
#endif
}

}  // namespace qwen::test
