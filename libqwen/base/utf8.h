// UTF-8: validation, decoding of text known to be valid, and the lossy reading of bytes that may not be.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace qwen {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// Offset of the first byte that is not part of well-formed UTF-8 (no overlong forms, no surrogates, at most
// U+10FFFF); npos when all is well.
size_t utf8_error(std::string_view text);

// Number of bytes of the code point that starts with this byte, in valid UTF-8.
inline size_t utf8_length(unsigned char lead) {
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

// The code point at p, which must be the start of one in valid UTF-8; p moves behind it.
inline char32_t utf8_next(const char*& p) {
  const auto at = [&](int i) { return static_cast<unsigned char>(p[i]); };
  const char32_t lead = at(0);
  if (lead < 0x80) {
    p += 1;
    return lead;
  }
  if (lead < 0xE0) {
    const char32_t c = (lead & 0x1F) << 6 | (at(1) & 0x3F);
    p += 2;
    return c;
  }
  if (lead < 0xF0) {
    const char32_t c = (lead & 0x0F) << 12 | (at(1) & 0x3F) << 6 | (at(2) & 0x3F);
    p += 3;
    return c;
  }
  const char32_t c = (lead & 0x07) << 18 | (at(1) & 0x3F) << 12 | (at(2) & 0x3F) << 6 | (at(3) & 0x3F);
  p += 4;
  return c;
}

void utf8_append(std::string& out, char32_t c);

// Appends `bytes` to `out` as text: each maximal beginning of a code point that can not be finished, and each
// byte that can not begin one, becomes one U+FFFD (Unicode 16, section 3.9, as in Rust's from_utf8_lossy and
// WHATWG). Stops before an unfinished code point at the end, which more bytes could complete: at most 3
// bytes. Returns the number of bytes read.
size_t utf8_append_lossy(std::string_view bytes, std::string& out);

}  // namespace qwen
