// The interpreter's insides, shared by interpreter.cpp (statements) and evaluate.cpp
// (expressions) only.
#pragma once

#include "text/jinja/interpreter.h"
#include "text/jinja/scope.h"

namespace qwen::jinja {

class Interpreter {
 public:
  Interpreter(const Template& parsed, const Dict& variables);
  std::string run();

  // A macro's body with its parameters bound; what it printed.
  Value call_macro(const Macro& macro, const std::shared_ptr<Scope>& scope, const CallArguments& arguments);

 private:
  enum class Flow : uint8_t { go_on, break_loop, continue_loop };
  class InScope;   // makes a scope the current one for as long as it lives
  class Captured;  // sends the output elsewhere for as long as it lives

  Flow execute(const Body& body);
  Flow execute(const Statement& statement);
  Flow execute_for(const For& loop);
  Flow execute_set_block(const SetBlock& block);
  Flow execute_filter_block(const FilterBlock& block);
  Flow execute_with(const With& block);
  void execute_call_block(const CallBlock& block, uint32_t line);
  void assign(const Target& target, Value value);
  Value macro_value(const MacroPtr& macro);

  Value evaluate(const Expression& expression);
  Value evaluate_node(const Expression& expression);
  Value evaluate_node(const Constant& node, uint32_t) { return node.value; }
  Value evaluate_node(const Name& node, uint32_t line);
  Value evaluate_node(const ListLiteral& node, uint32_t line);
  Value evaluate_node(const DictLiteral& node, uint32_t line);
  Value evaluate_node(const Sign& node, uint32_t line);
  Value evaluate_node(const Not& node, uint32_t line);
  Value evaluate_node(const Arithmetic& node, uint32_t line);
  Value evaluate_node(const Concat& node, uint32_t line);
  Value evaluate_node(const Comparison& node, uint32_t line);
  Value evaluate_node(const Logical& node, uint32_t line);
  Value evaluate_node(const Conditional& node, uint32_t line);
  Value evaluate_node(const Postfix& node, uint32_t line);
  Value apply(const Step& step, const Value& value);
  CallArguments evaluate(const Arguments& arguments);

  const Template& template_;
  Runtime runtime_;
  std::shared_ptr<Scope> root_;
  std::shared_ptr<Scope> scope_;
  std::string output_;
  std::string* out_ = &output_;
};

}  // namespace qwen::jinja
