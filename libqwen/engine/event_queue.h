// Where a host meets the events of its requests: filled by the step thread, drained by the host's threads or event loop.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/tool_calls.h"

namespace qwen {

class Request;

// The numbers are those of QWEN_EVENT_…, QWEN_FINISH_… and QWEN_CHANNEL_… in qwen.h (asserted in api/).
enum class EventType : int32_t { text = 1, finished = 2, done = 3, tool_call = 4 };
enum class FinishReason : int32_t { none = 0, stop = 1, length = 2, cancelled = 3, error = 4 };
enum class Channel : int32_t { answer = 0, reasoning = 1 };

struct Event {
  EventType type;
  std::shared_ptr<const Request> request;
  int32_t choice = 0;
  Channel channel = Channel::answer;
  FinishReason finish_reason = FinishReason::none;
  Status status = Status::ok;
  std::string text = {};
  std::vector<int32_t> token_ids = {};
  std::vector<float> logprobs = {};
  std::vector<int32_t> top_token_ids = {};  // [token_ids.size(), params.top_logprobs]
  std::vector<float> top_logprobs = {};
  std::optional<ToolCall> call = {};
};

using Events = std::list<Event>;

class EventQueue {
 public:
  EventQueue() = default;
  ~EventQueue();
  EventQueue(const EventQueue&) = delete;
  EventQueue& operator=(const EventQueue&) = delete;

  void push(Event event);
  // The first of `events`, which leaves that list: needs no memory.
  void push_first_of(Events& events) noexcept;
  // The next event; waits up to timeout_ms (negative: forever). nullopt: none came.
  std::optional<Event> pop(int64_t timeout_ms);
  // Everything that is there, after waiting for the first one.
  std::vector<Event> pop_all(int64_t timeout_ms);
  // An eventfd that polls readable while events wait; made at first use. Throws Error(io).
  int descriptor();

 private:
  bool wait(std::unique_lock<std::mutex>& lock, int64_t timeout_ms);
  void signal(bool readable) noexcept;

  std::mutex mutex_;
  std::condition_variable arrived_;
  Events events_;
  int descriptor_ = -1;
};

}  // namespace qwen
