// Runs a parsed template: one Interpreter per rendering.
#pragma once

#include <string>

#include "text/jinja/ast.h"
#include "text/jinja/runtime.h"

namespace qwen::jinja {

// The template's text for these variables. Throws Error: invalid_argument (what the template refuses, or
// Python would), unsupported (a construct or a limit); each names the template and the line.
std::string render(const Template& parsed, const Dict& variables);

}  // namespace qwen::jinja
