#include "text/chat_template.h"

#include <optional>

#include "base/json.h"
#include "base/mapped_file.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/parser.h"

namespace qwen {
namespace {

using jinja::Dict;
using jinja::DictPtr;
using jinja::Value;

constexpr std::string_view kTokenVariables[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                "pad_token", "cls_token", "mask_token"};

Value text(std::string_view content) {
  return Value::text(std::string(content));
}

// {"thinking": r, **message, "reasoning_content": r} when the message has reasoning under any of its names.
Value with_reasoning(const Value& message) {
  const Dict& given = message.dict();
  const Value* reasoning = nullptr;
  for (const std::string_view name : {"reasoning_content", "thinking", "reasoning"}) {
    const Value* found = given.find(name);
    if (!reasoning && found && !found->is_none()) reasoning = found;
  }
  if (!reasoning) return message;
  auto made = std::make_shared<Dict>();
  made->set(text("thinking"), *reasoning);
  for (const auto& [key, value] : given.items()) made->set(key, value);
  made->set(text("reasoning_content"), *reasoning);
  return DictPtr(std::move(made));
}

Value read_messages(std::string_view json) {
  const Value parsed = jinja::from_json(json, "messages");
  if (!parsed.is_sequence()) fail(Status::invalid_argument, "messages: must be an array of objects");
  std::vector<Value> messages;
  for (const Value& message : parsed.sequence().items) {
    if (!message.is_dict())
      fail(Status::invalid_argument, "messages: message ", messages.size(), " must be an object");
    messages.push_back(with_reasoning(message));
  }
  return Value::sequence(std::move(messages));
}

std::optional<MappedFile> open_if_there(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  return std::optional<MappedFile>(std::in_place, path, LoadMode::read);
}

std::string members_json(const Value& object) {
  jinja::Runtime runtime("defaults");
  std::string out;
  jinja::append_json(runtime, object, {}, out);
  return out;
}

// The special tokens of a tokenizer_config.json: texts, or objects with a "content".
std::string token_variables(const JsonDocument& config) {
  auto made = std::make_shared<Dict>();
  for (const std::string_view name : kTokenVariables) {
    const JsonValue* token = json_find(config, name);
    if (token && token->IsObject()) token = json_find(*token, "content");
    if (token && token->IsString()) made->set(text(name), text(json_text(*token)));
  }
  return members_json(DictPtr(std::move(made)));
}

// The member "chat_template" of a JSON file, nullopt when there is none.
std::optional<std::string> template_member(const JsonDocument& config, std::string_view source) {
  const JsonValue* member = json_find(config, "chat_template");
  if (!member) return std::nullopt;
  if (member->IsString()) return std::string(json_text(*member));
  if (!member->IsArray())
    fail(Status::invalid_file, source, ": key 'chat_template' must be a string or an array, it is ",
         json_kind(*member));
  for (const JsonValue& entry : member->GetArray())
    if (json_string(entry, "name", source) == "default") return json_string(entry, "template", source);
  fail(Status::invalid_file, source, ": key 'chat_template' is a list without the name 'default'");
}

}  // namespace

std::shared_ptr<const ChatTemplate> ChatTemplate::parse(std::string source, std::string name) {
  return parse(std::move(source), std::move(name), {});
}

std::shared_ptr<const ChatTemplate> ChatTemplate::parse(std::string source, std::string name,
                                                        std::string_view default_variables_json) {
  Value defaults = default_variables_json.empty()
                       ? Value(DictPtr(std::make_shared<Dict>()))
                       : jinja::from_json(default_variables_json, "template variables");
  if (!defaults.is_dict()) fail(Status::invalid_argument, "template variables: must be an object");
  auto parsed = jinja::parse_template(source, std::move(name));
  return std::shared_ptr<const ChatTemplate>(
      new ChatTemplate(std::move(source), std::move(parsed), std::move(defaults)));
}

std::string ChatTemplate::render(std::string_view messages_json, std::string_view tools_json,
                                 std::string_view variables_json, bool add_generation_prompt) const {
  Dict variables = defaults_.dict();
  variables.set(text("messages"), read_messages(messages_json));
  Value tools = tools_json.empty() ? Value() : jinja::from_json(tools_json, "tools");
  if (!tools.is_none() && !tools.is_sequence()) fail(Status::invalid_argument, "tools: must be an array");
  variables.set(text("tools"), std::move(tools));
  variables.set(text("documents"), Value());
  variables.set(text("add_generation_prompt"), add_generation_prompt);
  if (!variables_json.empty()) {
    const Value given = jinja::from_json(variables_json, "template variables");
    if (!given.is_dict()) fail(Status::invalid_argument, "template variables: must be an object");
    for (const auto& [name, value] : given.dict().items()) variables.set(name, value);
  }
  return jinja::render(*parsed_, variables);
}

std::shared_ptr<const ChatTemplate> load_chat_template(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored))
    fail(Status::not_found, "model folder ", quote(folder.string(), 400), " does not exist");
  const auto config_path = folder / "tokenizer_config.json";
  std::string variables = "{}";
  std::optional<std::string> source;
  std::string name = config_path.string();
  if (const auto file = open_if_there(config_path)) {
    const JsonDocument config = parse_json(file->text(), name);
    if (!config.IsObject())
      fail(Status::invalid_file, name, ": must be an object, it is ", json_kind(config));
    variables = token_variables(config);
    source = template_member(config, name);
  }
  if (const auto file = open_if_there(folder / "chat_template.jinja")) {
    source = std::string(file->text());
    name = file->path().string();
  } else if (const auto legacy = source ? std::nullopt : open_if_there(folder / "chat_template.json")) {
    name = legacy->path().string();
    source = template_member(parse_json(legacy->text(), name), name);
  }
  if (!source) return nullptr;
  return ChatTemplate::parse(std::move(*source), std::move(name), variables);
}

}  // namespace qwen
