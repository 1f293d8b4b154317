#include "checkpoint/json_fields.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace qwen {

bool Interval::contains(double value) const {
  return (low_end == End::included ? value >= low : value > low) &&
         (high_end == End::included ? value <= high : value < high);
}

std::string Interval::text() const {
  return cat(low_end == End::included ? "at least " : "greater than ", low, " and ",
             high_end == End::included ? "at most " : "less than ", high);
}

std::string json_value_text(const JsonValue& value) {
  if (value.IsString()) return quote(json_text(value));
  if (value.IsBool()) return cat(value.GetBool());
  if (value.IsInt64()) return cat(value.GetInt64());
  if (value.IsUint64()) return cat(value.GetUint64());
  if (value.IsDouble()) return cat(value.GetDouble());
  return std::string(json_kind(value));
}

JsonFields::JsonFields(const JsonValue& object, std::string_view source, std::string prefix,
                       const KeyNames* names)
    : object_(object), source_(source), prefix_(std::move(prefix)), names_(names) {
  if (!object.IsObject()) {
    const std::string what =
        prefix_.empty() ? "" : cat("key ", qwen::quote(prefix_.substr(0, prefix_.size() - 1)), ": ");
    fail(Status::invalid_file, source, ": ", what, "a JSON object is expected here, this is ",
         json_kind(object));
  }
  std::vector<std::string_view> keys;
  keys.reserve(object.MemberCount());
  for (const auto& member : object.GetObject()) keys.push_back(json_text(member.name));
  std::sort(keys.begin(), keys.end());
  const auto twice = std::adjacent_find(keys.begin(), keys.end());
  if (twice != keys.end())
    fail(Status::invalid_file, source, ": key ", qwen::quote(prefix_ + std::string(*twice)),
         " is there twice; keep the one that is meant");
}

void JsonFields::reject(std::string_view key, std::string_view value, std::string_view wanted,
                        Status status) const {
  fail(status, source_, ": key ", qwen::quote(name(key)), " is ", value, "; it must be ", wanted);
}

std::string JsonFields::name(std::string_view key) const {
  const std::string full = cat(prefix_, key);
  if (!names_) return full;
  const auto found = names_->find(full);
  return found == names_->end() ? full : found->second;
}

int64_t JsonFields::checked_integer(std::string_view key, const JsonValue& value, int64_t low,
                                    int64_t high) const {
  if (value.IsInt64() && value.GetInt64() >= low && value.GetInt64() <= high) return value.GetInt64();
  // Some exporters write 1e6 or 1000000.0 where an integer is meant.
  if (value.IsDouble()) {
    const double number = value.GetDouble();
    if (std::trunc(number) == number && std::abs(number) < 9e15 && number >= static_cast<double>(low) &&
        number <= static_cast<double>(high))
      return static_cast<int64_t>(number);
  }
  reject(key, json_value_text(value), cat("an integer from ", low, " to ", high));
}

bool JsonFields::has(std::string_view key) const {
  return object_.FindMember(JsonValue(rapidjson::StringRef(key.data(), key.size()))) != object_.MemberEnd();
}

std::optional<int64_t> JsonFields::integer(std::string_view key, int64_t low, int64_t high) const {
  const JsonValue* value = find(key);
  if (!value) return std::nullopt;
  return checked_integer(key, *value, low, high);
}

int64_t JsonFields::required_integer(std::string_view key, int64_t low, int64_t high) const {
  const auto value = integer(key, low, high);
  if (!value) reject(key, "missing", cat("an integer from ", low, " to ", high));
  return *value;
}

std::optional<double> JsonFields::number(std::string_view key, Interval allowed) const {
  const JsonValue* value = find(key);
  if (!value) return std::nullopt;
  if (!value->IsNumber() || !allowed.contains(value->GetDouble()))
    reject(key, json_value_text(*value), cat("a number ", allowed.text()));
  return value->GetDouble();
}

std::optional<bool> JsonFields::boolean(std::string_view key) const {
  const JsonValue* value = find(key);
  if (!value) return std::nullopt;
  if (!value->IsBool()) reject(key, json_value_text(*value), "true or false");
  return value->GetBool();
}

std::optional<std::string> JsonFields::text(std::string_view key) const {
  const JsonValue* value = find(key);
  if (!value) return std::nullopt;
  if (!value->IsString()) reject(key, json_value_text(*value), "a string");
  return std::string(json_text(*value));
}

std::vector<int32_t> JsonFields::token_ids(std::string_view key) const {
  static constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max();
  std::vector<int32_t> ids;
  const JsonValue* value = find(key);
  if (!value) return ids;
  if (!value->IsArray()) {
    ids.push_back(static_cast<int32_t>(checked_integer(key, *value, 0, kMaxId)));
    return ids;
  }
  ids.reserve(value->Size());
  for (const auto& id : value->GetArray()) {
    const auto checked = static_cast<int32_t>(checked_integer(key, id, 0, kMaxId));
    ids.push_back(checked);
  }
  return ids;
}

}  // namespace qwen
