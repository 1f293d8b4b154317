#include "text/tool_schemas.h"

#include <rapidjson/pointer.h>

#include "base/json.h"
#include "text/json_text.h"

namespace qwen {
namespace {

constexpr uint8_t kString = 1, kInteger = 2, kNumber = 4, kBoolean = 8, kNull = 16, kObject = 32, kArray = 64;
constexpr uint8_t kAny = 127;

// JSON schema's names, and Python's, which schemas written by hand use.
uint8_t type_named(std::string_view name) {
  if (name == "string" || name == "str") return kString;
  if (name == "integer" || name == "int") return kInteger;
  if (name == "number" || name == "float") return kNumber;
  if (name == "boolean" || name == "bool") return kBoolean;
  if (name == "null") return kNull;
  if (name == "object" || name == "dict") return kObject;
  if (name == "array" || name == "list") return kArray;
  return 0;
}

uint8_t type_of(const JsonValue& value) {
  if (value.IsNull()) return kNull;
  if (value.IsBool()) return kBoolean;
  if (value.IsInt64() || value.IsUint64()) return kInteger;
  if (value.IsNumber()) return kNumber;
  return value.IsString() ? kString : value.IsObject() ? kObject : kArray;
}

// Schemas looked at for one parameter: a $ref may lead in circles, and each round may fan out.
constexpr unsigned kMaxSchemas = 256;

// What a parameter's schema allows, 0 if it says nothing. `root` is where a $ref starts.
uint8_t schema_types(const JsonValue& schema, const JsonValue& root, unsigned& seen) {
  if (!schema.IsObject() || ++seen > kMaxSchemas) return 0;
  uint8_t types = 0;
  if (const JsonValue* type = json_find(schema, "type")) {
    if (type->IsString()) types |= type_named(json_text(*type));
    if (type->IsArray())
      for (const JsonValue& one : type->GetArray())
        if (one.IsString()) types |= type_named(json_text(one));
  }
  for (const std::string_view key : {"anyOf", "oneOf", "allOf"})
    if (const JsonValue* list = json_find(schema, key); list && list->IsArray())
      for (const JsonValue& one : list->GetArray()) types |= schema_types(one, root, seen);
  if (const JsonValue* path = json_find(schema, "$ref");
      path && path->IsString() && json_text(*path).starts_with('#')) {
    // Behind the #: as a URI fragment, RapidJSON would have the $ of $defs escaped.
    JsonAllocator allocator;
    const rapidjson::GenericPointer<JsonValue, JsonAllocator> pointer(
        path->GetString() + 1, path->GetStringLength() - 1, &allocator);
    if (const JsonValue* target = pointer.IsValid() ? pointer.Get(root) : nullptr)
      types |= schema_types(*target, root, seen);
  }
  if (!types) {
    if (const JsonValue* list = json_find(schema, "enum"); list && list->IsArray())
      for (const JsonValue& one : list->GetArray()) types |= type_of(one);
    if (const JsonValue* only = json_find(schema, "const")) types |= type_of(*only);
  }
  if (const JsonValue* nullable = json_find(schema, "nullable");
      types && nullable && nullable->IsBool() && nullable->GetBool())
    types |= kNull;
  return types;
}

JsonDocument parse_tools(std::string_view tools_json) {
  constexpr std::string_view kSource = "tools";
  constexpr std::string_view kWanted = R"({"type": "function", "function": {"name": …, "parameters": {…}}})";
  JsonDocument tools;
  try {
    tools = parse_json(tools_json, kSource);
  } catch (const Error& error) {
    fail(Status::invalid_argument, error.message());  // an argument here, not a file
  }
  if (!tools.IsArray())
    fail(Status::invalid_argument, kSource, " must be a JSON array of objects like ", kWanted, ", it is ",
         json_kind(tools));
  for (const JsonValue& tool : tools.GetArray())
    if (!tool.IsObject())
      fail(Status::invalid_argument, kSource, "[", &tool - tools.Begin(), "] must be an object like ",
           kWanted, ", it is ", json_kind(tool));
  return tools;
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(" \t\r\n"), text.size());
  return text.substr(begin, text.find_last_not_of(" \t\r\n") + 1 - begin);
}

// Published templates print scalars with Python's str(), so that models learn its words.
std::string_view python_word(std::string_view text) {
  return text == "True" ? "true" : text == "False" ? "false" : text == "None" ? "null" : text;
}

// Of JSON text without white space: the types that it satisfies.
uint8_t json_types(std::string_view json) {
  switch (json.front()) {
    case '{':
      return kObject;
    case '[':
      return kArray;
    case '"':
      return kString;
    case 't':
    case 'f':
      return kBoolean;
    case 'n':
      return kNull;
    default:
      return json.find_first_of(".eE") == std::string_view::npos ? kInteger | kNumber : kNumber;
  }
}

}  // namespace

ToolSchemas::ToolSchemas(std::string_view tools_json) {
  if (trimmed(tools_json).empty()) return;
  const JsonDocument tools = parse_tools(tools_json);
  no_tools_ = tools.Empty();
  for (const JsonValue& tool : tools.GetArray()) {
    const JsonValue* wrapped = json_find(tool, "function");
    const JsonValue& function = wrapped && wrapped->IsObject() ? *wrapped : tool;
    const JsonValue* name = json_find(function, "name");
    if (!name || !name->IsString()) continue;
    Parameters& parameters = tools_[std::string(json_text(*name))];
    const JsonValue* schema = json_find(function, "parameters");
    const JsonValue* properties = schema ? json_find(*schema, "properties") : nullptr;
    if (!properties || !properties->IsObject()) continue;
    for (const auto& [key, one] : properties->GetObject()) {
      unsigned seen = 0;
      parameters.emplace(json_text(key), schema_types(one, *schema, seen));
    }
  }
}

ToolSchemas::Types ToolSchemas::types(std::string_view tool, std::string_view parameter) const {
  if (no_tools_) return kAny & ~kString;
  const auto parameters = tools_.find(tool);
  if (parameters == tools_.end()) return kString;
  const auto found = parameters->second.find(parameter);
  return found == parameters->second.end() || !found->second ? kString : found->second;
}

std::string ToolSchemas::argument(std::string_view tool, std::string_view parameter,
                                  std::string_view value) const {
  Types allowed = types(tool, parameter);
  if (allowed != kString) {
    if (!(allowed & kString)) allowed |= kNull;
    auto json = compact_json(python_word(trimmed(value)));
    if (json && (json_types(*json) & allowed & ~kString)) return std::move(*json);
  }
  std::string text;
  append_json_string(text, value);
  return text;
}

}  // namespace qwen
