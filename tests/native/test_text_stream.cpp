#include <doctest/doctest.h>

#include "engine/text_stream.h"

using namespace qwen;

namespace {

struct Split {
  std::string answer, reasoning;
  std::vector<ToolCall> calls;
  std::optional<size_t> stop;
};

// The tokens of `text`, pushed one by one behind the tokens of `prompt`.
Split stream(const std::string& prompt, const std::string& text, std::vector<std::string> stop = {},
             const std::string& tools = "") {
  static const auto tokenizer = Tokenizer::open(std::string(QWEN_TEST_DATA) + "/tiny_tokenizer");
  RequestInput input;
  input.prompt = tokenizer->encode(prompt);
  input.split_reasoning = true;
  input.params.stop = std::move(stop);
  input.tools = tools;
  TextStream text_stream(tokenizer, input);
  std::vector<TextPiece> pieces;
  for (const int32_t id : tokenizer->encode(text)) text_stream.push(id, true, pieces);
  text_stream.finish(pieces);
  Split split;
  split.stop = text_stream.stop_match();
  for (const TextPiece& piece : pieces) {
    (piece.channel == Channel::reasoning ? split.reasoning : split.answer) += piece.text;
    if (piece.call) split.calls.push_back(*piece.call);
  }
  return split;
}

}  // namespace

TEST_CASE("what stands between the think tags is reasoning, without the tags and their line breaks") {
  const Split split =
      stream("<|im_start|>assistant\n", "<think>\nfirst\n\nsecond\n</think>\n\nThe answer.\n");
  CHECK(split.reasoning == "first\n\nsecond");
  CHECK(split.answer == "The answer.\n");
}

TEST_CASE("an empty thought leaves nothing behind") {
  const Split split = stream("<|im_start|>assistant\n", "<think>\n\n</think>\n\nHi");
  CHECK(split.reasoning.empty());
  CHECK(split.answer == "Hi");
}

TEST_CASE("a prompt that opens the thought starts in the reasoning channel") {
  const Split split = stream("<|im_start|>assistant\n<think>\n", "hm\n</think>\n\nyes");
  CHECK(split.reasoning == "hm");
  CHECK(split.answer == "yes");
}

TEST_CASE("a prompt that closed the thought, or an older turn's, does not") {
  CHECK(stream("<|im_start|>assistant\n<think>\n\n</think>\n\n", "plain").answer == "plain");
  CHECK(stream("<think>\n<|im_start|>assistant\n", "plain").answer == "plain");
}

TEST_CASE("a tag in the middle of an answer is text") {
  CHECK(stream("<|im_start|>assistant\n", "about <think> tags").answer == "about <think> tags");
}

TEST_CASE("a stop string ends the answer, not the thought, and never shows") {
  const Split split =
      stream("<|im_start|>assistant\n", "<think>\nto the end\n</think>\n\nOne, the end. More.", {"the end"});
  CHECK(split.reasoning == "to the end");
  CHECK(split.answer == "One, ");
  CHECK(split.stop == 0);
}

TEST_CASE("what only looked like a stop string comes out at the end") {
  const Split split = stream("<|im_start|>assistant\n", "to the en", {"the end"});
  CHECK(split.answer == "to the en");
  CHECK_FALSE(split.stop);
}

TEST_CASE("with tools, calls are taken out of the answer") {
  const Split split =
      stream("<|im_start|>assistant\n",
             "Let me look.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>", {},
             R"([{"name": "add"}])");
  CHECK(split.answer == "Let me look.");
  REQUIRE(split.calls.size() == 1);
  CHECK(split.calls[0].name == "add");
  CHECK(split.calls[0].arguments == R"({"a":1})");
}

TEST_CASE("without tools, a call is text") {
  const std::string call = "<tool_call>\n{\"name\": \"add\", \"arguments\": {}}\n</tool_call>";
  const Split split = stream("<|im_start|>assistant\n", call);
  CHECK(split.answer == call);
  CHECK(split.calls.empty());
}
