// What a host wants answered: an ordered list of parts, turned into tokens by the checkpoint's template and tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/loaded_model.h"

namespace qwen {

class Prompt {
 public:
  // Throw Error(invalid_argument): messages mixed with raw parts, unknown role, invalid UTF-8, JSON that is broken or of
  // the wrong form; Error(unsupported): parts that are not text.
  void add_text(std::string text);
  void add_tokens(std::vector<int32_t> ids);
  void add_message(std::string_view role, std::string_view content);
  void add_message_json(std::string_view json);  // one message or an array of them
  void set_tools(std::string_view json);
  void set_variables(std::string_view json);

  bool has_messages() const { return !messages_.empty(); }
  const std::string& tools() const { return tools_; }  // a JSON array, "" for none

  // reasoning_mode: 0 off, 1 on, -1 as the template has it. The host's own variables win over it.
  // Throw Error: invalid_argument (the template's own complaint), unsupported (no tokenizer, no template).
  std::vector<int32_t> encode(const LoadedModel& model, int64_t reasoning_mode) const;
  // The text of the same; raw token parts are decoded.
  std::string render(const LoadedModel& model, int64_t reasoning_mode) const;

 private:
  void require_messages_only() const;
  std::string render_messages(const LoadedModel& model, int64_t reasoning_mode) const;

  std::vector<std::variant<std::string, std::vector<int32_t>>> raw_;  // no two texts side by side
  std::vector<std::string> messages_;                                 // a JSON object each
  std::string tools_, variables_;                                     // JSON, "" for none
};

}  // namespace qwen
