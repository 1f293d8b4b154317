#include "text/pretokenizer.h"

#include <array>
#include <cstddef>

namespace qwen {
namespace {

constexpr std::string_view kMarksAreSymbols =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kMarksAreLetters =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// The classes of ASCII in one cache line pair, so that English and code never touch the Unicode tables.
constexpr auto kAsciiClass = [] {
  std::array<CharClass, 128> table{};
  for (size_t c = 0; c < 128; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    table[c] = letter                                            ? CharClass::letter
               : c >= '0' && c <= '9'                            ? CharClass::number
               : c == '\r' || c == '\n'                          ? CharClass::newline
               : c == ' ' || c == '\t' || c == 0x0B || c == 0x0C ? CharClass::space
                                                                 : CharClass::other;
  }
  return table;
}();

// One code point, its class in this grammar, and where the next one starts.
struct Step {
  CharClass char_class;
  const char* next;
};

template <PreTokenizer kind>
inline Step step(const char* p) {
  const auto byte = static_cast<unsigned char>(*p);
  if (byte < 0x80) return {kAsciiClass[byte], p + 1};
  CharClass c = char_class(utf8_next(p));
  if (c == CharClass::mark)
    c = kind == PreTokenizer::marks_are_letters ? CharClass::letter : CharClass::other;
  return {c, p};
}

bool is_space(CharClass c) {
  return c == CharClass::space || c == CharClass::newline;
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d) at p, an apostrophe: the end of the match, or nullptr. The one character
// outside ASCII that equals one of these letters when case is ignored is U+017F, the long s (swept over all
// of Unicode).
const char* contraction(const char* p, const char* end) {
  // Only 'A'..'Z' and 'a'..'z' themselves can become a letter by setting bit 5: bytes of a sequence keep
  // bit 7.
  const auto lower = [&](ptrdiff_t i) { return i < end - p ? static_cast<char>(p[i] | 0x20) : '\0'; };
  switch (lower(1)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return p + 2;
    case 'r':
    case 'v':
      return lower(2) == 'e' ? p + 3 : nullptr;
    case 'l':
      return lower(2) == 'l' ? p + 3 : nullptr;
    default:
      break;
  }
  if (end - p >= 3 && p[1] == '\xC5' && p[2] == '\xBF') return p + 3;
  return nullptr;
}

template <PreTokenizer kind>
const char* skip(CharClass wanted, const char* p, const char* end) {
  while (p != end) {
    const Step s = step<kind>(p);
    if (s.char_class != wanted) break;
    p = s.next;
  }
  return p;
}

const char* skip_newlines(const char* p, const char* end) {
  while (p != end && (*p == '\r' || *p == '\n')) ++p;
  return p;
}

// White space at `begin` that no word or symbol run has taken: \s*[\r\n]+|\s+(?!\S)|\s+
template <PreTokenizer kind>
const char* space_run(const char* begin, const char* end) {
  const char* after_newline = nullptr;
  const char* last = begin;  // start of the run's last character
  const char* p = begin;
  while (p != end) {
    const Step s = step<kind>(p);
    if (!is_space(s.char_class)) break;
    last = p;
    p = s.next;
    if (s.char_class == CharClass::newline) after_newline = p;
  }
  if (after_newline) return after_newline;  // \s* gives back all behind the last newline
  if (p == end || last == begin) return p;  // nothing follows; or a single space, the last alternative
  return last;                              // (?!\S): the last space goes with what follows it
}

}  // namespace

std::optional<PreTokenizer> pretokenizer_of_regex(std::string_view regex) {
  if (regex == kMarksAreSymbols) return PreTokenizer::marks_are_symbols;
  if (regex == kMarksAreLetters) return PreTokenizer::marks_are_letters;
  return std::nullopt;
}

std::string_view pretokenizer_regex(PreTokenizer kind) {
  return kind == PreTokenizer::marks_are_letters ? kMarksAreLetters : kMarksAreSymbols;
}

template <PreTokenizer kind>
const char* next_piece(const char* begin, const char* end) {
  const Step first = step<kind>(begin);
  switch (first.char_class) {
    case CharClass::letter:
      return skip<kind>(CharClass::letter, first.next, end);
    case CharClass::number:
      return first.next;  // \p{N}: digits stand alone
    case CharClass::newline:
      return space_run<kind>(begin, end);
    default:
      break;
  }
  // A symbol or a space.
  if (*begin == '\'') {
    if (const char* found = contraction(begin, end)) return found;
  }
  const Step second = first.next == end ? Step{CharClass::newline, end} : step<kind>(first.next);
  // [^\r\n\p{L}\p{N}]?\p{L}+: any symbol or space joins the word behind it.
  if (second.char_class == CharClass::letter) return skip<kind>(CharClass::letter, second.next, end);
  // " ?[^\s\p{L}\p{N}]+[\r\n]*"
  if (first.char_class == CharClass::other)
    return skip_newlines(skip<kind>(CharClass::other, first.next, end), end);
  if (*begin == ' ' && second.char_class == CharClass::other)
    return skip_newlines(skip<kind>(CharClass::other, second.next, end), end);
  return space_run<kind>(begin, end);
}

template const char* next_piece<PreTokenizer::marks_are_symbols>(const char*, const char*);
template const char* next_piece<PreTokenizer::marks_are_letters>(const char*, const char*);

}  // namespace qwen
