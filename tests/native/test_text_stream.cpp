#include <doctest/doctest.h>

#include "engine/text_stream.h"

using namespace qwen;

namespace {

struct Split {
  std::string answer, reasoning;
};

// The tokens of `text`, pushed one by one behind the tokens of `prompt`.
Split stream(const std::string& prompt, const std::string& text) {
  static const auto tokenizer = Tokenizer::open(std::string(QWEN_TEST_DATA) + "/tiny_tokenizer");
  const auto prompt_ids = tokenizer->encode(prompt);
  TextStream text_stream(tokenizer, true, prompt_ids);
  Split split;
  const auto add = [&](const std::string& piece) {
    (text_stream.channel() == Channel::reasoning ? split.reasoning : split.answer) += piece;
  };
  for (const int32_t id : tokenizer->encode(text)) add(text_stream.push(id));
  add(text_stream.finish());
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
