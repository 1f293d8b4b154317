#include "engine/text_stream.h"

namespace qwen {

TextStream::TextStream(std::shared_ptr<const Tokenizer> tokenizer, const RequestInput& input)
    : tokenizer_(std::move(tokenizer)), stops_(input.params.stop) {
  if (!tokenizer_) return;
  detokenizer_.emplace(*tokenizer_);
  if (!input.tools.empty()) calls_.emplace(input.tools);
  if (!input.split_reasoning) return;
  think_open_ = tokenizer_->find("<think>");
  think_close_ = tokenizer_->find("</think>");
  if (think_open_ < 0 || think_close_ < 0) think_open_ = think_close_ = -1;
  // Some templates (Qwen3-Thinking-2507) open the thought themselves at the end of the prompt.
  const int32_t turn = tokenizer_->find("<|im_start|>");
  for (size_t i = input.prompt.size(); think_open_ >= 0 && i-- > 0;) {
    if (input.prompt[i] == think_close_ || input.prompt[i] == turn) break;
    if (input.prompt[i] != think_open_) continue;
    channel_ = Channel::reasoning;
    at_start_ = true;
    break;
  }
}

void TextStream::push(int32_t token, bool may_stop, std::vector<TextPiece>& out) {
  if (!detokenizer_) return;
  may_stop_ |= may_stop;
  if (token >= 0 && token == think_close_ && channel_ == Channel::reasoning)
    return switch_to(Channel::answer);
  if (token >= 0 && token == think_open_ && channel_ == Channel::answer && !answered_)
    return switch_to(Channel::reasoning);
  std::string text;
  if (token < tokenizer_->size())
    detokenizer_->push(token, text);  // ids in the padding of the vocabulary have no text
  take(std::move(text), out);
}

void TextStream::finish(std::vector<TextPiece>& out) {
  if (!detokenizer_) return;
  std::string text;
  detokenizer_->finish(text);
  take(std::move(text), out);
  answer(stops_.finish(), out);
  if (!calls_) return;
  for (auto& piece : calls_->finish()) append(std::move(piece), out);
}

void TextStream::take(std::string text, std::vector<TextPiece>& out) {
  if (at_start_) {
    const size_t begin = text.find_first_not_of('\n');
    if (begin == std::string::npos) return;
    text.erase(0, begin);
    at_start_ = false;
  }
  if (text.empty()) return;
  if (channel_ == Channel::answer) {
    answered_ = true;
    return answer(may_stop_ ? stops_.push(text) : std::move(text), out);
  }
  text.insert(0, held_breaks_);
  const size_t end = text.find_last_not_of('\n') + 1;  // npos + 1 == 0: nothing but line breaks
  held_breaks_ = text.substr(end);
  text.resize(end);
  if (!text.empty()) out.push_back({Channel::reasoning, std::move(text), {}});
}

void TextStream::answer(std::string text, std::vector<TextPiece>& out) {
  if (text.empty()) return;
  if (!calls_) {
    out.push_back({Channel::answer, std::move(text), {}});
    return;
  }
  for (auto& piece : calls_->push(text)) append(std::move(piece), out);
}

void TextStream::append(ToolCallParser::Piece piece, std::vector<TextPiece>& out) {
  if (auto* call = std::get_if<ToolCall>(&piece)) {
    out.push_back({Channel::answer, {}, std::move(*call)});
  } else {
    out.push_back({Channel::answer, std::move(std::get<std::string>(piece)), {}});
  }
}

// The unfinished rest of the old channel can only be half a code point; it goes with the tag.
void TextStream::switch_to(Channel channel) {
  std::string rest;
  detokenizer_->finish(rest);
  held_breaks_.clear();
  channel_ = channel;
  at_start_ = true;
}

}  // namespace qwen
