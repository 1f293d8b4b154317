#include "engine/text_stream.h"

namespace qwen {

TextStream::TextStream(std::shared_ptr<const Tokenizer> tokenizer, bool split_reasoning,
                       std::span<const int32_t> prompt)
    : tokenizer_(std::move(tokenizer)) {
  if (!tokenizer_) return;
  detokenizer_.emplace(*tokenizer_);
  if (!split_reasoning) return;
  think_open_ = tokenizer_->find("<think>");
  think_close_ = tokenizer_->find("</think>");
  if (think_open_ < 0 || think_close_ < 0) think_open_ = think_close_ = -1;
  // Some templates (Qwen3-Thinking-2507) open the thought themselves at the end of the prompt.
  const int32_t turn = tokenizer_->find("<|im_start|>");
  for (size_t i = prompt.size(); think_open_ >= 0 && i-- > 0;) {
    if (prompt[i] == think_close_ || prompt[i] == turn) break;
    if (prompt[i] != think_open_) continue;
    channel_ = Channel::reasoning;
    at_start_ = true;
    break;
  }
}

std::string TextStream::push(int32_t token) {
  if (!detokenizer_) return {};
  if (token >= 0 && token == think_close_ && channel_ == Channel::reasoning)
    return switch_to(Channel::answer);
  if (token >= 0 && token == think_open_ && channel_ == Channel::answer && !answered_)
    return switch_to(Channel::reasoning);
  std::string text;
  if (token < tokenizer_->size())
    detokenizer_->push(token, text);  // ids in the padding of the vocabulary have no text
  return take(std::move(text));
}

std::string TextStream::finish() {
  if (!detokenizer_) return {};
  std::string text;
  detokenizer_->finish(text);
  return take(std::move(text));
}

std::string TextStream::take(std::string text) {
  if (at_start_) {
    const size_t begin = text.find_first_not_of('\n');
    if (begin == std::string::npos) return {};
    text.erase(0, begin);
    at_start_ = false;
  }
  if (text.empty()) return text;
  if (channel_ == Channel::answer) {
    answered_ = true;
    return text;
  }
  text.insert(0, held_breaks_);
  const size_t end = text.find_last_not_of('\n') + 1;  // npos + 1 == 0: nothing but line breaks
  held_breaks_ = text.substr(end);
  text.resize(end);
  return text;
}

// The unfinished rest of the old channel can only be half a code point; it goes with the tag.
std::string TextStream::switch_to(Channel channel) {
  std::string rest;
  detokenizer_->finish(rest);
  held_breaks_.clear();
  channel_ = channel;
  at_start_ = true;
  return {};
}

}  // namespace qwen
