// The border of the library: everything that goes wrong inside becomes a status and a qwen_error here, and nothing is
// thrown across. Only api/ includes qwen.h.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/float_environment.h"
#include "qwen.h"

struct qwen_error {
  int32_t code;
  std::string message;
};

namespace qwen::api {

// Writes *error (when wanted) and returns the status. Never throws; without memory for the message it hands out a
// static object.
int32_t report(qwen_error** error, int32_t code, const char* message) noexcept;

// Runs `body` and turns whatever it throws into a status. Meanwhile floats are computed as on our own threads, whatever the
// host has set; who calls back takes the environment and does so by its in_host().
template <class Body>
int32_t guard(qwen_error** error, Body&& body) noexcept {
  DefaultFloatEnvironment floats;
  try {
    if constexpr (std::is_invocable_v<Body, DefaultFloatEnvironment&>) {
      body(floats);
    } else {
      body();
    }
    return QWEN_OK;
  } catch (...) {
    const Error failure = current_error();
    return report(error, static_cast<int32_t>(failure.status()), failure.what());
  }
}

inline void require(const void* pointer, const char* name) {
  if (!pointer) fail(Status::invalid_argument, name, " is NULL");
}

// A text argument; NULL is allowed for no bytes.
inline std::string_view text_argument(const char* text, size_t length, const char* name) {
  if (length > 0) require(text, name);
  return {text ? text : "", length};
}

// The length-then-copy pattern: copies what fits and returns what there is. A text is NUL-terminated when there is room;
// its length does not count the NUL.
inline size_t copy_text(const std::string& from, char* to, size_t capacity) {
  if (const size_t fits = std::min(capacity, from.size() + 1)) std::memcpy(to, from.c_str(), fits);
  return from.size();
}
inline size_t copy_ids(const std::vector<int32_t>& from, int32_t* to, size_t capacity) {
  if (const size_t fits = std::min(capacity, from.size())) std::memcpy(to, from.data(), fits * sizeof *to);
  return from.size();
}

template <class Struct>
void check_struct(const Struct* out, const char* name) {
  require(out, name);
  if (out->struct_size < 2 * sizeof(uint32_t))
    fail(Status::invalid_argument, name, "->struct_size is ", out->struct_size, "; set it to sizeof(*", name,
         ") first");
}

// Hands a struct out in the size the caller knows.
template <class Struct>
void write_struct(Struct* out, Struct full, const char* name) {
  check_struct(out, name);
  full.struct_size = out->struct_size;
  std::memcpy(out, &full, std::min<size_t>(out->struct_size, sizeof full));
}

// Handles with threads behind them remember who made them.
class Owner {
 public:
  bool is_this_process() const noexcept { return pid_ == ::getpid(); }
  void check(const char* what) const {
    if (!is_this_process())
      fail(Status::forked, "this ", what, " was made by process ", pid_,
           " and cannot be used in its child; make a new one");
  }

 private:
  pid_t pid_ = ::getpid();
};

}  // namespace qwen::api
