// Tokens -> syntax tree, by the grammar of jinja2's parser.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "text/jinja/ast.h"

namespace qwen::jinja {

inline constexpr unsigned kMaxParseDepth = 100;  // nested brackets and blocks
inline constexpr size_t kMaxTemplateBytes = size_t{4} << 20;

// Throws Error: invalid_file (a syntax error), unsupported (a tag this interpreter does not run, or a limit);
// each names the template and the line.
std::shared_ptr<const Template> parse_template(std::string_view source, std::string name);

}  // namespace qwen::jinja
