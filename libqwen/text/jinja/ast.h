// A parsed template. Immutable and shared by all renderings.
//
// Everything that a template may chain at will (a + b + c, x.y[z](w)|f, elif, and/or) is one node with a
// list, so that recursion follows real nesting only, and that the parser bounds.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "text/jinja/builtins.h"
#include "text/jinja/value.h"

namespace qwen::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<const Expression>;

// Variables are numbered per template: Template::names[id] is the text.
struct Constant {
  Value value;
};
struct Name {
  uint32_t id;
};
struct ListLiteral {
  std::vector<ExpressionPtr> items;
  bool tuple;
};
struct DictLiteral {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> items;
};
struct Sign {  // - and +, in the order they are written
  std::string signs;
  ExpressionPtr operand;
};
struct Not {
  ExpressionPtr operand;
};
enum class ArithmeticOp : uint8_t { add, subtract, multiply, divide, floor_divide, modulo, power };
struct Arithmetic {  // left to right
  ExpressionPtr first;
  std::vector<std::pair<ArithmeticOp, ExpressionPtr>> rest;
};
struct Concat {  // a ~ b ~ c
  std::vector<ExpressionPtr> parts;
};
enum class CompareOp : uint8_t { equal, not_equal, less, less_equal, greater, greater_equal, in, not_in };
struct Comparison {  // a < b < c: true when every neighbouring pair is
  ExpressionPtr first;
  std::vector<std::pair<CompareOp, ExpressionPtr>> rest;
};
struct Logical {  // all "and" or all "or"; gives the operand that decides, as Python does
  bool conjunction;
  std::vector<ExpressionPtr> operands;
};
struct Conditional {                         // then if condition else otherwise
  ExpressionPtr condition, then, otherwise;  // otherwise may be null
};

struct Arguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};
struct Step {
  enum class Kind : uint8_t { attribute, subscript, slice, call, filter, test };
  Kind kind;
  bool negated = false;  // "is not"
  uint32_t line = 0;
  std::string name = {};  // of the attribute, filter or test
  Arguments arguments = {};
  ExpressionPtr start = {}, stop = {}, stride = {};  // of the slice (any may be null); start is the subscript
  FilterFunction filter = nullptr;                   // null: unknown, an error when it is reached
  TestFunction test = nullptr;
};
struct Postfix {  // base.attribute[subscript](call)|filter is test ...
  ExpressionPtr base;
  std::vector<Step> steps;
};

struct Expression {
  uint32_t line;
  std::variant<Constant, Name, ListLiteral, DictLiteral, Sign, Not, Arithmetic, Concat, Comparison, Logical,
               Conditional, Postfix>
      node;
};

struct Statement;
using Body = std::vector<Statement>;

struct Target {                                          // what "set" and "for" assign to
  enum class Kind : uint8_t { name, attribute, tuple };  // attribute: of a namespace
  Kind kind = Kind::name;
  uint32_t id = 0;
  std::string attribute = {};
  std::vector<Target> items = {};
};

struct Text {
  std::string text;
};
struct Print {
  ExpressionPtr value;
};
struct If {
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  Body otherwise;
};
struct For {
  Target target;
  ExpressionPtr iterable, condition;  // condition may be null
  Body body, otherwise;
};
struct Set {
  Target target;
  ExpressionPtr value;
};
struct SetBlock {
  Target target;
  std::vector<Step> filters;
  Body body;
};
struct Macro {
  uint32_t id;
  std::string name;
  std::vector<uint32_t> parameters;
  std::vector<std::string> parameter_names;
  std::vector<ExpressionPtr> defaults;  // one per parameter, null: none
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
  Body body;
};
using MacroPtr = std::shared_ptr<const Macro>;
struct MacroDefinition {
  MacroPtr macro;
};
struct CallBlock {  // {% call(arguments) f(...) %}: f gets the body as caller()
  ExpressionPtr call;
  MacroPtr body;
};
struct FilterBlock {
  std::vector<Step> filters;
  Body body;
};
struct With {  // also {% generation %}, which is a scope without variables
  std::vector<std::pair<Target, ExpressionPtr>> variables;
  Body body;
};
struct Break {};
struct Continue {};

struct Statement {
  uint32_t line;
  std::variant<Text, Print, If, For, Set, SetBlock, MacroDefinition, CallBlock, FilterBlock, With, Break,
               Continue>
      node;
};

struct Template {
  std::string name;
  std::vector<std::string> names;
  // Ids of the variables that statements themselves bind or look for.
  uint32_t loop_id, caller_id, varargs_id, kwargs_id;
  Body body;
};

}  // namespace qwen::jinja
