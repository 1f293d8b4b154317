// JSON text out of JSON text, without a document in between: what a model wrote is passed on in its own order and
// with its own numbers.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace qwen {

// The same value without white space: keys in their order (repeated ones too), numbers digit for digit, escapes only
// where JSON needs them. nullopt: not exactly one JSON value (RFC 8259, UTF-8, white space around it allowed), or
// arrays and objects nested deeper than 128, which readers in host languages recurse over.
std::optional<std::string> compact_json(std::string_view json);

// Appends `text`, any UTF-8, as a JSON string.
void append_json_string(std::string& out, std::string_view text);

}  // namespace qwen
