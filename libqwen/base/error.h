// The library's one error type. Inside libqwen a failure is an exception of class Error; api/ turns it into a
// status and a qwen_error, so nothing is ever thrown across the C boundary.
#pragma once

#include <charconv>
#include <concepts>
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace qwen {

// The values are those of qwen_status in qwen.h (asserted in api/).
enum class Status : int32_t {
  ok = 0,
  invalid_argument = 1,  // an argument, option key or option value is not acceptable
  not_found = 2,         // a file or folder does not exist
  io = 3,                // the operating system refused to read
  invalid_file = 4,      // a file exists but its content is broken or contradictory
  unsupported = 5,       // well-formed, but this library (version, build, machine) cannot do it
  out_of_memory = 6,
  cancelled = 7,
  closed = 8,  // the engine or queue was destroyed meanwhile
  timeout = 9,
  callback = 10,  // the host's own callback reported failure
  forked = 11,    // used in a child process of the process that created the object
  busy = 12,      // a bounded queue is full
  internal = 13,  // a defect of this library
};

class Error : public std::exception {
 public:
  Error(Status status, std::string message) : status_(status), message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }
  Status status() const noexcept { return status_; }
  const std::string& message() const noexcept { return message_; }

 private:
  Status status_;
  std::string message_;
};

namespace detail {
inline void append(std::string& out, std::string_view text) {
  out.append(text);
}
inline void append(std::string& out, const char* text) {
  out.append(text);
}
inline void append(std::string& out, char c) {
  out.push_back(c);
}
inline void append(std::string& out, bool value) {
  out.append(value ? "true" : "false");
}
template <class Number>
requires(std::integral<Number> || std::floating_point<Number>) void append(std::string& out, Number value) {
  char digits[64];
  const auto end = std::to_chars(digits, digits + sizeof digits, value);
  out.append(digits, end.ptr);
}
}  // namespace detail

// cat("tensor ", name, " has ", n, " bytes"): text from pieces, independent of the host's locale.
template <class... Pieces>
std::string cat(const Pieces&... pieces) {
  std::string out;
  (detail::append(out, pieces), ...);
  return out;
}

template <class... Pieces>
[[noreturn]] void fail(Status status, const Pieces&... pieces) {
  throw Error(status, cat(pieces...));
}

// What the exception that is being handled says, as an Error: memory that ran out is out_of_memory, what nobody expected internal.
Error current_error() noexcept;

// The operating system's words for an errno, in English whatever the host's locale is: ASCII.
std::string system_reason(int error);

// cat() of an untrusted value for use inside a message: quoted, control bytes escaped, shortened to `limit` bytes.
std::string quote(std::string_view untrusted, size_t limit = 80);

}  // namespace qwen
