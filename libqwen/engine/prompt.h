// What a host wants answered: an ordered list of parts, turned into tokens by the checkpoint's template and
// tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "engine/loaded_model.h"

namespace qwen {

struct PromptMessage {
  std::string role, content;
};

class Prompt {
 public:
  // Throw Error(invalid_argument): messages mixed with raw parts, unknown role, invalid UTF-8.
  void add_text(std::string text);
  void add_tokens(std::vector<int32_t> ids);
  void add_message(std::string role, std::string content);

  bool has_messages() const { return !messages_.empty(); }

  // reasoning_mode: 0 off, 1 on, -1 as the template has it.
  // Throws Error: invalid_argument (empty; the template's own complaint), unsupported (no tokenizer, no
  // template).
  std::vector<int32_t> encode(const LoadedModel& model, int64_t reasoning_mode) const;

 private:
  std::string render(const LoadedModel& model, int64_t reasoning_mode) const;

  std::vector<std::variant<std::string, std::vector<int32_t>>> raw_;  // no two texts side by side
  std::vector<PromptMessage> messages_;
};

}  // namespace qwen
