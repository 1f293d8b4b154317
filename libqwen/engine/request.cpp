#include "engine/request.h"

namespace qwen {
namespace {

double seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

Request::Request(RequestInput input, std::shared_ptr<const Tokenizer> tokenizer)
    : tokens(input.prompt),
      input_(std::move(input)),
      text_(std::move(tokenizer), input_.split_reasoning, input_.prompt),
      submitted_(Clock::now()) {
  outcome_.stats.prompt_tokens = static_cast<int64_t>(input_.prompt.size());
  outcome_.stats.seed = input_.params.seed;
}

RequestOutcome Request::outcome() const {
  const std::lock_guard lock(outcome_mutex_);
  return outcome_;
}

void Request::mark_started() {
  if (started_) return;  // again after a preemption: the first time counts
  started_ = true;
  first_step_ = Clock::now();
  const std::lock_guard lock(outcome_mutex_);
  outcome_.stats.queued_seconds = seconds(submitted_, first_step_);
}

void Request::append(int32_t token, float logprob) {
  const auto now = Clock::now();
  const bool first = generated().empty();
  if (first) first_token_ = now;
  tokens.push_back(token);
  const auto count = static_cast<int64_t>(generated().size());
  const bool ends = input_.params.ends(token);
  const Channel channel_before = text_.channel();
  std::string text = ends ? std::string() : text_.push(token);
  const Channel channel = text.empty() ? channel_before : text_.channel();
  {
    const std::lock_guard lock(outcome_mutex_);
    outcome_.token_ids.push_back(token);
    if (input_.params.logprobs) outcome_.logprobs.push_back(logprob);
    outcome_.stats.generated_tokens = count;
    if (first) {
      outcome_.stats.first_token_seconds = seconds(submitted_, now);
      outcome_.stats.prompt_seconds = seconds(first_step_, now);
    }
    outcome_.stats.generate_seconds = seconds(first_token_, now);
  }
  emit_text(std::move(text), channel, {&token, 1},
            {&logprob, input_.params.logprobs ? size_t{1} : size_t{0}});
  if (ends) {
    finish(FinishReason::stop);
  } else if (count >= max_tokens) {
    finish(FinishReason::length);
  }
}

void Request::finish(FinishReason reason, Status status, std::string message) {
  if (finished_) return;
  finished_ = true;
  if (std::string rest = text_.finish(); !rest.empty()) emit_text(std::move(rest), text_.channel(), {}, {});
  {
    const std::lock_guard lock(outcome_mutex_);
    outcome_.finish_reason = reason;
    outcome_.status = status;
    outcome_.message = std::move(message);
  }
}

void Request::push(Event event) const {
  if (const auto queue = input_.queue.lock())
    queue->push(std::move(event));  // gone: the host has let go of it
}

void Request::announce_end() {
  const auto self = shared_from_this();
  const RequestOutcome& end = outcome_;  // only this thread writes it
  push({.type = EventType::finished, .request = self, .finish_reason = end.finish_reason});
  push({.type = EventType::done,
        .request = self,
        .finish_reason = end.finish_reason,
        .status = end.status,
        .message = end.message});
}

void Request::emit_text(std::string text, Channel channel, std::span<const int32_t> ids,
                        std::span<const float> logprobs) {
  {
    const std::lock_guard lock(outcome_mutex_);
    (channel == Channel::reasoning ? outcome_.reasoning : outcome_.text) += text;
  }
  push({.type = EventType::text,
        .request = shared_from_this(),
        .channel = channel,
        .text = std::move(text),
        .token_ids = {ids.begin(), ids.end()},
        .logprobs = {logprobs.begin(), logprobs.end()}});
}

}  // namespace qwen
