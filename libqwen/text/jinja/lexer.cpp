#include "text/jinja/lexer.h"

#include <algorithm>

#include "base/error.h"
#include "text/jinja/text.h"

namespace qwen::jinja {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

class Lexer {
 public:
  Lexer(std::string_view source, std::string_view name) : source_(source), name_(name) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) root();
    push(TokenType::end, {});
    return std::move(tokens_);
  }

 private:
  template <class... Pieces>
  [[noreturn]] void error(const Pieces&... pieces) {
    fail(Status::invalid_file, "chat template ", name_, ", line ", line_, ": ", pieces...);
  }

  void push(TokenType type, std::string_view text) { tokens_.push_back({type, line_, text}); }

  // Moves on and keeps count of the lines.
  void advance_to(size_t at) {
    line_ += static_cast<uint32_t>(std::count(source_.begin() + static_cast<ptrdiff_t>(at_),
                                              source_.begin() + static_cast<ptrdiff_t>(at), '\n'));
    at_ = at;
  }

  size_t skip_space(size_t at) const {
    while (at < source_.size()) {
      size_t next = at;
      if (!is_space(next_code_point(source_, next))) break;
      at = next;
    }
    return at;
  }

  bool looking_at(size_t at, std::string_view text) const { return source_.substr(at).starts_with(text); }

  // Text up to the next tag, then that tag.
  void root() {
    size_t tag = at_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == std::string_view::npos || tag + 1 >= source_.size()) {
        push(TokenType::data, source_.substr(at_));
        advance_to(source_.size());
        return;
      }
      if (const char kind = source_[tag + 1]; kind == '{' || kind == '%' || kind == '#') break;
    }
    const char kind = source_[tag + 1];
    size_t inside = tag + 2;
    char sign = 0;
    if (inside < source_.size() && (source_[inside] == '-' || source_[inside] == '+'))
      sign = source_[inside++];
    data_before_tag(tag, sign, kind == '{');
    if (kind == '#') {
      comment(inside);
    } else if (kind == '%' && raw(inside)) {
      return;
    } else {
      push(kind == '{' ? TokenType::variable_begin : TokenType::block_begin,
           source_.substr(tag, inside - tag));
      advance_to(inside);
      expression(kind == '{');
    }
  }

  // "{%-" strips all white space before it; with lstrip_blocks a block or comment tag strips the blanks
  // between it and the start of its line, if there is nothing else, unless it says "{%+".
  void data_before_tag(size_t tag, char sign, bool variable) {
    std::string_view text = source_.substr(at_, tag - at_);
    if (sign == '-') {
      text = strip(text, false, true);
    } else if (sign != '+' && !variable) {
      const size_t newline = text.rfind('\n');
      const size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
      if ((line_start > 0 || at_line_start()) && strip(text.substr(line_start), true, false).empty())
        text = text.substr(0, line_start);
    }
    if (!text.empty()) push(TokenType::data, text);
    advance_to(tag);
  }

  bool at_line_start() const { return at_ == 0 || source_[at_ - 1] == '\n'; }

  // Behind the closing tag that starts at `at`: "-%}" eats all white space, "%}" one newline, "+%}" nothing.
  // npos when there is no closing tag here.
  size_t behind_close(size_t at, std::string_view close, bool trim_newline) const {
    if (looking_at(at, "-") && looking_at(at + 1, close)) return skip_space(at + 1 + close.size());
    if (trim_newline && looking_at(at, "+") && looking_at(at + 1, close)) return at + 1 + close.size();
    if (!looking_at(at, close)) return std::string_view::npos;
    at += close.size();
    return trim_newline && looking_at(at, "\n") ? at + 1 : at;
  }

  void comment(size_t inside) {
    size_t close = source_.find("#}", inside);
    if (close == std::string_view::npos) error("the comment has no end '#}'");
    if (close > inside && (source_[close - 1] == '-' || source_[close - 1] == '+')) --close;
    advance_to(behind_close(close, "#}", true));
  }

  // {% raw %}...{% endraw %}, whose text is printed as it stands. False when this is another block.
  bool raw(size_t inside) {
    size_t at = skip_space(inside);
    if (!looking_at(at, "raw")) return false;
    at = skip_space(at + 3);
    const bool stripped = looking_at(at, "-%}");
    if (!stripped && !looking_at(at, "%}")) return false;
    advance_to(stripped ? skip_space(at + 3) : at + 2);
    for (size_t tag = at_; (tag = source_.find("{%", tag)) != std::string_view::npos; tag += 2) {
      size_t word = tag + 2;
      char sign = 0;
      if (looking_at(word, "-") || looking_at(word, "+")) sign = source_[word++];
      word = skip_space(word);
      if (!looking_at(word, "endraw")) continue;
      const size_t behind = behind_close(skip_space(word + 6), "%}", true);
      if (behind == std::string_view::npos) continue;
      data_before_tag(tag, sign, false);
      advance_to(behind);
      return true;
    }
    error("the block 'raw' has no end 'endraw'");
  }

  // The tokens of {{ ... }} or {% ... %}, closing tag included.
  void expression(bool variable) {
    std::string open;  // the brackets that wait for their partner
    for (;;) {
      advance_to(skip_space(at_));
      if (at_ >= source_.size()) error("the template ends inside '", variable ? "{{" : "{%", "'");
      if (open.empty()) {
        const size_t behind = behind_close(at_, variable ? "}}" : "%}", !variable);
        if (behind != std::string_view::npos) {
          push(variable ? TokenType::variable_end : TokenType::block_end, variable ? "}}" : "%}");
          advance_to(behind);
          return;
        }
      }
      const char c = source_[at_];
      if (is_digit(c)) {
        number();
      } else if (is_name_char(c)) {
        size_t end = at_;
        while (end < source_.size() && is_name_char(source_[end])) ++end;
        take(TokenType::name, end);
      } else if (c == '\'' || c == '"') {
        string(c);
      } else {
        operation(open);
      }
    }
  }

  void take(TokenType type, size_t end) {
    push(type, source_.substr(at_, end - at_));
    advance_to(end);
  }

  size_t digits(size_t at) const {
    while (at < source_.size() && (is_digit(source_[at]) || (source_[at] == '_' && at + 1 < source_.size() &&
                                                             is_digit(source_[at + 1]))))
      ++at;
    return at;
  }

  void number() {
    const char base =
        at_ + 1 < source_.size() && source_[at_] == '0' ? static_cast<char>(source_[at_ + 1] | 0x20) : ' ';
    size_t end = at_;
    if (base == 'x' || base == 'o' || base == 'b') {
      end += 2;
      while (end < source_.size() && is_name_char(source_[end])) ++end;
      return take(TokenType::integer, end);
    }
    end = digits(end);
    bool real = false;
    if (end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1])) {
      end = digits(end + 1);
      real = true;
    }
    if (end < source_.size() && (source_[end] | 0x20) == 'e') {
      size_t exponent = end + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
      if (exponent < source_.size() && is_digit(source_[exponent])) {
        end = digits(exponent);
        real = true;
      }
    }
    take(real ? TokenType::real : TokenType::integer, end);
  }

  void string(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) error("the string has no closing ", quote);
    push(TokenType::string, source_.substr(at_ + 1, end - at_ - 1));
    advance_to(end + 1);
  }

  void operation(std::string& open) {
    static constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", "<=", ">="};
    for (const std::string_view two : kTwo)
      if (looking_at(at_, two)) return take(TokenType::operation, at_ + 2);
    const char c = source_[at_];
    if (std::string_view("+-*/%~<>=.:|,;()[]{}").find(c) == std::string_view::npos) {
      size_t end = at_;
      next_code_point(source_, end);
      error("unexpected character ", quote(source_.substr(at_, end - at_)));
    }
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) error("unexpected '", c, "'");
      if (open.back() != c) error("unexpected '", c, "', expected '", open.back(), "'");
      open.pop_back();
    }
    take(TokenType::operation, at_ + 1);
  }

  std::string_view source_, name_;
  size_t at_ = 0;
  uint32_t line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::string normalize_newlines(std::string_view source, bool drop_last) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (drop_last && out.ends_with('\n')) out.pop_back();
  return out;
}

std::vector<Token> tokenize(std::string_view source, std::string_view name) {
  return Lexer(source, name).run();
}

}  // namespace qwen::jinja
