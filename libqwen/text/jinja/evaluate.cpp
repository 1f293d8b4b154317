#include "text/jinja/interpreter_impl.h"
#include "text/jinja/operations.h"

namespace qwen::jinja {

Value Interpreter::evaluate(const Expression& expression) {
  const Runtime::Nested nested(runtime_);
  runtime_.step();
  runtime_.line = expression.line;
  return std::visit([&](const auto& node) { return evaluate_node(node, expression.line); }, expression.node);
}

Value Interpreter::evaluate_node(const Name& node, uint32_t) {
  if (const Value* found = scope_->find(node.id)) return *found;
  return Value::undefined_name(template_.names[node.id]);
}

Value Interpreter::evaluate_node(const ListLiteral& node, uint32_t) {
  std::vector<Value> items;
  items.reserve(node.items.size());
  for (const ExpressionPtr& item : node.items) items.push_back(evaluate(*item));
  return runtime_.sequence(std::move(items), node.tuple ? SequenceType::tuple : SequenceType::list);
}

Value Interpreter::evaluate_node(const DictLiteral& node, uint32_t line) {
  auto made = std::make_shared<Dict>();
  for (const auto& [key_node, value_node] : node.items) {
    Value key = evaluate(*key_node);
    Value value = evaluate(*value_node);
    runtime_.line = line;
    check_key(runtime_, key);
    made->set(std::move(key), std::move(value));
  }
  return runtime_.dict(std::move(made));
}

Value Interpreter::evaluate_node(const Sign& node, uint32_t line) {
  Value value = evaluate(*node.operand);
  runtime_.line = line;
  for (auto sign = node.signs.rbegin(); sign != node.signs.rend(); ++sign)
    value = negate(runtime_, value, *sign);
  return value;
}

Value Interpreter::evaluate_node(const Not& node, uint32_t) {
  return !evaluate(*node.operand).truthy();
}

Value Interpreter::evaluate_node(const Arithmetic& node, uint32_t line) {
  Value value = evaluate(*node.first);
  for (const auto& [operation, operand] : node.rest) {
    const Value right = evaluate(*operand);
    runtime_.line = line;
    value = arithmetic(runtime_, operation, value, right);
  }
  return value;
}

Value Interpreter::evaluate_node(const Concat& node, uint32_t) {
  std::string out;
  for (const ExpressionPtr& part : node.parts) append_str(runtime_, evaluate(*part), out);
  return runtime_.text(std::move(out));
}

Value Interpreter::evaluate_node(const Comparison& node, uint32_t line) {
  Value left = evaluate(*node.first);
  for (const auto& [operation, operand] : node.rest) {
    Value right = evaluate(*operand);
    runtime_.line = line;
    if (!compare(runtime_, operation, left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::evaluate_node(const Logical& node, uint32_t) {
  Value value;
  for (const ExpressionPtr& operand : node.operands) {
    value = evaluate(*operand);
    if (value.truthy() != node.conjunction) break;
  }
  return value;
}

Value Interpreter::evaluate_node(const Conditional& node, uint32_t line) {
  if (evaluate(*node.condition).truthy()) return evaluate(*node.then);
  if (node.otherwise) return evaluate(*node.otherwise);
  return Value::undefined(
      {Undefined::Reason::hint, cat("the inline if-expression on line ", line,
                                    " evaluated to false and no else section was defined.")});
}

Value Interpreter::evaluate_node(const Postfix& node, uint32_t) {
  Value value = evaluate(*node.base);
  for (const Step& step : node.steps) value = apply(step, value);
  return value;
}

Value Interpreter::apply(const Step& step, const Value& value) {
  runtime_.step();
  switch (step.kind) {
    case Step::Kind::attribute:
      runtime_.line = step.line;
      return get_attribute(runtime_, value, step.name);
    case Step::Kind::subscript: {
      const Value key = evaluate(*step.start);
      runtime_.line = step.line;
      return get_item(runtime_, value, key);
    }
    case Step::Kind::slice: {
      Value bounds[3];
      const Expression* const given[] = {step.start.get(), step.stop.get(), step.stride.get()};
      for (int i = 0; i < 3; ++i)
        if (given[i]) bounds[i] = evaluate(*given[i]);
      runtime_.line = step.line;
      return get_slice(runtime_, value, &bounds[0], &bounds[1], &bounds[2]);
    }
    case Step::Kind::call: {
      const CallArguments arguments = evaluate(step.arguments);
      runtime_.line = step.line;
      return call(runtime_, value, arguments);
    }
    case Step::Kind::filter: {
      runtime_.line = step.line;
      if (!step.filter) runtime_.unsupported("the filter ", quote(step.name), " is not supported");
      const CallArguments arguments = evaluate(step.arguments);
      runtime_.line = step.line;
      return step.filter(runtime_, value, arguments);
    }
    case Step::Kind::test:
      break;
  }
  runtime_.line = step.line;
  if (!step.test) runtime_.unsupported("the test ", quote(step.name), " is not supported");
  const CallArguments arguments = evaluate(step.arguments);
  runtime_.line = step.line;
  return step.test(runtime_, value, arguments) != step.negated;
}

CallArguments Interpreter::evaluate(const Arguments& arguments) {
  CallArguments values;
  values.positional.reserve(arguments.positional.size());
  for (const ExpressionPtr& argument : arguments.positional) values.positional.push_back(evaluate(*argument));
  for (const auto& [name, argument] : arguments.named) values.named.emplace_back(name, evaluate(*argument));
  return values;
}

}  // namespace qwen::jinja
