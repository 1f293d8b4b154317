// One choice's tokens into what the host reads: whole UTF-8, parted into reasoning, answer and tool calls, up to a stop
// string.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/event_queue.h"
#include "engine/request_input.h"
#include "text/detokenizer.h"
#include "text/stop_strings.h"
#include "text/tokenizer.h"
#include "text/tool_calls.h"

namespace qwen {

// Text of a channel, or a tool call.
struct TextPiece {
  Channel channel = Channel::answer;
  std::string text;
  std::optional<ToolCall> call;
};

class TextStream {
 public:
  // tokenizer nullptr: tokens only, no text. With split_reasoning, what stands between <think> and </think> goes to the
  // reasoning channel, without the tags and the line breaks around them; the prompt tells whether it left <think> open.
  // Stop strings and tool calls are looked for in the answer only.
  TextStream(std::shared_ptr<const Tokenizer> tokenizer, const RequestInput& input);

  // Appends what this token completed, possibly nothing. may_stop: stop strings count from this token on (once true,
  // always).
  void push(int32_t token, bool may_stop, std::vector<TextPiece>& out);
  // What is left at the end of the choice.
  void finish(std::vector<TextPiece>& out);

  Channel channel() const { return channel_; }
  // The token that begins a thought; nullopt where thoughts are not looked for.
  std::optional<int32_t> opening_tag() const {
    return think_open_ < 0 ? std::nullopt : std::optional(think_open_);
  }
  // Index of the stop string that has ended the answer.
  std::optional<size_t> stop_match() const { return stops_.matched(); }

 private:
  void take(std::string text, std::vector<TextPiece>& out);
  void answer(std::string text, std::vector<TextPiece>& out);
  static void append(ToolCallParser::Piece piece, std::vector<TextPiece>& out);
  void switch_to(Channel channel);

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<Detokenizer> detokenizer_;
  StopStrings stops_;
  std::optional<ToolCallParser> calls_;
  int32_t think_open_ = -1, think_close_ = -1;
  Channel channel_ = Channel::answer;
  bool may_stop_ = false;
  bool at_start_ = false;    // of a channel that was switched to: line breaks are skipped
  bool answered_ = false;    // answer text has been seen: a later <think> is plain text
  std::string held_breaks_;  // trailing line breaks of the reasoning, dropped if </think> follows
};

}  // namespace qwen
