#include "base/error.h"

namespace qwen {

std::string quote(std::string_view untrusted, size_t limit) {
  static constexpr char kHex[] = "0123456789abcdef";
  const bool shortened = untrusted.size() > limit;
  if (shortened) {
    // Cut at a code point border, so that a message in valid UTF-8 stays valid.
    size_t end = limit;
    while (end > 0 && (static_cast<unsigned char>(untrusted[end]) & 0xC0) == 0x80) --end;
    untrusted = untrusted.substr(0, end);
  }
  std::string out = "'";
  for (const char c : untrusted) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  out += shortened ? "...'" : "'";
  return out;
}

}  // namespace qwen
