#include <charconv>

#include "text/jinja/parser_impl.h"
#include "text/jinja/text.h"

namespace qwen::jinja {
namespace {

template <class Node>
ExpressionPtr make(uint32_t line, Node node) {
  return std::make_unique<const Expression>(Expression{line, std::move(node)});
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Python's unicode_escape, which jinja2 applies to string literals. Empty when it is fine, else what is
// wrong.
std::string decode_escapes(std::string_view raw, std::string& out) {
  static constexpr std::string_view kLetters = "abfnrtv\\'\"", kMeanings = "\a\b\f\n\r\t\v\\'\"";
  for (size_t i = 0; i < raw.size();) {
    if (raw[i] != '\\' || i + 1 >= raw.size()) {
      out += raw[i++];
      continue;
    }
    const char kind = raw[i + 1];
    i += 2;
    if (const size_t letter = kLetters.find(kind); letter != std::string_view::npos) {
      out += kMeanings[letter];
    } else if (kind == '\n') {
      // a line that goes on
    } else if (kind >= '0' && kind <= '7') {
      char32_t code = static_cast<char32_t>(kind - '0');
      for (int k = 0; k < 2 && i < raw.size() && raw[i] >= '0' && raw[i] <= '7'; ++k)
        code = code * 8 + static_cast<char32_t>(raw[i++] - '0');
      append_code_point(out, code);
    } else if (kind == 'x' || kind == 'u' || kind == 'U') {
      const int digits = kind == 'x' ? 2 : kind == 'u' ? 4 : 8;
      char32_t code = 0;
      for (int k = 0; k < digits; ++k) {
        const int digit = i < raw.size() ? hex_digit(raw[i]) : -1;
        if (digit < 0) return cat("'\\", kind, "' needs ", digits, " hexadecimal digits");
        code = code * 16 + static_cast<char32_t>(digit);
        ++i;
      }
      if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
        return "an escape that is no Unicode character";
      append_code_point(out, code);
    } else if (kind == 'N') {
      return "'\\N{...}' is not supported";
    } else if (static_cast<unsigned char>(kind) >= 0x80) {
      // jinja2 writes the character as an escape first, whose backslash then pairs with the one before it.
      size_t end = i - 1;
      const char32_t code = next_code_point(raw, end);
      const int digits = code < 0x100 ? 2 : code < 0x10000 ? 4 : 8;
      out += digits == 2 ? "\\x" : digits == 4 ? "\\u" : "\\U";
      for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4)
        out += "0123456789abcdef"[(code >> shift) & 15];
      i = end;
    } else {
      out += '\\';
      out += kind;
    }
  }
  return {};
}

}  // namespace

ExpressionPtr Parser::with_steps(ExpressionPtr base, std::vector<Step> steps, uint32_t line) {
  if (steps.empty()) return base;
  return make(line, Postfix{std::move(base), std::move(steps)});
}

ExpressionPtr Parser::tuple(bool conditional, bool parenthesized) {
  const uint32_t line = peek().line;
  std::vector<ExpressionPtr> items;
  bool is_tuple = false;
  for (;;) {
    const TokenType type = peek().type;
    if (type == TokenType::variable_end || type == TokenType::block_end || at_operation(")")) break;
    items.push_back(expression(conditional));
    if (!skip_operation(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && items.empty() && !parenthesized)
    syntax_error("expected an expression, got ", shown(peek()));
  if (!is_tuple && !items.empty()) return std::move(items[0]);
  return make(line, ListLiteral{std::move(items), true});
}

ExpressionPtr Parser::expression(bool conditional) {
  const Deeper deeper(*this);
  return conditional ? conditional_expression() : logical_or();
}

ExpressionPtr Parser::conditional_expression() {
  ExpressionPtr value = logical_or();
  // "a if b if c ..." nests to the left, a level each time round.
  for (unsigned chained = depth_; at_name("if"); ++chained) {
    if (chained > kMaxParseDepth) unsupported("the limit of ", kMaxParseDepth, " nested 'if' is reached");
    const uint32_t line = next().line;
    ExpressionPtr condition = logical_or();
    ExpressionPtr otherwise = skip_name("else") ? expression() : nullptr;
    value = make(line, Conditional{std::move(condition), std::move(value), std::move(otherwise)});
  }
  return value;
}

ExpressionPtr Parser::logical_or() {
  const uint32_t line = peek().line;
  std::vector<ExpressionPtr> operands;
  do operands.push_back(logical_and());
  while (skip_name("or"));
  return operands.size() == 1 ? std::move(operands[0]) : make(line, Logical{false, std::move(operands)});
}

ExpressionPtr Parser::logical_and() {
  const uint32_t line = peek().line;
  std::vector<ExpressionPtr> operands;
  do operands.push_back(logical_not());
  while (skip_name("and"));
  return operands.size() == 1 ? std::move(operands[0]) : make(line, Logical{true, std::move(operands)});
}

ExpressionPtr Parser::logical_not() {
  const uint32_t line = peek().line;
  size_t count = 0;
  while (skip_name("not")) ++count;
  ExpressionPtr value = comparison();
  if (count == 0) return value;
  value = make(line, Not{std::move(value)});
  return count % 2 ? std::move(value) : make(line, Not{std::move(value)});
}

ExpressionPtr Parser::comparison() {
  static constexpr std::pair<std::string_view, CompareOp> kOperations[] = {
      {"==", CompareOp::equal},         {"!=", CompareOp::not_equal}, {"<=", CompareOp::less_equal},
      {">=", CompareOp::greater_equal}, {"<", CompareOp::less},       {">", CompareOp::greater}};
  const uint32_t line = peek().line;
  Comparison node{sum(), {}};
  for (;;) {
    const CompareOp* operation = nullptr;
    static constexpr CompareOp kIn = CompareOp::in, kNotIn = CompareOp::not_in;
    for (const auto& [text, value] : kOperations)
      if (!operation && skip_operation(text)) operation = &value;
    if (!operation && skip_name("in")) operation = &kIn;
    if (!operation && at_name("not") && at_name("in", 1)) {
      next();
      next();
      operation = &kNotIn;
    }
    if (!operation) break;
    node.rest.emplace_back(*operation, sum());
  }
  if (node.rest.empty()) return std::move(node.first);
  return make(line, std::move(node));
}

ExpressionPtr Parser::sum() {
  const uint32_t line = peek().line;
  Arithmetic node{concat(), {}};
  while (at_operation("+") || at_operation("-")) {
    const auto operation = next().text == "+" ? ArithmeticOp::add : ArithmeticOp::subtract;
    node.rest.emplace_back(operation, concat());
  }
  if (node.rest.empty()) return std::move(node.first);
  return make(line, std::move(node));
}

ExpressionPtr Parser::concat() {
  const uint32_t line = peek().line;
  std::vector<ExpressionPtr> parts;
  do parts.push_back(product());
  while (skip_operation("~"));
  return parts.size() == 1 ? std::move(parts[0]) : make(line, Concat{std::move(parts)});
}

ExpressionPtr Parser::product() {
  const uint32_t line = peek().line;
  Arithmetic node{power(), {}};
  for (;;) {
    ArithmeticOp operation;
    if (skip_operation("*"))
      operation = ArithmeticOp::multiply;
    else if (skip_operation("/"))
      operation = ArithmeticOp::divide;
    else if (skip_operation("//"))
      operation = ArithmeticOp::floor_divide;
    else if (skip_operation("%"))
      operation = ArithmeticOp::modulo;
    else
      break;
    node.rest.emplace_back(operation, power());
  }
  if (node.rest.empty()) return std::move(node.first);
  return make(line, std::move(node));
}

ExpressionPtr Parser::power() {
  const uint32_t line = peek().line;
  Arithmetic node{unary(), {}};
  while (skip_operation("**")) node.rest.emplace_back(ArithmeticOp::power, unary());
  if (node.rest.empty()) return std::move(node.first);
  return make(line, std::move(node));
}

// Signs bind the operand with its lookups and calls; filters and tests apply to the signed value, as in
// jinja2.
ExpressionPtr Parser::unary() {
  const uint32_t line = peek().line;
  std::string signs;
  while (at_operation("-") || at_operation("+")) signs += next().text;
  ExpressionPtr value = primary();
  std::vector<Step> steps;
  while (lookup_step(steps)) {
  }
  if (!signs.empty()) {
    value = make(line, Sign{std::move(signs), with_steps(std::move(value), std::exchange(steps, {}), line)});
    while (lookup_step(steps)) {
    }
  }
  for (;;) {
    if (skip_operation("|"))
      steps.push_back(filter());
    else if (at_name("is"))
      steps.push_back(test());
    else if (!at_operation("(") || !lookup_step(steps))
      break;
  }
  return with_steps(std::move(value), std::move(steps), line);
}

ExpressionPtr Parser::primary() {
  const Token& token = peek();
  if (token.type == TokenType::string) return literal_string();
  if (token.type == TokenType::integer) return literal_integer(next());
  if (token.type == TokenType::real) return literal_real(next());
  if (token.type == TokenType::name) {
    const std::string_view name = next().text;
    if (name == "true" || name == "True") return make(token.line, Constant{true});
    if (name == "false" || name == "False") return make(token.line, Constant{false});
    if (name == "none" || name == "None") return make(token.line, Constant{});
    const uint32_t id = intern(name);
    if (macro_) {
      macro_->uses_caller |= id == template_->caller_id;
      macro_->uses_varargs |= id == template_->varargs_id;
      macro_->uses_kwargs |= id == template_->kwargs_id;
    }
    return make(token.line, Name{id});
  }
  if (skip_operation("(")) {
    ExpressionPtr value = tuple(true, true);
    expect_operation(")");
    return value;
  }
  if (at_operation("[")) return literal_list();
  if (at_operation("{")) return literal_dict();
  syntax_error("expected an expression, got ", shown(token));
}

ExpressionPtr Parser::literal_string() {
  const uint32_t line = peek().line;
  std::string text;
  while (peek().type == TokenType::string) {  // neighbouring literals are one
    const std::string wrong = decode_escapes(peek().text, text);
    if (!wrong.empty()) unsupported("string literal: ", wrong);
    next();
  }
  return make(line, Constant{Value::text(std::move(text))});
}

ExpressionPtr Parser::literal_integer(const Token& token) {
  std::string digits;
  for (const char c : token.text)
    if (c != '_') digits += c;
  const char kind = digits.size() > 1 ? static_cast<char>(digits[1] | 0x20) : '0';
  const int base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
  const char* const begin = digits.data() + (base == 10 ? 0 : 2);
  const char* const end = digits.data() + digits.size();
  int64_t value = 0;
  const auto parsed = std::from_chars(begin, end, value, base);
  if (parsed.ec == std::errc::result_out_of_range)
    unsupported("the integer ", quote(token.text), " exceeds 64 bits");
  if (parsed.ec != std::errc() || parsed.ptr != end) syntax_error("not an integer: ", quote(token.text));
  return make(token.line, Constant{value});
}

ExpressionPtr Parser::literal_real(const Token& token) {
  std::string digits;
  for (const char c : token.text)
    if (c != '_') digits += c;
  double value = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (parsed.ec != std::errc()) unsupported("the number ", quote(token.text), " is out of range");
  return make(token.line, Constant{value});
}

ExpressionPtr Parser::literal_list() {
  const uint32_t line = next().line;
  std::vector<ExpressionPtr> items;
  while (!at_operation("]")) {
    if (!items.empty()) expect_operation(",");
    if (at_operation("]")) break;
    items.push_back(expression());
  }
  next();
  return make(line, ListLiteral{std::move(items), false});
}

ExpressionPtr Parser::literal_dict() {
  const uint32_t line = next().line;
  DictLiteral node;
  while (!at_operation("}")) {
    if (!node.items.empty()) expect_operation(",");
    if (at_operation("}")) break;
    ExpressionPtr key = expression();
    expect_operation(":");
    node.items.emplace_back(std::move(key), expression());
  }
  next();
  return make(line, std::move(node));
}

// .name, .0, [...] or (...), if one of them is next.
bool Parser::lookup_step(std::vector<Step>& steps) {
  const uint32_t line = peek().line;
  if (skip_operation(".")) {
    if (peek().type == TokenType::integer) {
      steps.push_back({.kind = Step::Kind::subscript, .line = line, .start = literal_integer(next())});
    } else {
      steps.push_back({.kind = Step::Kind::attribute, .line = line, .name = std::string(expect_name())});
    }
    return true;
  }
  if (skip_operation("[")) {
    subscript_steps(steps);
    return true;
  }
  if (at_operation("(")) {
    steps.push_back({.kind = Step::Kind::call, .line = line, .arguments = arguments()});
    return true;
  }
  return false;
}

// Behind "[": an expression, or start:stop:stride of which each may be left out. "a[i, j]" is refused.
void Parser::subscript_steps(std::vector<Step>& steps) {
  Step step{.kind = Step::Kind::subscript, .line = peek().line};
  if (!at_operation(":")) step.start = expression();
  if (skip_operation(":")) {
    step.kind = Step::Kind::slice;
    if (!at_operation("]") && !at_operation(":")) step.stop = expression();
    if (skip_operation(":") && !at_operation("]")) step.stride = expression();
  }
  if (at_operation(",")) unsupported("a subscript with several indices is not supported");
  expect_operation("]");
  steps.push_back(std::move(step));
}

Arguments Parser::arguments() {
  Arguments result;
  expect_operation("(");
  bool first = true;
  while (!at_operation(")")) {
    if (!std::exchange(first, false)) expect_operation(",");
    if (at_operation(")")) break;
    if (at_operation("*") || at_operation("**"))
      unsupported("'", peek().text, "' in a call's arguments is not supported");
    if (peek().type == TokenType::name && peek(1).type == TokenType::operation && peek(1).text == "=") {
      std::string name(next().text);
      next();
      result.named.emplace_back(std::move(name), expression());
    } else {
      if (!result.named.empty()) syntax_error("a positional argument follows a named one");
      result.positional.push_back(expression());
    }
  }
  next();
  return result;
}

Step Parser::filter() {
  Step step{.kind = Step::Kind::filter, .line = peek().line, .name = std::string(expect_name())};
  while (skip_operation(".")) step.name += cat(".", expect_name());
  step.filter = find_filter(step.name);
  if (at_operation("(")) step.arguments = arguments();
  return step;
}

Step Parser::test() {
  const uint32_t line = next().line;  // is
  Step step{.kind = Step::Kind::test,
            .negated = skip_name("not"),
            .line = line,
            .name = std::string(expect_name())};
  while (skip_operation(".")) step.name += cat(".", expect_name());
  step.test = find_test(step.name);
  const TokenType type = peek().type;
  if (at_operation("(")) {
    step.arguments = arguments();
  } else if (type == TokenType::string || type == TokenType::integer || type == TokenType::real ||
             at_operation("[") || at_operation("{") ||
             (type == TokenType::name && !at_name("else") && !at_name("or") && !at_name("and"))) {
    // "is divisibleby 3": one argument without parentheses
    if (at_name("is")) syntax_error("tests cannot be chained with 'is'");
    const Deeper deeper(*this);
    ExpressionPtr argument = primary();
    std::vector<Step> steps;
    while (lookup_step(steps)) {
    }
    step.arguments.positional.push_back(with_steps(std::move(argument), std::move(steps), line));
  }
  return step;
}

}  // namespace qwen::jinja
