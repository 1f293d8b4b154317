// What the tools' JSON schemas say about their parameters' types, as far as it takes to read a value that a model wrote
// as bare text: 5 is a number for one parameter and a house number, a string, for another.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

namespace qwen {

class ToolSchemas {
 public:
  // tools_json: an array of {"type": "function", "function": {"name", "parameters": {"properties": {…}}}}, or of bare
  // function objects; empty: no tools. Read of a parameter's schema are type (one or a list), anyOf, oneOf, allOf,
  // enum, const, nullable and a $ref into the same "parameters". What has no name is passed over. Throws
  // Error(invalid_argument) when it is not an array of objects.
  explicit ToolSchemas(std::string_view tools_json);

  // The value as JSON text. With the types that the schema allows, `value` is what JSON makes of it (Python's True,
  // False and None, too) if that is of such a type, else a string, verbatim. In detail:
  // - a string parameter is always verbatim: "5" and "null" stay strings;
  // - of several types a string is the last resort (the others exclude each other, so their order says nothing);
  // - null is taken for any parameter that cannot be a string, as vLLM and SGLang do;
  // - a parameter, or tool, that the schemas do not know is a string, as there. Without any tools (the host parses a
  //   text whose tools it does not know) everything that is JSON, but for a string, is taken as JSON.
  std::string argument(std::string_view tool, std::string_view parameter, std::string_view value) const;

 private:
  using Types = uint8_t;  // a set of JSON types
  using Parameters = std::map<std::string, Types, std::less<>>;

  Types types(std::string_view tool, std::string_view parameter) const;

  std::map<std::string, Parameters, std::less<>> tools_;
  bool no_tools_ = true;
};

}  // namespace qwen
