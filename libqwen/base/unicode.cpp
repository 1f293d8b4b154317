#include "base/unicode.h"

#include <algorithm>
#include <iterator>
#include <tuple>

namespace qwen {

#include "base/unicode_tables.inc"

uint8_t combining_class(char32_t c) {
  return kCccBlocks[kCccIndex[c >> 7] << 7 | (c & 127)];
}

std::span<const char32_t> canonical_decomposition(char32_t c) {
  const auto* row = std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), c,
                                     [](const Decomposition& d, char32_t key) { return d.code_point < key; });
  if (row == std::end(kDecompositions) || row->code_point != c) return {};
  return {kDecompositionText + row->first, row->count};
}

char32_t canonical_composition(char32_t first, char32_t second) {
  const auto* row = std::lower_bound(
      std::begin(kCompositions), std::end(kCompositions), std::tie(first, second),
      [](const Composition& c, const auto& key) { return std::tie(c.first, c.second) < key; });
  if (row == std::end(kCompositions) || row->first != first || row->second != second) return 0;
  return row->composed;
}

}  // namespace qwen
