// The parser's insides, shared by parser.cpp (tags) and expression_parser.cpp (expressions) only.
#pragma once

#include <algorithm>
#include <unordered_map>

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"
#include "text/jinja/parser.h"

namespace qwen::jinja {

class Parser {
 public:
  Parser(std::vector<Token> tokens, std::string name);
  std::shared_ptr<const Template> run();

 private:
  class Deeper {  // one level of nesting
   public:
    explicit Deeper(Parser& parser) : parser_(parser) {
      if (parser.depth_ >= kMaxParseDepth)
        parser.unsupported("the limit of ", kMaxParseDepth, " nested brackets and blocks is reached");
      ++parser.depth_;
    }
    ~Deeper() { --parser_.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    Parser& parser_;
  };

  template <class... Pieces>
  [[noreturn]] void syntax_error(const Pieces&... pieces) const {
    fail(Status::invalid_file, "chat template ", template_->name, ", line ", peek().line, ": ", pieces...);
  }
  template <class... Pieces>
  [[noreturn]] void unsupported(const Pieces&... pieces) const {
    fail(Status::unsupported, "chat template ", template_->name, ", line ", peek().line, ": ", pieces...);
  }
  std::string shown(const Token& token) const;
  uint32_t intern(std::string_view name);

  const Token& peek(size_t ahead = 0) const;
  const Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool at_operation(std::string_view text) const;
  bool at_name(std::string_view text, size_t ahead = 0) const;
  bool skip_operation(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_operation(std::string_view text);
  std::string_view expect_name();
  void expect_block_end();

  Body body(std::initializer_list<std::string_view> ends, std::string_view inside);
  Body body_to(std::string_view end, std::string_view inside);
  Statement statement();
  If if_statement();
  For for_statement();
  Statement set_statement(uint32_t line);
  MacroPtr macro(std::string name, uint32_t id, std::string_view tag, std::string_view end);
  CallBlock call_statement();
  With with_statement();
  Target single_target(bool with_namespace);
  Target target(bool with_namespace);
  std::vector<Step> filters_of_block();

  // `conditional`: whether "a if b else c" is taken as one expression here (not behind "for x in" and "if").
  ExpressionPtr tuple(bool conditional, bool parenthesized = false);
  ExpressionPtr expression(bool conditional = true);
  ExpressionPtr conditional_expression();
  ExpressionPtr logical_or();
  ExpressionPtr logical_and();
  ExpressionPtr logical_not();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concat();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr unary();
  ExpressionPtr primary();
  ExpressionPtr literal_string();
  ExpressionPtr literal_integer(const Token& token);
  ExpressionPtr literal_real(const Token& token);
  ExpressionPtr literal_list();
  ExpressionPtr literal_dict();
  bool lookup_step(std::vector<Step>& steps);
  void subscript_steps(std::vector<Step>& steps);
  Arguments arguments();
  Step filter();
  Step test();
  static ExpressionPtr with_steps(ExpressionPtr base, std::vector<Step> steps, uint32_t line);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  unsigned depth_ = 0;
  size_t loops_ = 0;        // loops around the current statement, inside the current macro
  Macro* macro_ = nullptr;  // the macro around the current statement
  std::shared_ptr<Template> template_;
  std::unordered_map<std::string, uint32_t> ids_;
};

}  // namespace qwen::jinja
