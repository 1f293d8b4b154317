// Conversations, tools and template variables as a host's JSON: checked, and brought into the one form that the published
// chat templates expect.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qwen {

// One message of plain text, as a JSON object. Throws Error(invalid_argument): unknown role, invalid UTF-8.
std::string chat_message(std::string_view role, std::string_view content);

// A message or an array of messages in the form of OpenAI's chat interface; one JSON object each comes back.
//   - null members are left out, as transformers' apply_chat_template does;
//   - a content that is a list of text parts becomes their text, one after the other;
//   - a tool call's arguments given as the text of an object become that object, as the templates walk through it.
// Throws Error: invalid_argument (names the message and what would be right), unsupported (parts that are not text).
std::vector<std::string> chat_messages(std::string_view json);

// Throws Error(invalid_argument) unless it is an array of {"type": "function", "function": {"name": …}} or of bare
// function objects; an empty array comes back as "".
std::string chat_tools(std::string_view json);

// Throws Error(invalid_argument) unless it is a JSON object.
void check_variables(std::string_view json);
// The text of a JSON object ("" counts as an empty one) with `name` set to `value` where it has no such member.
std::string with_variable(std::string_view object_json, std::string_view name, bool value);

}  // namespace qwen
