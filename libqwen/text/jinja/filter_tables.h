// The filters' two tables know each other.
#pragma once

#include "text/jinja/builtins.h"

namespace qwen::jinja {

struct NamedFilter {
  std::string_view name;
  FilterFunction function;
};

FilterFunction find_list_filter(std::string_view name);  // list_filters.cpp

}  // namespace qwen::jinja
