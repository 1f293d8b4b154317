// Unicode properties as Hugging Face `tokenizers` sees them: categories of Unicode 16 (its regex engine),
// normalisation data of Unicode 9 (its NFC). The tables are measured from that package by unicode_tables.py.
#pragma once

#include <cstdint>
#include <span>

namespace qwen {

enum class CharClass : uint8_t {
  other = 0,    // none of the below
  letter = 1,   // \p{L}
  mark = 2,     // \p{M}
  number = 3,   // \p{N}
  space = 4,    // \s but for the next
  newline = 5,  // U+000A and U+000D, which the pre-tokenizer regexes name apart
};

// Bits of a property byte above the class.
enum : uint8_t {
  kPropertyClass = 0x07,
  kPropertyQuickCheck = 0x08,  // NFC_Quick_Check is No or Maybe
  kPropertyReorders = 0x10,    // canonical combining class is not 0
  kPropertyDecomposes = 0x20,  // has a canonical decomposition (Hangul syllables excepted)
  kPropertyComposes = 0x40,    // can join the character before it
};

struct Decomposition {
  char32_t code_point;
  uint16_t first;  // into kDecompositionText
  uint16_t count;
};

struct Composition {
  char32_t first, second, composed;
};

extern const uint16_t kPropertyIndex[0x110000 >> 7];
extern const uint8_t kPropertyBlocks[];

// `c` must be below U+110000.
inline uint8_t unicode_property(char32_t c) {
  return kPropertyBlocks[kPropertyIndex[c >> 7] << 7 | (c & 127)];
}
inline CharClass char_class(char32_t c) {
  return static_cast<CharClass>(unicode_property(c) & kPropertyClass);
}

uint8_t combining_class(char32_t c);
// The full canonical decomposition; empty when there is none, and for Hangul syllables.
std::span<const char32_t> canonical_decomposition(char32_t c);
// The code point that NFC writes for first + second, 0 when they stay apart. Hangul excepted.
char32_t canonical_composition(char32_t first, char32_t second);

}  // namespace qwen
