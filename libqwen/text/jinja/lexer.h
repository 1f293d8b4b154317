// Template text -> tokens, with jinja2's rules for white space under trim_blocks and lstrip_blocks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qwen::jinja {

enum class TokenType : uint8_t {
  data,            // text that is printed as it stands
  block_begin,     // {%
  block_end,       // %}
  variable_begin,  // {{
  variable_end,    // }}
  name,
  string,  // the literal without its quotes, escapes not yet decoded
  integer,
  real,
  operation,  // + - * / // % ** ~ == != <= >= < > = . : | , ; ( ) [ ] { }
  end,
};

struct Token {
  TokenType type = TokenType::end;
  uint32_t line = 1;
  std::string_view text = {};  // points into the source
};

// \r\n and \r become \n, and one newline at the very end is dropped, as jinja2 reads a template.
std::string normalize_newlines(std::string_view source, bool drop_last = true);

// `source` is normalized and outlives the tokens. Throws Error(invalid_file) naming `name` and the line.
std::vector<Token> tokenize(std::string_view source, std::string_view name);

}  // namespace qwen::jinja
