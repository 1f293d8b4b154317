#include "base/json.h"

#include <rapidjson/error/en.h>
#include <rapidjson/reader.h>

#include <cmath>

namespace qwen {
namespace {

constexpr unsigned kParseFlags =
    rapidjson::kParseValidateEncodingFlag | rapidjson::kParseFullPrecisionFlag |
    rapidjson::kParseIterativeFlag;  // iterative: deep nesting cannot overflow the stack

[[noreturn]] void wrong_type(std::string_view source, std::string_view key, std::string_view wanted,
                             const JsonValue& value) {
  fail(Status::invalid_file, source, ": key ", quote(key), " must be ", wanted, ", it is ", json_kind(value));
}

}  // namespace

JsonDocument parse_json(std::string_view text, std::string_view source) {
  // RapidJSON takes a zero byte for the end of the text and would accept anything behind it.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos)
    fail(Status::invalid_file, source, ": not valid JSON at byte ", zero, ": a zero byte");
  JsonDocument document;
  document.Parse<kParseFlags>(text.data(), text.size());
  if (document.HasParseError()) {
    size_t line = 1;
    const size_t offset = std::min(document.GetErrorOffset(), text.size());
    for (const char c : text.substr(0, offset)) line += c == '\n';
    fail(Status::invalid_file, source, ": not valid JSON at line ", line, ", byte ", offset, ": ",
         rapidjson::GetParseError_En(document.GetParseError()));
  }
  return document;
}

std::string_view json_kind(const JsonValue& value) {
  switch (value.GetType()) {
    case rapidjson::kNullType:
      return "null";
    case rapidjson::kFalseType:
    case rapidjson::kTrueType:
      return "a boolean";
    case rapidjson::kNumberType:
      return "a number";
    case rapidjson::kStringType:
      return "a string";
    case rapidjson::kArrayType:
      return "an array";
    case rapidjson::kObjectType:
      return "an object";
  }
  return "unknown";
}

const JsonValue* json_find(const JsonValue& object, std::string_view key) {
  if (!object.IsObject()) return nullptr;
  const auto member = object.FindMember(
      JsonValue(rapidjson::StringRef(key.data(), static_cast<rapidjson::SizeType>(key.size()))));
  if (member == object.MemberEnd() || member->value.IsNull()) return nullptr;
  return &member->value;
}

std::optional<int64_t> json_int(const JsonValue& object, std::string_view key, std::string_view source) {
  const JsonValue* value = json_find(object, key);
  if (!value) return std::nullopt;
  if (value->IsInt64()) return value->GetInt64();
  // Some exporters write 1e6 or 1000000.0 where an integer is meant.
  if (value->IsDouble() && std::trunc(value->GetDouble()) == value->GetDouble() &&
      std::abs(value->GetDouble()) < 9e15)
    return static_cast<int64_t>(value->GetDouble());
  wrong_type(source, key, "an integer", *value);
}

std::optional<double> json_number(const JsonValue& object, std::string_view key, std::string_view source) {
  const JsonValue* value = json_find(object, key);
  if (!value) return std::nullopt;
  if (!value->IsNumber()) wrong_type(source, key, "a number", *value);
  return value->GetDouble();
}

std::optional<bool> json_bool(const JsonValue& object, std::string_view key, std::string_view source) {
  const JsonValue* value = json_find(object, key);
  if (!value) return std::nullopt;
  if (!value->IsBool()) wrong_type(source, key, "true or false", *value);
  return value->GetBool();
}

std::optional<std::string> json_string(const JsonValue& object, std::string_view key,
                                       std::string_view source) {
  const JsonValue* value = json_find(object, key);
  if (!value) return std::nullopt;
  if (!value->IsString()) wrong_type(source, key, "a string", *value);
  return std::string(json_text(*value));
}

}  // namespace qwen
