// The log: off until a host installs a sink. The library itself never writes to stdout or stderr.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/error.h"

namespace qwen {

enum class LogLevel : int32_t { error = 1, warning = 2, info = 3, debug = 4 };

using LogSink = void (*)(int32_t level, const char* message, size_t length, void* user);

// Replaces the process-wide sink; returns when the previous one is not running any more. nullptr: off.
void set_log_sink(LogSink sink, void* user, LogLevel level);

bool log_enabled(LogLevel level);
void write_log(LogLevel level, const std::string& message);

// What cannot be said, for want of memory, is not said.
template <class... Pieces>
void log(LogLevel level, const Pieces&... pieces) noexcept {
  if (!log_enabled(level)) return;
  try {
    write_log(level, cat(pieces...));
  } catch (...) {
  }
}

}  // namespace qwen
