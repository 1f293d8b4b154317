#include "text/json_scanner.h"

#include <charconv>

#include "base/error.h"
#include "base/utf8.h"

namespace qwen {

void JsonScanner::fail_here(std::string_view what) const {
  if (at_ >= text_.size())
    fail(Status::invalid_file, source_, ": not valid JSON: ends at byte ", text_.size(), " before ", what);
  fail(Status::invalid_file, source_, ": not valid JSON at byte ", at_, ": expected ", what, ", found ",
       quote(text_.substr(at_, 16)));
}

char JsonScanner::peek() {
  while (at_ < text_.size()) {
    const char c = text_[at_];
    if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return c;
    ++at_;
  }
  return '\0';
}

bool JsonScanner::take(char c) {
  if (peek() != c || at_ >= text_.size()) return false;
  ++at_;
  return true;
}

void JsonScanner::expect(char c, std::string_view what) {
  if (!take(c)) fail_here(what);
}

std::string_view JsonScanner::string(std::string& unescaped) {
  expect('"', "a string");
  const size_t begin = at_;
  for (; at_ < text_.size(); ++at_) {
    const char c = text_[at_];
    if (c == '"') {
      ++at_;
      return text_.substr(begin, at_ - 1 - begin);
    }
    if (c == '\\') {
      unescaped.assign(text_, begin, at_ - begin);
      unescape(unescaped);
      return unescaped;
    }
    if (static_cast<unsigned char>(c) < 0x20) fail_here("no control character in a string");
  }
  fail_here("the end of a string");
}

// Reads the rest of a string, from its first backslash.
void JsonScanner::unescape(std::string& out) {
  const auto hex4 = [&] {
    uint32_t value = 0;
    const size_t last = std::min(at_ + 4, text_.size());
    const auto end = std::from_chars(text_.data() + at_, text_.data() + last, value, 16);
    if (end.ptr != text_.data() + at_ + 4) fail_here("four hexadecimal digits");
    at_ += 4;
    return value;
  };
  for (; at_ < text_.size(); ++at_) {
    const char c = text_[at_];
    if (c == '"') {
      ++at_;
      return;
    }
    if (static_cast<unsigned char>(c) < 0x20) fail_here("no control character in a string");
    if (c != '\\') {
      out += c;
      continue;
    }
    if (++at_ >= text_.size()) break;
    switch (text_[at_]) {
      case '"':
      case '\\':
      case '/':
        out += text_[at_];
        break;
      case 'b':
        out += '\b';
        break;
      case 'f':
        out += '\f';
        break;
      case 'n':
        out += '\n';
        break;
      case 'r':
        out += '\r';
        break;
      case 't':
        out += '\t';
        break;
      case 'u': {
        ++at_;
        char32_t code_point = hex4();
        if (code_point >= 0xD800 && code_point < 0xDC00 && text_.substr(at_, 2) == "\\u") {
          at_ += 2;
          const uint32_t low = hex4();
          if (low < 0xDC00 || low > 0xDFFF) fail_here("the second half of a surrogate pair");
          code_point = 0x10000 + ((code_point - 0xD800) << 10) + (low - 0xDC00);
        }
        if (code_point >= 0xD800 && code_point <= 0xDFFF) fail_here("both halves of a surrogate pair");
        utf8_append(out, code_point);
        --at_;  // the loop steps over the last character read
        break;
      }
      default:
        fail_here("an escape sequence");
    }
  }
  fail_here("the end of a string");
}

int64_t JsonScanner::integer(std::string_view what) {
  peek();
  int64_t value = 0;
  const auto end = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
  const auto length = static_cast<size_t>(end.ptr - (text_.data() + at_));
  const char after = at_ + length < text_.size() ? text_[at_ + length] : '\0';
  if (end.ec != std::errc() || after == '.' || after == 'e' || after == 'E') {
    const size_t stop = text_.find_first_of(",}]\n", at_);
    fail(Status::invalid_file, source_, ": ", what, " must be an integer, it is ",
         quote(text_.substr(at_, stop == std::string_view::npos ? stop : stop - at_)));
  }
  at_ += length;
  return value;
}

void JsonScanner::skip_value() {
  size_t depth = 0;
  do {
    switch (peek()) {
      case '"':
        for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_)
          if (text_[at_] == '\\') ++at_;
        if (at_ >= text_.size()) fail_here("the end of a string");
        ++at_;
        break;
      case '{':
      case '[':
        ++depth;
        ++at_;
        break;
      case '}':
      case ']':
        if (depth == 0) fail_here("a value");
        --depth;
        ++at_;
        break;
      case ',':
      case ':':
        if (depth == 0) fail_here("a value");
        ++at_;
        break;
      default: {  // a number or a word
        const size_t end = text_.find_first_of(" \t\r\n,:]}[{\"", at_);
        if (end == std::string_view::npos) {
          at_ = text_.size();
          fail_here("the end of a value");
        }
        if (end == at_) fail_here("a value");
        at_ = end;
      }
    }
  } while (depth > 0);
}

}  // namespace qwen
