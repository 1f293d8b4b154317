#include "engine/prompt.h"

#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/utf8.h"

namespace qwen {
namespace {

constexpr std::array<std::string_view, 4> kRoles = {"system", "user", "assistant", "tool"};

void check_utf8(std::string_view what, std::string_view text) {
  if (const size_t at = utf8_error(text); at != std::string_view::npos)
    fail(Status::invalid_argument, what, " is not valid UTF-8 at byte ", at);
}

}  // namespace

void Prompt::add_text(std::string text) {
  if (has_messages()) fail(Status::invalid_argument, "a prompt of messages cannot also hold raw text");
  check_utf8("the prompt's text", text);
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

void Prompt::add_message(std::string role, std::string content) {
  if (!raw_.empty())
    fail(Status::invalid_argument, "a prompt of raw text or tokens cannot also hold messages");
  if (std::find(kRoles.begin(), kRoles.end(), role) == kRoles.end())
    fail(Status::invalid_argument, "unknown role ", quote(role),
         "; the roles are system, user, assistant, tool");
  check_utf8("the message's content", content);
  messages_.push_back({std::move(role), std::move(content)});
}

std::vector<int32_t> Prompt::encode(const LoadedModel& model, int64_t reasoning_mode) const {
  const auto tokenize = [&](std::string_view text) {
    if (!model.tokenizer)
      fail(Status::unsupported, "a text prompt needs a tokenizer, and ",
           model.path.empty() ? "the model has none" : cat(model.path, " has no tokenizer.json"),
           "; use token ids");
    return model.tokenizer->encode(text);
  };
  if (has_messages()) return tokenize(render(model, reasoning_mode));
  std::vector<int32_t> ids;
  for (const auto& part : raw_) {
    if (const auto* tokens = std::get_if<std::vector<int32_t>>(&part)) {
      ids.insert(ids.end(), tokens->begin(), tokens->end());
    } else {
      const auto encoded = tokenize(std::get<std::string>(part));
      ids.insert(ids.end(), encoded.begin(), encoded.end());
    }
  }
  return ids;
}

std::string Prompt::render(const LoadedModel& model, int64_t reasoning_mode) const {
  if (!model.chat_template)
    fail(Status::unsupported, "messages need a chat template, and ",
         model.path.empty() ? "the model has none" : cat(model.path, " has none"), "; use a raw text prompt");
  rapidjson::StringBuffer json;
  rapidjson::Writer<rapidjson::StringBuffer> writer(json);
  const auto text = [&](std::string_view value) {
    writer.String(value.data(), static_cast<unsigned>(value.size()));
  };
  writer.StartArray();
  for (const PromptMessage& message : messages_) {
    writer.StartObject();
    text("role"), text(message.role), text("content"), text(message.content);
    writer.EndObject();
  }
  writer.EndArray();
  const std::string_view variables = reasoning_mode < 0    ? "{}"
                                     : reasoning_mode == 0 ? R"({"enable_thinking": false})"
                                                           : R"({"enable_thinking": true})";
  return model.chat_template->render({json.GetString(), json.GetSize()}, "", variables, true);
}

}  // namespace qwen
