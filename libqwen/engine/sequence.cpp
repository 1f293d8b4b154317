#include "engine/sequence.h"

#include "backend/backend.h"
#include "engine/request.h"
#include "model/adapter.h"

namespace qwen {

Sequence::Sequence(Request& request, uint32_t choice, std::shared_ptr<const Tokenizer> tokenizer)
    : tokens(request.input().prompt),
      request_(request),
      choice_(choice),
      text_(std::move(tokenizer), request.input()) {}

bool Sequence::wants_prompt_logprobs() const {
  const RequestInput& input = request_.input();
  return input.params.prompt_logprobs && choice_ == 0 && !input.tensors.any() && generated().empty();
}

std::span<const int32_t> Sequence::generated() const {
  return std::span(tokens).subspan(request_.input().prompt.size());
}

// What comes before the first block: which adapter has computed it and all others. No block has a single token.
BlockKey Sequence::first_key() const {
  const auto& adapter = request_.input().adapter;
  return adapter ? next_key({}, std::span(&adapter->id, 1)) : BlockKey{};
}

const BlockKey& Sequence::key(int64_t index) {
  for (auto next = static_cast<int64_t>(keys_.size()); next <= index; ++next) {
    const auto block = std::span(tokens).subspan(static_cast<size_t>(next * kCacheBlock), kCacheBlock);
    keys_.push_back(next_key(keys_.empty() ? first_key() : keys_.back(), block));
  }
  return keys_[static_cast<size_t>(index)];
}

BlockKey Sequence::key_of_part(int64_t rows) {
  const auto part =
      std::span(tokens).subspan(static_cast<size_t>(named_blocks * kCacheBlock), static_cast<size_t>(rows));
  return next_key(named_blocks == 0 ? first_key() : key(named_blocks - 1), part);
}

TokenRule Sequence::rule() const {
  const SamplingParams& params = request_.input().params;
  if (!params.reasoning_budget) return {};
  const auto& end = params.reasoning_end_ids;
  if (forced_ == end.size()) return {.forced = {}, .forbidden = text_.opening_tag()};
  const bool used_up = text_.channel() == Channel::reasoning && reasoning_tokens_ >= *params.reasoning_budget;
  if (forced_ == 0 && !used_up) return {};
  return {.forced = end[forced_], .forbidden = {}};
}

void Sequence::append(const SampledToken& token) {
  const SamplingParams& params = request_.input().params;
  forced_ += rule().forced.has_value();
  tokens.push_back(token.id);
  const auto count = static_cast<int64_t>(generated().size());
  request_.record_token(*this, token);
  const bool ends = params.ends(token.id);
  const Channel before = text_.channel();
  std::vector<TextPiece> pieces;
  if (!ends) text_.push(token.id, count > params.min_tokens, pieces);
  reasoning_tokens_ += text_.channel() == Channel::reasoning && before == Channel::reasoning;
  emit(std::move(pieces), &token, before);
  if (ends || text_.stop_match()) {
    finish(FinishReason::stop);
  } else if (count >= request_.max_tokens) {
    finish(FinishReason::length);
  }
}

void Sequence::finish(FinishReason reason) noexcept {
  if (finished_) return;
  finished_ = true;
  try {
    std::vector<TextPiece> rest;
    text_.finish(rest);
    if (!rest.empty()) emit(std::move(rest), nullptr, text_.channel());
    if (const auto stop = text_.stop_match()) request_.record_stop(*this, *stop);
  } catch (...) {
    const Error failure = current_error();
    request_.fail(failure.status(), failure.message());
    reason = FinishReason::error;
  }
  request_.record_end(*this, reason);
}

// A token travels with the first text that it completed, if any.
void Sequence::emit(std::vector<TextPiece> pieces, const SampledToken* token, Channel channel) {
  const auto choice = static_cast<int32_t>(choice_);
  if (pieces.empty() || (token && pieces.front().call))
    pieces.insert(pieces.begin(), TextPiece{channel, {}, {}});
  for (TextPiece& piece : pieces) {
    Event event{.type = piece.call ? EventType::tool_call : EventType::text,
                .request = request_.shared_from_this(),
                .choice = choice,
                .channel = piece.channel};
    request_.record_text(*this, piece);
    event.text = std::move(piece.text);
    event.call = std::move(piece.call);
    if (token) {
      event.token_ids = {token->id};
      if (request_.input().params.logprobs) event.logprobs = {token->logprob};
      for (const TokenLogprob& top : token->top) {
        event.top_token_ids.push_back(top.id);
        event.top_logprobs.push_back(top.logprob);
      }
      token = nullptr;
    }
    request_.push(std::move(event));
  }
}

}  // namespace qwen
