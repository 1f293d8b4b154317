// Tables behind upper() and lower(), see case.cpp. Sorted by `first`.
#pragma once

#include <cstddef>
#include <iterator>

namespace qwen::jinja {

struct CaseRange {
  char32_t first, last;
  int stride;
  int delta;  // the mapped code point minus this one
};
struct CaseSpecial {
  char32_t code;
  char32_t mapped[3];  // 0: none
};

extern const CaseRange kUpperRanges[];
extern const size_t kUpperRangesCount;
extern const CaseRange kLowerRanges[];
extern const size_t kLowerRangesCount;
extern const CaseSpecial kUpperSpecials[];
extern const size_t kUpperSpecialsCount;

}  // namespace qwen::jinja
