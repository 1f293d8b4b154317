#include "text/jinja/parser.h"

#include <initializer_list>

#include "text/jinja/lexer.h"
#include "text/jinja/parser_impl.h"
#include "text/jinja/text.h"

namespace qwen::jinja {

Parser::Parser(std::vector<Token> tokens, std::string name) : tokens_(std::move(tokens)) {
  template_ = std::make_shared<Template>();
  template_->name = std::move(name);
  template_->loop_id = intern("loop");
  template_->caller_id = intern("caller");
  template_->varargs_id = intern("varargs");
  template_->kwargs_id = intern("kwargs");
}

std::shared_ptr<const Template> Parser::run() {
  template_->body = body({}, "");
  return std::move(template_);
}

uint32_t Parser::intern(std::string_view name) {
  const auto [found, fresh] =
      ids_.try_emplace(std::string(name), static_cast<uint32_t>(template_->names.size()));
  if (fresh) template_->names.emplace_back(name);
  return found->second;
}

std::string Parser::shown(const Token& token) const {
  switch (token.type) {
    case TokenType::data:
    case TokenType::end:
      return "the end of the template";
    case TokenType::string:
      return cat("the string ", quote(token.text, 40));
    default:
      return quote(token.text, 40);
  }
}

const Token& Parser::peek(size_t ahead) const {
  return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
}

bool Parser::at_operation(std::string_view text) const {
  return peek().type == TokenType::operation && peek().text == text;
}

bool Parser::at_name(std::string_view text, size_t ahead) const {
  return peek(ahead).type == TokenType::name && peek(ahead).text == text;
}

bool Parser::skip_operation(std::string_view text) {
  const bool found = at_operation(text);
  if (found) next();
  return found;
}

bool Parser::skip_name(std::string_view text) {
  const bool found = at_name(text);
  if (found) next();
  return found;
}

void Parser::expect_operation(std::string_view text) {
  if (!skip_operation(text)) syntax_error("expected '", text, "', got ", shown(peek()));
}

std::string_view Parser::expect_name() {
  if (peek().type != TokenType::name) syntax_error("expected a name, got ", shown(peek()));
  return next().text;
}

void Parser::expect_block_end() {
  if (peek().type != TokenType::block_end) syntax_error("expected '%}', got ", shown(peek()));
  next();
}

// Statements up to one of the `ends` tags, whose name stays the next token. No ends: up to the end of the
// template.
Body Parser::body(std::initializer_list<std::string_view> ends, std::string_view inside) {
  const Deeper deeper(*this);
  const uint32_t opened = tokens_[at_ > 0 ? at_ - 1 : 0].line;
  Body body;
  for (;;) {
    const Token& token = peek();
    if (token.type == TokenType::end) {
      if (ends.size() == 0) return body;
      syntax_error("the block '", inside, "' of line ", opened, " has no end '",
                   ends.begin()[ends.size() - 1], "'");
    }
    if (token.type == TokenType::data) {
      body.push_back({token.line, Text{std::string(next().text)}});
    } else if (token.type == TokenType::variable_begin) {
      next();
      ExpressionPtr value = tuple(true);
      if (peek().type != TokenType::variable_end) syntax_error("expected '}}', got ", shown(peek()));
      next();
      body.push_back({token.line, Print{std::move(value)}});
    } else {
      next();  // {%
      if (peek().type != TokenType::name) syntax_error("expected the name of a tag, got ", shown(peek()));
      for (const std::string_view end : ends)
        if (at_name(end)) return body;
      body.push_back(statement());
      expect_block_end();
    }
  }
}

// The end of a block: the tag's name and "%}" is left for the caller of statement().
Body Parser::body_to(std::string_view end, std::string_view inside) {
  Body result = body({end}, inside);
  next();
  return result;
}

Statement Parser::statement() {
  const Token& tag = next();
  const std::string_view name = tag.text;
  const uint32_t line = tag.line;
  if (name == "if") return {line, if_statement()};
  if (name == "for") return {line, for_statement()};
  if (name == "set") return set_statement(line);
  if (name == "macro") {
    const std::string_view macro_name = expect_name();
    return {line, MacroDefinition{macro(std::string(macro_name), intern(macro_name), "macro", "endmacro")}};
  }
  if (name == "call") return {line, call_statement()};
  if (name == "filter") {
    FilterBlock block{filters_of_block(), {}};
    expect_block_end();
    block.body = body_to("endfilter", name);
    return {line, std::move(block)};
  }
  if (name == "with") return {line, with_statement()};
  if (name == "generation") {  // marks the assistant's tokens for training; its body is printed as any other
    expect_block_end();
    const size_t loops = std::exchange(loops_, 0);
    With block{{}, body_to("endgeneration", name)};
    loops_ = loops;
    return {line, std::move(block)};
  }
  if (name == "break" || name == "continue") {
    if (loops_ == 0) syntax_error("'", name, "' outside of a loop");
    if (name == "break") return {line, Break{}};
    return {line, Continue{}};
  }
  for (const std::string_view known :
       {"include", "import", "from", "extends", "block", "autoescape", "print", "do", "trans", "debug"})
    if (name == known) unsupported("the tag '", name, "' is not supported");
  syntax_error("unknown tag ", quote(name));
}

If Parser::if_statement() {
  If statement;
  for (;;) {
    ExpressionPtr condition = tuple(false);
    expect_block_end();
    statement.branches.emplace_back(std::move(condition), body({"elif", "else", "endif"}, "if"));
    if (next().text != "elif") break;
  }
  if (tokens_[at_ - 1].text == "else") {
    expect_block_end();
    statement.otherwise = body_to("endif", "if");
  }
  return statement;
}

For Parser::for_statement() {
  For loop;
  loop.target = target(false);
  if (!skip_name("in")) syntax_error("expected 'in', got ", shown(peek()));
  loop.iterable = tuple(false);
  if (skip_name("if")) loop.condition = expression();
  if (at_name("recursive")) unsupported("'recursive' loops are not supported");
  expect_block_end();
  ++loops_;
  loop.body = body({"else", "endfor"}, "for");
  --loops_;
  if (next().text == "else") {
    expect_block_end();
    loop.otherwise = body_to("endfor", "for");
  }
  return loop;
}

Statement Parser::set_statement(uint32_t line) {
  Target assigned = target(true);
  if (skip_operation("=")) return {line, Set{std::move(assigned), tuple(true)}};
  SetBlock block{std::move(assigned), {}, {}};
  if (at_operation("|")) {
    next();
    block.filters = filters_of_block();
  }
  expect_block_end();
  block.body = body_to("endset", "set");
  return {line, std::move(block)};
}

MacroPtr Parser::macro(std::string name, uint32_t id, std::string_view tag, std::string_view end) {
  auto made = std::make_shared<Macro>();
  made->id = id;
  made->name = std::move(name);
  Macro* const outer = std::exchange(macro_, made.get());
  const size_t loops = std::exchange(loops_, 0);
  if (tag == "macro" || at_operation("(")) {
    expect_operation("(");
    while (!at_operation(")")) {
      if (!made->parameters.empty()) expect_operation(",");
      made->parameter_names.emplace_back(expect_name());
      made->parameters.push_back(intern(made->parameter_names.back()));
      const bool has_default = skip_operation("=");
      if (!has_default && !made->defaults.empty() && made->defaults.back())
        syntax_error("a parameter without a default follows one with a default");
      made->defaults.push_back(has_default ? expression() : nullptr);
    }
    next();
  }
  if (tag == "macro") {
    expect_block_end();
    made->body = body_to(end, tag);
  }
  macro_ = outer;
  loops_ = loops;
  return made;
}

CallBlock Parser::call_statement() {
  // The signature comes before the called expression, which belongs to the scope outside.
  auto signature = std::const_pointer_cast<Macro>(macro("caller", template_->caller_id, "call", "endcall"));
  CallBlock block;
  block.call = expression();
  const auto* postfix = std::get_if<Postfix>(&block.call->node);
  if (!postfix || postfix->steps.back().kind != Step::Kind::call)
    syntax_error("expected a call in the tag 'call'");
  expect_block_end();
  Macro* const outer = std::exchange(macro_, signature.get());
  const size_t loops = std::exchange(loops_, 0);
  signature->body = body_to("endcall", "call");
  macro_ = outer;
  loops_ = loops;
  block.body = std::move(signature);
  return block;
}

With Parser::with_statement() {
  With block;
  while (peek().type != TokenType::block_end) {
    if (!block.variables.empty()) expect_operation(",");
    Target assigned = target(false);
    expect_operation("=");
    block.variables.emplace_back(std::move(assigned), expression());
  }
  expect_block_end();
  block.body = body_to("endwith", "with");
  return block;
}

Target Parser::single_target(bool with_namespace) {
  const Deeper deeper(*this);
  if (skip_operation("(")) {
    Target inner = target(with_namespace);
    expect_operation(")");
    return inner;
  }
  Target single;
  const Token& token = peek();
  const std::string_view name = expect_name();
  for (const std::string_view constant : {"true", "false", "none", "True", "False", "None"})
    if (name == constant) syntax_error("cannot assign to ", quote(token.text));
  single.id = intern(name);
  if (with_namespace && skip_operation(".")) {
    single.kind = Target::Kind::attribute;
    single.attribute = std::string(expect_name());
  }
  return single;
}

Target Parser::target(bool with_namespace) {
  Target first = single_target(with_namespace);
  if (!at_operation(",")) return first;
  Target all;
  all.kind = Target::Kind::tuple;
  all.items.push_back(std::move(first));
  while (skip_operation(",")) {
    if (peek().type != TokenType::name && !at_operation("(")) break;  // a comma at the end
    if (at_name("in")) break;
    all.items.push_back(single_target(with_namespace));
  }
  return all;
}

std::vector<Step> Parser::filters_of_block() {
  std::vector<Step> steps;
  do steps.push_back(filter());
  while (skip_operation("|"));
  return steps;
}

std::shared_ptr<const Template> parse_template(std::string_view source, std::string name) {
  if (source.size() > kMaxTemplateBytes)
    fail(Status::unsupported, "chat template ", name, ": ", source.size(),
         " bytes are more than the limit of ", kMaxTemplateBytes);
  if (!valid_utf8(source)) fail(Status::invalid_file, "chat template ", name, ": not valid UTF-8");
  const std::string normalized = normalize_newlines(source);
  return Parser(tokenize(normalized, name), name).run();
}

}  // namespace qwen::jinja
