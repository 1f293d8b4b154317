#include "base/utf8.h"

#include <cstdint>
#include <cstring>

namespace qwen {
namespace {

enum class Sequence { whole, broken, unfinished };

// Reads one code point at the start of `bytes` (not empty). `length` is the number of bytes it has when
// whole, and otherwise that of the maximal beginning that was well-formed (at least 1).
Sequence read_sequence(std::string_view bytes, size_t& length) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = at(0);
  length = 1;
  if (lead < 0x80) return Sequence::whole;
  if (lead < 0xC2 || lead > 0xF4) return Sequence::broken;
  const size_t wanted = utf8_length(lead);
  // The second byte is where overlong forms, surrogates and values above U+10FFFF are told apart.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (; length < wanted; ++length) {
    if (length == bytes.size()) return Sequence::unfinished;
    const unsigned char byte = at(length);
    if (length == 1 ? byte < low || byte > high : (byte & 0xC0) != 0x80) return Sequence::broken;
  }
  return Sequence::whole;
}

// Number of ASCII bytes that text begins with, to the nearest 8 below, counted 8 at a time.
size_t ascii_run(std::string_view text) {
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + i, 8);
    if (word & 0x8080808080808080u) break;
  }
  return i;
}

}  // namespace

size_t utf8_error(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      const size_t run = ascii_run(text.substr(i));
      i += run ? run : 1;
      continue;
    }
    size_t length = 0;
    if (read_sequence(text.substr(i), length) != Sequence::whole) return i;
    i += length;
  }
  return std::string_view::npos;
}

void utf8_append(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

size_t utf8_append_lossy(std::string_view bytes, std::string& out) {
  size_t i = 0;
  while (i < bytes.size()) {
    size_t length = 0;
    switch (read_sequence(bytes.substr(i), length)) {
      case Sequence::whole:
        out.append(bytes.substr(i, length));
        break;
      case Sequence::broken:
        out.append(kReplacementCharacter);
        break;
      case Sequence::unfinished:
        return i;
    }
    i += length;
  }
  return i;
}

}  // namespace qwen
