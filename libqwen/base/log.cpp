#include "base/log.h"

#include <atomic>
#include <mutex>
#include <string>

namespace qwen {
namespace {

std::mutex g_mutex;               // one message at a time, and none while the sink is replaced
std::atomic<int32_t> g_level{0};  // 0: off; read without the lock on the hot path
LogSink g_sink = nullptr;
void* g_user = nullptr;

}  // namespace

void set_log_sink(LogSink sink, void* user, LogLevel level) {
  const std::lock_guard lock(g_mutex);
  g_sink = sink;
  g_user = user;
  g_level.store(sink ? static_cast<int32_t>(level) : 0, std::memory_order_relaxed);
}

bool log_enabled(LogLevel level) {
  return static_cast<int32_t>(level) <= g_level.load(std::memory_order_relaxed);
}

void write_log(LogLevel level, std::string_view message) {
  const std::string terminated(message);
  const std::lock_guard lock(g_mutex);
  if (g_sink) g_sink(static_cast<int32_t>(level), terminated.c_str(), terminated.size(), g_user);
}

}  // namespace qwen
