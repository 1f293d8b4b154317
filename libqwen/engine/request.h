// One generation, from submit to its last event. Three owners: the host's handle (cancels, reads the outcome), the step
// thread (computes its sequences, one per choice), the events (name it).
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "engine/event_queue.h"
#include "engine/request_input.h"
#include "engine/sequence.h"

namespace qwen {

using Clock = std::chrono::steady_clock;

struct RequestStats {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t generated_tokens = 0;  // all choices
  double queued_seconds = 0;
  double prompt_seconds = 0;
  double generate_seconds = 0;
  double first_token_seconds = 0;
  uint64_t seed = 0;
  double inter_token_p50_seconds = 0;
  double inter_token_p99_seconds = 0;
  double inter_token_max_seconds = 0;
};

struct ChoiceOutcome {
  std::string text, reasoning;
  std::vector<ToolCall> tool_calls;
  std::vector<int32_t> token_ids;
  std::vector<float> logprobs;
  std::vector<int32_t> top_token_ids;  // [token_ids.size(), params.top_logprobs]
  std::vector<float> top_logprobs;
  FinishReason finish_reason = FinishReason::none;
  std::optional<std::string> stop_text;
};

// What a request has produced. A copy of it is the host's result.
struct RequestOutcome {
  std::vector<ChoiceOutcome> choices;
  std::vector<float> prompt_logprobs;  // [prompt tokens], empty unless asked for
  Status status = Status::ok;
  std::string message;
  RequestStats stats;
};

class Request : public std::enable_shared_from_this<Request> {
 public:
  Request(RequestInput input, const std::shared_ptr<const Tokenizer>& tokenizer);

  // Any thread. cancel: nothing more is computed, the outcome is QWEN_ERR_CANCELLED. stop: ends well with what there is.
  // Both are sticky and take effect within one step.
  void cancel() noexcept { wish_.store(Wish::cancel, std::memory_order_relaxed); }
  void stop() noexcept {
    Wish expected = Wish::go_on;
    wish_.compare_exchange_strong(expected, Wish::stop, std::memory_order_relaxed);
  }
  bool cancel_wanted() const noexcept { return wish_.load(std::memory_order_relaxed) == Wish::cancel; }
  bool stop_wanted() const noexcept { return wish_.load(std::memory_order_relaxed) == Wish::stop; }
  // The host has freed its handle: its events are nobody's any more.
  void detach() noexcept { detached_.store(true, std::memory_order_relaxed); }
  bool detached() const noexcept { return detached_.load(std::memory_order_relaxed); }

  const RequestInput& input() const { return input_; }
  RequestOutcome outcome() const;  // a copy, any thread
  // Why it failed, "" if it did not. Any thread, once the DONE event is out.
  const std::string& message() const { return outcome_.message; }

  void* host_handle = nullptr;  // the qwen_request that events name; set before the request is submitted

  // --- the step thread only, from here on ---
  int64_t max_tokens = 0;                            // per choice, resolved against the context
  std::vector<std::unique_ptr<Sequence>> sequences;  // [choice]

  // What the sequences report.
  void mark_started(int64_t cached_tokens);
  void record_token(const Sequence& sequence, const SampledToken& token);
  void record_prompt_logprob(int64_t index, float logprob);
  void record_text(const Sequence& sequence, const TextPiece& piece);
  void record_stop(const Sequence& sequence, size_t stop);
  void record_end(const Sequence& sequence, FinishReason reason) noexcept;
  void push(Event event) const;
  // The whole request has failed: the first reason stays. Its sequences end with the next sweep at the latest.
  void fail(Status status, std::string_view message) noexcept;
  bool timed_out(Clock::time_point now) const { return now >= deadline_; }
  const std::string& late() const { return late_; }  // what is said then
  bool failed() const { return outcome_.status != Status::ok; }
  // Sends the last event of one choice, and after the last choice the request's own. The engine calls it when the
  // sequence's blocks are back and the stats tell so.
  void announce_end(const Sequence& sequence) noexcept;

  // The wanted tensors, written by the step thread, read by the host after DONE.
  std::vector<float> logits;                      // [wanted rows, vocab_size], or of the wanted tokens only
  std::vector<float> mtp_logits;                  // [wanted rows - 1, vocab_size]
  std::vector<std::vector<float>> hidden_states;  // [layers + 1][wanted rows, ModelConfig::hidden_width()]
  std::vector<float> last_hidden;                 // [hidden_size]

 private:
  enum class Wish : uint8_t { go_on, stop, cancel };

  const RequestInput input_;
  std::atomic<Wish> wish_{Wish::go_on};
  std::atomic<bool> detached_{false};
  bool started_ = false;
  Events
      last_events_;  // a FINISHED for each choice and a DONE: made in time, so that a request can always end
  std::string late_;
  Clock::time_point submitted_, deadline_, first_step_, first_token_;
  std::vector<Clock::time_point> last_token_;  // [choice]
  std::vector<float> intervals_;               // between tokens, seconds, all choices

  mutable std::mutex outcome_mutex_;
  RequestOutcome outcome_;  // only the step thread writes it
};

}  // namespace qwen
