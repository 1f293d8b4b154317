#include "engine/prompt.h"

#include "base/error.h"
#include "base/utf8.h"
#include "text/chat_messages.h"

namespace qwen {
namespace {

const Tokenizer& tokenizer_of(const LoadedModel& model) {
  if (!model.tokenizer)
    fail(Status::unsupported, "a text prompt needs a tokenizer, and ",
         model.path.empty() ? "the model has none" : cat(model.path, " has no tokenizer"), "; use token ids");
  return *model.tokenizer;
}

}  // namespace

void Prompt::add_text(std::string text) {
  if (has_messages()) fail(Status::invalid_argument, "a prompt of messages cannot also hold raw text");
  if (const size_t at = utf8_error(text); at != std::string_view::npos)
    fail(Status::invalid_argument, "the prompt's text is not valid UTF-8 at byte ", at);
  // Two texts side by side are one text: the tokenizer must see across the seam.
  if (!raw_.empty() && std::holds_alternative<std::string>(raw_.back())) {
    std::get<std::string>(raw_.back()) += text;
  } else {
    raw_.emplace_back(std::move(text));
  }
}

void Prompt::add_tokens(std::vector<int32_t> ids) {
  if (has_messages()) fail(Status::invalid_argument, "a prompt of messages cannot also hold raw tokens");
  raw_.emplace_back(std::move(ids));
}

void Prompt::require_messages_only() const {
  if (!raw_.empty())
    fail(Status::invalid_argument, "a prompt of raw text or tokens cannot also hold messages");
}

void Prompt::add_message(std::string_view role, std::string_view content) {
  require_messages_only();
  messages_.push_back(chat_message(role, content));
}

void Prompt::add_message_json(std::string_view json) {
  require_messages_only();
  auto messages = chat_messages(json);
  messages_.insert(messages_.end(), std::make_move_iterator(messages.begin()),
                   std::make_move_iterator(messages.end()));
}

void Prompt::set_tools(std::string_view json) {
  tools_ = chat_tools(json);
}

void Prompt::set_variables(std::string_view json) {
  check_variables(json);
  variables_ = json;
}

std::vector<int32_t> Prompt::encode(const LoadedModel& model, int64_t reasoning_mode) const {
  if (has_messages()) return tokenizer_of(model).encode(render_messages(model, reasoning_mode));
  std::vector<int32_t> ids;
  for (const auto& part : raw_) {
    if (const auto* tokens = std::get_if<std::vector<int32_t>>(&part)) {
      ids.insert(ids.end(), tokens->begin(), tokens->end());
    } else {
      const auto encoded = tokenizer_of(model).encode(std::get<std::string>(part));
      ids.insert(ids.end(), encoded.begin(), encoded.end());
    }
  }
  return ids;
}

std::string Prompt::render(const LoadedModel& model, int64_t reasoning_mode) const {
  if (has_messages()) return render_messages(model, reasoning_mode);
  std::string text;
  for (const auto& part : raw_) {
    if (const auto* tokens = std::get_if<std::vector<int32_t>>(&part)) {
      text += tokenizer_of(model).decode(*tokens, false);
    } else {
      text += std::get<std::string>(part);
    }
  }
  return text;
}

std::string Prompt::render_messages(const LoadedModel& model, int64_t reasoning_mode) const {
  if (model.chat_template_error) throw *model.chat_template_error;
  if (!model.chat_template)
    fail(Status::unsupported, "messages need a chat template, and ",
         model.path.empty() ? "the model has none" : cat(model.path, " has none"), "; use a raw text prompt");
  std::string messages = "[";
  for (const std::string& message : messages_) messages += (messages.size() > 1 ? "," : "") + message;
  messages += "]";
  // enable_thinking is the switch of every published template that has one.
  const std::string variables =
      reasoning_mode < 0 ? variables_ : with_variable(variables_, "enable_thinking", reasoning_mode == 1);
  return model.chat_template->render(messages, tools_, variables, true);
}

}  // namespace qwen
