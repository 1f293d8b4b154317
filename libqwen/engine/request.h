// One generation, from submit to its last event. Three owners: the host's handle (cancels, reads the outcome), the step
// thread (computes), the events (name it).
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine/event_queue.h"
#include "engine/sampling_params.h"
#include "engine/text_stream.h"

namespace qwen {

using Clock = std::chrono::steady_clock;

// What qwen_forward asks for besides tokens.
struct WantedTensors {
  bool logits = false;
  bool hidden_states = false;
  int64_t first_row = 0;  // of the prompt's tokens, the first one whose rows are wanted
  bool any() const { return logits || hidden_states; }
};

struct RequestInput {
  std::vector<int32_t> prompt;
  SamplingParams params;
  WantedTensors tensors;  // when any: one forward pass, nothing is generated
  bool split_reasoning = false;
  uint64_t tag = 0;
  std::weak_ptr<EventQueue> queue;  // the host's: events hold the request, so the request must not hold it
};

struct RequestStats {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t generated_tokens = 0;
  double queued_seconds = 0;
  double prompt_seconds = 0;
  double generate_seconds = 0;
  double first_token_seconds = 0;
  uint64_t seed = 0;
};

// What a request has produced. A copy of it is the host's result.
struct RequestOutcome {
  std::string text, reasoning;
  std::vector<int32_t> token_ids;
  std::vector<float> logprobs;
  FinishReason finish_reason = FinishReason::none;
  Status status = Status::ok;
  std::string message;
  RequestStats stats;
};

class Request : public std::enable_shared_from_this<Request> {
 public:
  Request(RequestInput input, std::shared_ptr<const Tokenizer> tokenizer);

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

  void* host_handle = nullptr;  // the qwen_request that events name; set before the request is submitted

  // --- the step thread only, from here on ---
  std::vector<int32_t> tokens;                     // prompt, then what was generated
  int64_t computed = 0;                            // of `tokens`, how many are in the cache
  std::vector<std::vector<int32_t>> block_tables;  // [cache group]
  int64_t max_tokens = 0;                          // resolved against the context

  std::span<const int32_t> generated() const { return std::span(tokens).subspan(input_.prompt.size()); }
  bool is_finished() const { return finished_; }
  void mark_started();
  // Takes one generated token: stores it, emits its text, and ends the request when the token or max_tokens says so.
  void append(int32_t token, float logprob);
  void finish(FinishReason reason, Status status = Status::ok, std::string message = {});
  // Sends the last events. The engine calls it when the finished request's blocks are back and the stats tell so.
  void announce_end();

  // qwen_forward's tensors, written by the step thread, read by the host after DONE.
  std::vector<float> logits;                      // [wanted rows, vocab_size]
  std::vector<std::vector<float>> hidden_states;  // [layers + 1][wanted rows, hidden_size]

 private:
  enum class Wish : uint8_t { go_on, stop, cancel };
  void push(Event event) const;
  void emit_text(std::string text, Channel channel, std::span<const int32_t> ids,
                 std::span<const float> logprobs);

  const RequestInput input_;
  TextStream text_;
  std::atomic<Wish> wish_{Wish::go_on};
  std::atomic<bool> detached_{false};
  bool finished_ = false;
  bool started_ = false;
  Clock::time_point submitted_, first_step_, first_token_;

  mutable std::mutex outcome_mutex_;
  RequestOutcome outcome_;
};

}  // namespace qwen
