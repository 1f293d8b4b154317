// Random bits of the operating system, for seeds and secrets.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/error.h"

namespace qwen {

// Not std::random_device: linked statically it takes arc4random where there is one, and then the library asks for the very
// glibc it was built with.
inline uint64_t entropy() {
  uint64_t bits = 0;
  if (getentropy(&bits, sizeof bits) != 0)
    fail(Status::io, "the system gives no random numbers (getentropy): ", std::strerror(errno));
  return bits;
}

}  // namespace qwen
