#include "text/chat_messages.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/utf8.h"
#include "text/jinja/runtime.h"

namespace qwen {
namespace {

using jinja::Dict;
using jinja::Value;

constexpr std::array<std::string_view, 4> kRoles = {"system", "user", "assistant", "tool"};

Value text(std::string_view content) {
  return Value::text(std::string(content));
}

std::string to_json(const Value& value) {
  jinja::Runtime runtime("messages");
  std::string out;
  jinja::append_json(runtime, value, {}, out);
  return out;
}

void check_role(std::string_view where, std::string_view role) {
  if (std::find(kRoles.begin(), kRoles.end(), role) == kRoles.end())
    fail(Status::invalid_argument, where, "unknown role ", quote(role),
         "; the roles are system, user, assistant, tool");
}

const Value* member(const Dict& object, std::string_view name) {
  const Value* found = object.find(name);
  return found && !found->is_none() ? found : nullptr;
}

Value content_text(const std::string& where, const Value& content) {
  if (content.is_string()) return content;
  if (!content.is_sequence())
    fail(Status::invalid_argument, where, "content must be a text or a list of parts, not ",
         content.type_name());
  std::string joined;
  for (const Value& part : content.sequence().items) {
    const Value* type = part.is_dict() ? member(part.dict(), "type") : nullptr;
    if (!type || !type->is_string())
      fail(Status::invalid_argument, where,
           R"(a part of content is an object such as {"type": "text", "text": "…"})");
    if (type->view() != "text")
      fail(Status::unsupported, where, "content holds a part of type ", quote(type->view()),
           "; this version takes text parts only");
    const Value* words = member(part.dict(), "text");
    if (!words || !words->is_string())
      fail(Status::invalid_argument, where, "a text part needs its \"text\", a string");
    joined += words->view();
  }
  return text(joined);
}

// {"type": "function", "function": {"name", "arguments"}} or the function object alone, arguments as an object.
Value tool_call(const std::string& where, const Value& call) {
  const auto complain = [&](const auto&... what) { fail(Status::invalid_argument, where, what...); };
  if (!call.is_dict()) complain("a tool call must be an object, not ", call.type_name());
  const Value* wrapped = member(call.dict(), "function");
  if (wrapped && !wrapped->is_dict())
    complain("a tool call's function must be an object, not ", wrapped->type_name());
  const Dict& function = (wrapped ? *wrapped : call).dict();
  const Value* name = member(function, "name");
  if (!name || !name->is_string()) complain("a tool call needs its function's name, a string");
  const Value* given = member(function, "arguments");
  Value arguments = given ? *given : Value(jinja::DictPtr(std::make_shared<Dict>()));
  if (arguments.is_string()) {
    const std::string what = where + "the arguments of tool call " + quote(name->view());
    arguments = jinja::from_json(arguments.view(), what);
  }
  if (!arguments.is_dict())
    complain("the arguments of tool call ", quote(name->view()), " must be an object, not ",
             arguments.type_name());
  const auto changed = [](const Dict& object, std::string_view key, const Value& value) {
    auto made = std::make_shared<Dict>();
    for (const auto& [name, old] : object.items())
      if (!old.is_none()) made->set(name, old);
    made->set(text(key), value);  // at its old place when it was there
    return Value(jinja::DictPtr(std::move(made)));
  };
  const Value fixed = changed(function, "arguments", arguments);
  return wrapped ? changed(call.dict(), "function", fixed) : fixed;
}

std::string one_message(const Value& message, const std::string& where) {
  if (!message.is_dict())
    fail(Status::invalid_argument, where,
         R"(must be an object such as {"role": "user", "content": "…"}, not )", message.type_name());
  const Dict& given = message.dict();
  const Value* role = member(given, "role");
  if (!role || !role->is_string()) fail(Status::invalid_argument, where, "needs a \"role\", a string");
  check_role(where, role->view());
  const bool has_content = member(given, "content") != nullptr;
  if (!has_content && !(member(given, "tool_calls") && role->view() == "assistant"))
    fail(Status::invalid_argument, where,
         "needs a \"content\"; only an assistant's message with tool_calls goes without");
  auto made = std::make_shared<Dict>();
  for (const auto& [key, value] : given.items()) {
    if (value.is_none()) continue;
    if (key.view() == "content") {
      made->set(key, content_text(where, value));
    } else if (key.view() == "tool_calls") {
      if (!value.is_sequence()) fail(Status::invalid_argument, where, "tool_calls must be an array");
      std::vector<Value> fixed;
      for (const Value& call : value.sequence().items) fixed.push_back(tool_call(where, call));
      if (!fixed.empty()) made->set(key, Value::sequence(std::move(fixed)));
    } else {
      made->set(key, value);
    }
  }
  // As OpenAI's clients leave it beside tool_calls. Some templates, QwQ-32B's for one, have no answer to its absence.
  if (!has_content) made->set(text("content"), text(""));
  return to_json(jinja::DictPtr(std::move(made)));
}

Value read_variables(std::string_view json) {
  if (json.empty()) return jinja::DictPtr(std::make_shared<Dict>());
  const Value given = jinja::from_json(json, "template variables");
  if (!given.is_dict())
    fail(Status::invalid_argument, "template variables: must be an object, not ", given.type_name());
  return given;
}

}  // namespace

std::string chat_message(std::string_view role, std::string_view content) {
  check_role("", role);
  if (const size_t at = utf8_error(content); at != std::string_view::npos)
    fail(Status::invalid_argument, "the message's content is not valid UTF-8 at byte ", at);
  auto made = std::make_shared<Dict>();
  made->set(text("role"), text(role));
  made->set(text("content"), text(content));
  return to_json(jinja::DictPtr(std::move(made)));
}

std::vector<std::string> chat_messages(std::string_view json) {
  const Value parsed = jinja::from_json(json, "messages");
  if (!parsed.is_sequence()) return {one_message(parsed, "the message: ")};
  std::vector<std::string> messages;
  for (const Value& message : parsed.sequence().items)
    messages.push_back(one_message(message, cat("message ", messages.size(), ": ")));
  return messages;
}

std::string chat_tools(std::string_view json) {
  const Value tools = jinja::from_json(json, "tools");
  if (!tools.is_sequence())
    fail(Status::invalid_argument, "tools: must be an array of objects, not ", tools.type_name());
  size_t index = 0;
  for (const Value& tool : tools.sequence().items) {
    const Value* function = tool.is_dict() ? member(tool.dict(), "function") : nullptr;
    const Value& described = function ? *function : tool;
    const Value* name = described.is_dict() ? member(described.dict(), "name") : nullptr;
    if (!name || !name->is_string())
      fail(
          Status::invalid_argument, "tools: tool ", index,
          R"( must be {"type": "function", "function": {"name": "…", "description": "…", "parameters": {…}}})");
    ++index;
  }
  return index == 0 ? std::string() : std::string(json);
}

void check_variables(std::string_view json) {
  read_variables(json);
}

std::string with_variable(std::string_view object_json, std::string_view name, bool value) {
  Dict variables = read_variables(object_json).dict();
  if (variables.find(name)) return std::string(object_json);
  variables.set(text(name), value);
  return to_json(jinja::DictPtr(std::make_shared<Dict>(std::move(variables))));
}

}  // namespace qwen
