// Python's str operations on UTF-8: positions are code points, white space is Unicode's, case follows
// Unicode.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qwen::jinja {

bool valid_utf8(std::string_view text);
size_t count_code_points(std::string_view text);
// The code point at byte `at`, which moves behind it. The text must be valid UTF-8 and at < size.
char32_t next_code_point(std::string_view text, size_t& at);
void append_code_point(std::string& out, char32_t code);
// The byte offset of code point `index` (at most the length).
size_t byte_offset(std::string_view text, size_t index);
std::vector<std::string_view> code_points(std::string_view text);

bool is_space(char32_t code);      // Python's str.isspace
bool is_printable(char32_t code);  // what repr() shows as it stands

// std::string_view::find in linear time for any pair of texts (the standard one is quadratic at worst).
size_t find_text(std::string_view text, std::string_view wanted, size_t from = 0);
size_t rfind_text(std::string_view text, std::string_view wanted);
// Python's str.replace: at most `limit` times, all of them when it is negative.
size_t replaced_size(std::string_view text, std::string_view old_text, std::string_view new_text,
                     int64_t limit);
std::string replace(std::string_view text, std::string_view old_text, std::string_view new_text,
                    int64_t limit);

// strip(): white space, or every code point that occurs in `chars`.
std::string_view strip(std::string_view text, bool left, bool right);
std::string_view strip(std::string_view text, std::string_view chars, bool left, bool right);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

// Full upper case, lower case by Unicode's simple mapping (a final sigma is not told apart).
std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
bool is_upper_letter(char32_t code);  // has a lower case other than itself
bool is_lower_letter(char32_t code);

// <>&"' as HTML entities, as markupsafe writes them.
std::string escape_html(std::string_view text);

}  // namespace qwen::jinja
