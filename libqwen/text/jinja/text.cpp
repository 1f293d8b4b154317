#include "text/jinja/text.h"

#include <string.h>

#include <algorithm>
#include <set>

#include "text/jinja/case.h"

namespace qwen::jinja {

bool valid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t size = lead < 0x80   ? 1
                        : lead < 0xC2 ? 0
                        : lead < 0xE0 ? 2
                        : lead < 0xF0 ? 3
                        : lead < 0xF5 ? 4
                                      : 0;
    if (size == 0 || i + size > text.size()) return false;
    for (size_t k = 1; k < size; ++k)
      if ((static_cast<unsigned char>(text[i + k]) & 0xC0) != 0x80) return false;
    if (size > 2) {
      size_t at = i;
      const char32_t code = next_code_point(text, at);
      if (code < (size == 3 ? 0x800U : 0x10000U) || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        return false;
    }
    i += size;
  }
  return true;
}

size_t count_code_points(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

char32_t next_code_point(std::string_view text, size_t& at) {
  const auto lead = static_cast<unsigned char>(text[at++]);
  if (lead < 0x80) return lead;
  const int more = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
  char32_t code = lead & (0x3F >> more);
  for (int k = 0; k < more && at < text.size(); ++k)
    code = (code << 6) | (static_cast<unsigned char>(text[at++]) & 0x3F);
  return code;
}

void append_code_point(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
    return;
  }
  if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
  } else {
    if (code < 0x10000) {
      out += static_cast<char>(0xE0 | (code >> 12));
    } else {
      out += static_cast<char>(0xF0 | (code >> 18));
      out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
    }
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
  }
  out += static_cast<char>(0x80 | (code & 0x3F));
}

size_t byte_offset(std::string_view text, size_t index) {
  size_t at = 0;
  for (; at < text.size(); ++at) {
    if ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) continue;
    if (index-- == 0) break;
  }
  return at;
}

std::vector<std::string_view> code_points(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    next_code_point(text, at);
    out.push_back(text.substr(start, at - start));
  }
  return out;
}

bool is_space(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x20) || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

bool is_printable(char32_t code) {
  if (code < 0x7F) return code >= 0x20;
  if (is_space(code)) return false;
  // Controls, format characters, private use and noncharacters; code points not yet assigned count as
  // printable.
  return code > 0xA0 && code != 0xAD && !(code >= 0x600 && code <= 0x605) && code != 0x61C && code != 0x6DD &&
         code != 0x70F && code != 0x180E && !(code >= 0x200B && code <= 0x200F) &&
         !(code >= 0x202A && code <= 0x202E) && !(code >= 0x2060 && code <= 0x206F) &&
         !(code >= 0xE000 && code <= 0xF8FF) && code != 0xFEFF && !(code >= 0xFFF9 && code <= 0xFFFB) &&
         (code & 0xFFFE) != 0xFFFE && code < 0xE0000;
}

namespace {

template <class InSet>
std::string_view strip_if(std::string_view text, bool left, bool right, const InSet& in_set) {
  size_t begin = 0, end = text.size();
  while (left && begin < end) {
    size_t at = begin;
    if (!in_set(next_code_point(text, at))) break;
    begin = at;
  }
  while (right && end > begin) {
    size_t at = end - 1;
    while (at > begin && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    size_t behind = at;
    if (!in_set(next_code_point(text, behind))) break;
    end = at;
  }
  return text.substr(begin, end - begin);
}

// The mapped code point, or 0 when no range holds it.
char32_t map_case(const CaseRange* ranges, size_t count, char32_t code) {
  const auto* range = std::upper_bound(ranges, ranges + count, code,
                                       [](char32_t c, const CaseRange& r) { return c < r.first; });
  if (range == ranges) return 0;
  --range;
  if (code > range->last || (code - range->first) % static_cast<unsigned>(range->stride) != 0) return 0;
  return static_cast<char32_t>(static_cast<int64_t>(code) + range->delta);
}

char32_t lower_of(char32_t code) {
  if (code < 0x80) return code >= 'A' && code <= 'Z' ? code + 32 : code;
  const char32_t mapped = map_case(kLowerRanges, kLowerRangesCount, code);
  return mapped ? mapped : code;
}

const CaseSpecial* upper_special(char32_t code) {
  const auto* end = kUpperSpecials + kUpperSpecialsCount;
  const auto* found = std::lower_bound(kUpperSpecials, end, code,
                                       [](const CaseSpecial& s, char32_t c) { return s.code < c; });
  return found != end && found->code == code ? found : nullptr;
}

void append_upper(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code >= 'a' && code <= 'z' ? code - 32 : code);
  } else if (const CaseSpecial* special = upper_special(code)) {
    for (const char32_t mapped : special->mapped)
      if (mapped) append_code_point(out, mapped);
  } else {
    const char32_t mapped = map_case(kUpperRanges, kUpperRangesCount, code);
    append_code_point(out, mapped ? mapped : code);
  }
}

void append_lower(std::string& out, char32_t code) {
  append_code_point(out, code == 0x130 ? U'i' : lower_of(code));
  if (code == 0x130) append_code_point(out, 0x307);  // the one code point whose lower case is two
}

}  // namespace

size_t find_text(std::string_view text, std::string_view wanted, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (wanted.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, wanted.data(), wanted.size());
  return found ? static_cast<size_t>(static_cast<const char*>(found) - text.data()) : std::string_view::npos;
}

size_t rfind_text(std::string_view text, std::string_view wanted) {
  // Backwards by searching the mirror image: a match of reversed bytes is a match of bytes.
  const std::string mirror(text.rbegin(), text.rend()), pattern(wanted.rbegin(), wanted.rend());
  const size_t at = find_text(mirror, pattern);
  return at == std::string_view::npos ? at : text.size() - at - wanted.size();
}

size_t replaced_size(std::string_view text, std::string_view old_text, std::string_view new_text,
                     int64_t limit) {
  size_t count = 0;
  if (old_text.empty()) {
    count = count_code_points(text) + 1;
    if (limit >= 0) count = std::min(count, static_cast<size_t>(limit));
  } else {
    for (size_t at = 0; limit != 0 && (at = find_text(text, old_text, at)) != std::string_view::npos;
         --limit, ++count)
      at += old_text.size();
  }
  return text.size() + count * new_text.size() - count * old_text.size();
}

std::string replace(std::string_view text, std::string_view old_text, std::string_view new_text,
                    int64_t limit) {
  std::string out;
  if (old_text.empty()) {  // before every character and at the end
    for (const std::string_view character : code_points(text)) {
      if (limit != 0) out += new_text, --limit;
      out += character;
    }
    if (limit != 0) out += new_text;
    return out;
  }
  size_t at = 0;
  for (; limit != 0; --limit) {
    const size_t found = find_text(text, old_text, at);
    if (found == std::string_view::npos) break;
    out += text.substr(at, found - at);
    out += new_text;
    at = found + old_text.size();
  }
  out += text.substr(at);
  return out;
}

std::string_view strip(std::string_view text, bool left, bool right) {
  return strip_if(text, left, right, is_space);
}

std::string_view strip(std::string_view text, std::string_view chars, bool left, bool right) {
  std::set<char32_t> set;
  for (size_t at = 0; at < chars.size();) set.insert(next_code_point(chars, at));
  return strip_if(text, left, right, [&](char32_t code) { return set.contains(code); });
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t here = at;
    const char32_t code = next_code_point(text, at);
    if (!((code >= 0x0A && code <= 0x0D) || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
          code == 0x2028 || code == 0x2029))
      continue;
    if (code == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(start, (keep_ends ? at : here) - start));
    start = at;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

std::string upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) append_upper(out, next_code_point(text, at));
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) append_lower(out, next_code_point(text, at));
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  size_t at = 0;
  if (!text.empty()) append_upper(out, next_code_point(text, at));
  return out + lower(text.substr(at));
}

bool is_upper_letter(char32_t code) {
  return lower_of(code) != code || code == 0x130;
}

bool is_lower_letter(char32_t code) {
  if (code < 0x80) return code >= 'a' && code <= 'z';
  return upper_special(code) || map_case(kUpperRanges, kUpperRangesCount, code) != 0;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace qwen::jinja
