// Members of one object of a configuration file, read with bounds: every error names the file, the key, the
// value and what is allowed. Configuration files are written by people and by fine-tuning scripts, so null
// counts as absent.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace qwen {

// The numbers a key may have.
struct Interval {
  enum class End { included, excluded };
  double low, high;
  End low_end = End::included, high_end = End::included;

  bool contains(double value) const;
  std::string text() const;  // "greater than 0 and at most 1"
};

// What messages call a key instead: "rope_scaling.factor" -> "qwen3.rope.scaling.factor". For JSON that was made from
// something else.
using KeyNames = std::map<std::string, std::string, std::less<>>;

class JsonFields {
 public:
  // Borrows all; `prefix` ("rope_scaling.") goes before a key in messages. Throws Error(invalid_file) when
  // `object` is not an object or holds a key twice: parsers disagree about which of the two counts.
  JsonFields(const JsonValue& object, std::string_view source, std::string prefix = {},
             const KeyNames* names = nullptr);

  const JsonValue* find(std::string_view key) const { return json_find(object_, key); }
  bool has(std::string_view key) const;  // even where it is null
  std::optional<int64_t> integer(std::string_view key, int64_t low, int64_t high) const;
  int64_t required_integer(std::string_view key, int64_t low, int64_t high) const;
  std::optional<double> number(std::string_view key, Interval allowed) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string> text(std::string_view key) const;
  // A token id or a list of them (both are in use); empty when absent.
  std::vector<int32_t> token_ids(std::string_view key) const;

  // "config.json: key 'hidden_size' is 0; it must be an integer from 1 to 16777216"
  [[noreturn]] void reject(std::string_view key, std::string_view value, std::string_view wanted,
                           Status status = Status::invalid_file) const;
  std::string_view source() const { return source_; }
  const KeyNames* names() const { return names_; }
  std::string name(std::string_view key) const;  // as messages call it: with the prefix, or by `names`

 private:
  int64_t checked_integer(std::string_view key, const JsonValue& value, int64_t low, int64_t high) const;

  const JsonValue& object_;
  std::string_view source_;
  std::string prefix_;
  const KeyNames* names_;
};

std::string json_value_text(
    const JsonValue& value);  // a number or quoted string as it is, otherwise "an array" …

}  // namespace qwen
