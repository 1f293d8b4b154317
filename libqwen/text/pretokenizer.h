// Qwen's pre-tokenizer regexes as hand-written scanners. The grammar is chosen by the regex string of
// tokenizer.json, never by a family name.
#pragma once

#include <optional>
#include <string_view>

#include "base/unicode.h"
#include "base/utf8.h"

namespace qwen {

// The two published regexes differ in one thing: whether combining marks (\p{M}) belong to words, like
// letters, or to runs of symbols.
enum class PreTokenizer {
  marks_are_symbols,  // Qwen2, 2.5, 3: ...|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|...
  marks_are_letters,  // Qwen3.5 on:    ...|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|
                      // ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|...
};

// nullopt: a regex this library has no scanner for.
std::optional<PreTokenizer> pretokenizer_of_regex(std::string_view regex);
// The regexes there are scanners for, for error messages.
std::string_view pretokenizer_regex(PreTokenizer kind);

// The end of the piece that starts at `begin` (not the end of the text). Together the pieces cover the text.
// A piece's end depends on nothing before its start. The text [begin, end) must be valid UTF-8.
template <PreTokenizer kind>
const char* next_piece(const char* begin, const char* end);

extern template const char* next_piece<PreTokenizer::marks_are_symbols>(const char*, const char*);
extern template const char* next_piece<PreTokenizer::marks_are_letters>(const char*, const char*);

}  // namespace qwen
