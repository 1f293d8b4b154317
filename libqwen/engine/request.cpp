#include "engine/request.h"

#include <algorithm>
#include <new>

namespace qwen {
namespace {

// For the words with which a request fails, when there is no memory any more.
constexpr size_t kMessageRoom = 120;

double seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

Request::Request(RequestInput input, const std::shared_ptr<const Tokenizer>& tokenizer)
    : input_(std::move(input)), submitted_(Clock::now()) {
  const auto choices = static_cast<uint32_t>(input_.params.n);
  for (uint32_t choice = 0; choice < choices; ++choice)
    sequences.push_back(std::make_unique<Sequence>(*this, choice, tokenizer));
  outcome_.choices.resize(choices);
  last_token_.resize(choices);
  deadline_ = input_.timeout_ms ? submitted_ + std::chrono::milliseconds(*input_.timeout_ms)
                                : Clock::time_point::max();
  if (input_.timeout_ms)
    late_ = cat("the request has not ended within its timeout_ms of ", *input_.timeout_ms);
  outcome_.message.reserve(kMessageRoom);
  for (uint32_t choice = 0; choice < choices; ++choice)
    last_events_.push_back({.type = EventType::finished, .request = nullptr});
  last_events_.push_back({.type = EventType::done, .request = nullptr});
  outcome_.stats.prompt_tokens = static_cast<int64_t>(input_.prompt.size());
  outcome_.stats.seed = input_.params.seed;
}

RequestOutcome Request::outcome() const {
  const std::lock_guard lock(outcome_mutex_);
  return outcome_;
}

void Request::mark_started(int64_t cached_tokens) {
  if (started_) return;  // a further choice, or again after a preemption: the first time counts
  started_ = true;
  first_step_ = Clock::now();
  const std::lock_guard lock(outcome_mutex_);
  outcome_.stats.queued_seconds = seconds(submitted_, first_step_);
  outcome_.stats.cached_tokens = cached_tokens;
}

void Request::record_token(const Sequence& sequence, const SampledToken& token) {
  const auto now = Clock::now();
  const std::lock_guard lock(outcome_mutex_);
  RequestStats& stats = outcome_.stats;
  if (stats.generated_tokens++ == 0) {
    first_token_ = now;
    stats.first_token_seconds = seconds(submitted_, now);
    stats.prompt_seconds = seconds(first_step_, now);
  }
  stats.generate_seconds = seconds(first_token_, now);
  ChoiceOutcome& choice = outcome_.choices[sequence.choice()];
  Clock::time_point& last = last_token_[sequence.choice()];
  if (!choice.token_ids.empty()) intervals_.push_back(static_cast<float>(seconds(last, now)));
  last = now;
  choice.token_ids.push_back(token.id);
  if (input_.params.logprobs) choice.logprobs.push_back(token.logprob);
  for (const TokenLogprob& top : token.top) {
    choice.top_token_ids.push_back(top.id);
    choice.top_logprobs.push_back(top.logprob);
  }
}

void Request::record_prompt_logprob(int64_t index, float logprob) {
  const std::lock_guard lock(outcome_mutex_);
  outcome_.prompt_logprobs.resize(input_.prompt.size());
  outcome_.prompt_logprobs[static_cast<size_t>(index)] = logprob;
}

void Request::record_text(const Sequence& sequence, const TextPiece& piece) {
  const std::lock_guard lock(outcome_mutex_);
  ChoiceOutcome& choice = outcome_.choices[sequence.choice()];
  (piece.channel == Channel::reasoning ? choice.reasoning : choice.text) += piece.text;
  if (piece.call) choice.tool_calls.push_back(*piece.call);
}

void Request::record_stop(const Sequence& sequence, size_t stop) {
  const std::lock_guard lock(outcome_mutex_);
  outcome_.choices[sequence.choice()].stop_text = input_.params.stop[stop];
}

void Request::record_end(const Sequence& sequence, FinishReason reason) noexcept {
  const std::lock_guard lock(outcome_mutex_);
  outcome_.choices[sequence.choice()].finish_reason = reason;
  const auto percentile = [this](double fraction) {
    if (intervals_.empty()) return 0.0;
    const auto rank = static_cast<ptrdiff_t>(fraction * static_cast<double>(intervals_.size() - 1) + 0.5);
    std::nth_element(intervals_.begin(), intervals_.begin() + rank, intervals_.end());
    return static_cast<double>(intervals_[static_cast<size_t>(rank)]);
  };
  outcome_.stats.inter_token_p50_seconds = percentile(0.5);
  outcome_.stats.inter_token_p99_seconds = percentile(0.99);
  outcome_.stats.inter_token_max_seconds = percentile(1);
}

void Request::fail(Status status, std::string_view message) noexcept {
  if (failed()) return;
  const std::lock_guard lock(outcome_mutex_);
  outcome_.status = status;
  try {
    outcome_.message = message;
  } catch (const std::bad_alloc&) {
    size_t end = std::min(message.size(), kMessageRoom);
    while (end > 0 && end < message.size() && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80)
      --end;
    outcome_.message = message.substr(0, end);
  }
}

void Request::push(Event event) const {
  if (const auto queue = input_.queue.lock())
    queue->push(std::move(event));  // gone: the host has let go of it
}

void Request::announce_end(const Sequence& sequence) noexcept {
  const auto queue = input_.queue.lock();
  const auto send = [&](uint32_t choice) {
    Event& event = last_events_.front();
    event.request = shared_from_this();
    event.choice = static_cast<int32_t>(choice);
    event.finish_reason = outcome_.choices[choice].finish_reason;
    event.status = event.type == EventType::done ? outcome_.status : Status::ok;
    queue ? queue->push_first_of(last_events_) : last_events_.pop_front();  // gone: the host has let go of it
  };
  send(sequence.choice());
  if (last_events_.size() == 1) send(0);
}

}  // namespace qwen
