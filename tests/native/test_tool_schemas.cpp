#include <doctest/doctest.h>

#include "base/error.h"
#include "text/json_text.h"
#include "text/tool_schemas.h"

using namespace qwen;

TEST_CASE("compact JSON keeps order, repeated keys and numbers as they were written") {
  CHECK(compact_json(" {\"b\" : 1.50, \"a\":[1e5, 12345678901234567890123 ], \"b\":\n{} } ") ==
        R"({"b":1.50,"a":[1e5,12345678901234567890123],"b":{}})");
  CHECK(compact_json(R"("\u00e9\/\n\u0000\ud83d\ude00")") == "\"\u00E9/\\n\\u0000\U0001F600\"");
  for (const std::string_view wrong : {"", " ", "{", "{} {}", "{\"a\":1,}", "'a'", "NaN", "True", "01", "+1",
                                       "\"\n\"", "\"\xC3\"", R"("\ud83d")"})
    CHECK_MESSAGE(!compact_json(wrong), wrong);
  CHECK(!compact_json(std::string_view("1\0", 2)));
  CHECK(compact_json(std::string(128, '[') + std::string(128, ']')));
  CHECK(!compact_json(std::string(129, '[') + std::string(129, ']')));
}

TEST_CASE("a parameter's value becomes what its schema says") {
  const ToolSchemas schemas(R"([{"type": "function", "function": {"name": "f", "parameters": {
    "type": "object",
    "$defs": {"Unit": {"enum": ["m", "km"]}, "Size": {"type": "object"}, "Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}, {"$ref": "#/$defs/Loop"}]}},
    "properties": {
      "s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"}, "b": {"type": "boolean"},
      "z": {"type": "null"}, "o": {"type": "object"}, "l": {"type": "array"},
      "i_or_s": {"type": ["string", "integer"]}, "i_or_z": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
      "s_or_z": {"oneOf": [{"type": "string"}, {"type": "null"}]}, "s_nullable": {"type": "string", "nullable": true},
      "unit": {"$ref": "#/$defs/Unit"}, "size": {"allOf": [{"$ref": "#/$defs/Size"}]}, "loop": {"$ref": "#/$defs/Loop"},
      "lost": {"$ref": "#/$defs/None"}, "level": {"enum": [1, 2, "max"]}, "fixed": {"const": true},
      "any": {}, "odd": {"type": "tensor"}, "broken": 7, "py": {"type": "list"}}}}},
    {"name": "bare", "parameters": {"properties": {"i": {"type": "integer"}}}},
    {"type": "function", "function": {"name": "empty"}}, {"name": "odd", "parameters": {"properties": []}}, {}])");
  struct Case {
    std::string_view parameter, value, json;
  };
  for (const auto& [parameter, value, json] : std::initializer_list<Case>{
           {"s", "5", R"("5")"},
           {"s", "null", R"("null")"},
           {"s", " \"a\"\n{}\x01", R"(" \"a\"\n{}\u0001")"},
           {"s", "", R"("")"},
           {"i", "5", "5"},
           {"i", " -5\n", "-5"},
           {"i", "123456789012345678901234567890", "123456789012345678901234567890"},
           {"i", "5.0", R"("5.0")"},
           {"i", "five", R"("five")"},
           {"i", "", R"("")"},
           {"i", "null", "null"},
           {"i", "None", "null"},
           {"i", "[5]", R"("[5]")"},
           {"n", "5", "5"},
           {"n", "1.50", "1.50"},
           {"n", "-1e-05", "-1e-05"},
           {"n", "nan", R"("nan")"},
           {"b", "true", "true"},
           {"b", "False", "false"},
           {"b", "yes", R"("yes")"},
           {"b", "1", R"("1")"},
           {"z", "None", "null"},
           {"z", "nil", R"("nil")"},
           {"o", "{\"b\": 1, \"a\": [true]}", R"({"b":1,"a":[true]})"},
           {"o", "[]", R"("[]")"},
           {"o", "{'a': 1}", R"("{'a': 1}")"},
           {"l", "[1, \"\u00E9\"]", "[1,\"\u00E9\"]"},
           {"py", "[1]", "[1]"},
           {"i_or_s", "5", "5"},
           {"i_or_s", "5.5", R"("5.5")"},
           {"i_or_s", "null", R"("null")"},
           {"i_or_z", "null", "null"},
           {"i_or_z", "5", "5"},
           {"s_or_z", "None", "null"},
           {"s_or_z", "5", R"("5")"},
           {"s_nullable", "null", "null"},
           {"unit", "km", R"("km")"},
           {"unit", "5", R"("5")"},
           {"size", "{}", "{}"},
           {"level", "2", "2"},
           {"level", "max", R"("max")"},
           {"fixed", "True", "true"},
           {"loop", "5", R"("5")"},
           {"lost", "5", R"("5")"},
           {"any", "5", R"("5")"},
           {"odd", "5", R"("5")"},
           {"broken", "5", R"("5")"},
           {"unknown", "5", R"("5")"},
           {"unknown", "null", R"("null")"},
       })
    CHECK_MESSAGE(schemas.argument("f", parameter, value) == json, parameter, " ", value);
  CHECK(schemas.argument("bare", "i", "5") == "5");
  CHECK(schemas.argument("empty", "i", "5") == R"("5")");
  CHECK(schemas.argument("odd", "i", "5") == R"("5")");
  CHECK(schemas.argument("unknown", "i", "5") == R"("5")");
}

TEST_CASE("without tools a parameter's value is JSON where it can be, but for strings") {
  for (const std::string_view none : {"", " \n", "[]"}) {
    const ToolSchemas schemas(none);
    CHECK(schemas.argument("f", "a", "5") == "5");
    CHECK(schemas.argument("f", "a", "[1, 2]") == "[1,2]");
    CHECK(schemas.argument("f", "a", "{}") == "{}");
    CHECK(schemas.argument("f", "a", "True") == "true");
    CHECK(schemas.argument("f", "a", "null") == "null");
    CHECK(schemas.argument("f", "a", "\"a\"") == R"("\"a\"")");
    CHECK(schemas.argument("f", "a", "007") == R"("007")");
    CHECK(schemas.argument("f", "a", "a b") == R"("a b")");
  }
}

TEST_CASE("tools that are no array of objects are refused with what would be right") {
  const auto message = [](std::string_view tools) {
    try {
      ToolSchemas schemas(tools);
    } catch (const Error& error) {
      CHECK(error.status() == Status::invalid_argument);
      return error.message();
    }
    return std::string("accepted");
  };
  CHECK(
      message("{}") ==
      "tools must be a JSON array of objects like {\"type\": \"function\", \"function\": {\"name\": \u2026, "
      "\"parameters\": {\u2026}}}, it is an object");
  CHECK(message("[{}, 5]").find("tools[1] must be an object like {\"type\"") == 0);
  CHECK(message("[{}, 5]").ends_with("it is a number"));
  CHECK(message("[").find("tools: not valid JSON at line 1") == 0);
  CHECK(message("[{}]") == "accepted");
}
