#include "base/log.h"

#include <pthread.h>

#include <atomic>
#include <mutex>
#include <new>

namespace qwen {
namespace {

std::mutex g_mutex;               // one message at a time, and none while the sink is replaced
std::atomic<int32_t> g_level{0};  // 0: off; read without the lock on the hot path
LogSink g_sink = nullptr;
void* g_user = nullptr;

// A child that was forked while another thread wrote a message would wait for that thread forever: it has no such thread.
void unlock_in_child() {
  new (&g_mutex) std::mutex;
}

}  // namespace

void set_log_sink(LogSink sink, void* user, LogLevel level) {
  [[maybe_unused]] static const bool registered = [] {  // until the library is unloaded
    const int error = ::pthread_atfork(nullptr, nullptr, unlock_in_child);
    if (error != 0) fail(Status::out_of_memory, "cannot prepare for fork(): ", system_reason(error));
    return true;
  }();
  const std::lock_guard lock(g_mutex);
  g_sink = sink;
  g_user = user;
  g_level.store(sink ? static_cast<int32_t>(level) : 0, std::memory_order_relaxed);
}

bool log_enabled(LogLevel level) {
  return static_cast<int32_t>(level) <= g_level.load(std::memory_order_relaxed);
}

void write_log(LogLevel level, const std::string& message) {
  const std::lock_guard lock(g_mutex);
  if (g_sink) g_sink(static_cast<int32_t>(level), message.c_str(), message.size(), g_user);
}

}  // namespace qwen
