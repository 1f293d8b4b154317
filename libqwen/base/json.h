// JSON for the rest of the library: RapidJSON (header-only) behind one parse function with named errors, and typed
// member access whose errors say which file and key are wrong and what would be right.
#pragma once

#include <rapidjson/document.h>

#include <cstdlib>
#include <new>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace qwen {

// RapidJSON does not look whether it was given memory: this one throws std::bad_alloc.
class JsonAllocator {
 public:
  static constexpr bool kNeedFree = true;
  static void* Malloc(size_t size) { return Realloc(nullptr, 0, size); }
  static void* Realloc(void* memory, size_t, size_t size) {
    if (size == 0) return Free(memory), nullptr;
    void* moved = std::realloc(memory, size);
    if (!moved) throw std::bad_alloc();
    return moved;
  }
  static void Free(void* memory) { std::free(memory); }
};

using JsonDocument = rapidjson::GenericDocument<rapidjson::UTF8<>,
                                                rapidjson::MemoryPoolAllocator<JsonAllocator>, JsonAllocator>;
using JsonValue = JsonDocument::ValueType;
using JsonReader = rapidjson::GenericReader<rapidjson::UTF8<>, rapidjson::UTF8<>, JsonAllocator>;

// Parses a complete JSON text (RFC 8259, UTF-8 validated, nesting bounded). `source` names the file in the error.
JsonDocument parse_json(std::string_view text, std::string_view source);

inline std::string_view json_text(const JsonValue& string) {
  return {string.GetString(), string.GetStringLength()};
}

// "null", "a boolean", "a number", "a string", "an array", "an object": for error messages.
std::string_view json_kind(const JsonValue& value);

// Member access on an object. find: nullptr when absent or null. The typed getters return nullopt when absent or
// null, and throw Error(invalid_file) when the member has another type. `source` names the file.
const JsonValue* json_find(const JsonValue& object, std::string_view key);
std::optional<int64_t> json_int(const JsonValue& object, std::string_view key, std::string_view source);
std::optional<double> json_number(const JsonValue& object, std::string_view key, std::string_view source);
std::optional<bool> json_bool(const JsonValue& object, std::string_view key, std::string_view source);
std::optional<std::string> json_string(const JsonValue& object, std::string_view key,
                                       std::string_view source);

}  // namespace qwen
