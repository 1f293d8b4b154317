// One choice's tokens into what the host reads: whole UTF-8, split into reasoning and answer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "engine/event_queue.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace qwen {

class TextStream {
 public:
  // tokenizer nullptr: tokens only, no text. split_reasoning: what stands between <think> and </think> goes
  // to the reasoning channel, without the tags and the line breaks around them; prompt: tells whether it left
  // <think> open.
  TextStream(std::shared_ptr<const Tokenizer> tokenizer, bool split_reasoning,
             std::span<const int32_t> prompt);

  // The text that this token completed, on channel(). Possibly empty.
  std::string push(int32_t token);
  // What is left at the end of the answer.
  std::string finish();
  Channel channel() const { return channel_; }

 private:
  std::string take(std::string text);
  std::string switch_to(Channel channel);

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<Detokenizer> detokenizer_;
  int32_t think_open_ = -1, think_close_ = -1;
  Channel channel_ = Channel::answer;
  bool at_start_ = false;    // of a channel that was switched to: line breaks are skipped
  bool answered_ = false;    // answer text has been seen: a later <think> is plain text
  std::string held_breaks_;  // trailing line breaks of the reasoning, dropped if </think> follows
};

}  // namespace qwen
