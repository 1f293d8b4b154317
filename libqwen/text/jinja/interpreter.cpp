#include "text/jinja/interpreter.h"

#include "text/jinja/interpreter_impl.h"
#include "text/jinja/loop.h"

namespace qwen::jinja {
namespace {

class MacroValue : public Object {
 public:
  MacroValue(Interpreter& interpreter, MacroPtr macro, std::shared_ptr<Scope> scope)
      : interpreter_(interpreter), macro_(std::move(macro)), scope_(std::move(scope)) {}
  std::string_view type_name() const override { return "Macro"; }
  bool callable() const override { return true; }
  std::optional<Value> attribute(Runtime&, std::string_view name) override {
    if (name == "name") return Value::text(macro_->name);
    return std::nullopt;
  }
  Value call(Runtime& runtime, const CallArguments& arguments) override {
    if (!scope_) runtime.error("the macro's template is over");
    return interpreter_.call_macro(*macro_, scope_, arguments);
  }
  void release() override { scope_.reset(); }

 private:
  Interpreter& interpreter_;
  MacroPtr macro_;
  std::shared_ptr<Scope> scope_;  // where it was defined: its body sees the variables of that place
};

}  // namespace

class Interpreter::InScope {
 public:
  InScope(Interpreter& interpreter, std::shared_ptr<Scope> scope)
      : interpreter_(interpreter), outer_(std::exchange(interpreter.scope_, std::move(scope))) {}
  ~InScope() { interpreter_.scope_ = std::move(outer_); }
  InScope(const InScope&) = delete;
  InScope& operator=(const InScope&) = delete;

 private:
  Interpreter& interpreter_;
  std::shared_ptr<Scope> outer_;
};

class Interpreter::Captured {
 public:
  explicit Captured(Interpreter& interpreter)
      : interpreter_(interpreter), outer_(std::exchange(interpreter.out_, &text)) {}
  ~Captured() { interpreter_.out_ = outer_; }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;
  std::string text;

 private:
  Interpreter& interpreter_;
  std::string* outer_;
};

Interpreter::Interpreter(const Template& parsed, const Dict& variables)
    : template_(parsed), runtime_(parsed.name) {
  root_ = std::make_shared<Scope>(runtime_, nullptr);
  scope_ = root_;
  // Only what the template mentions can be looked up.
  for (size_t id = 0; id < parsed.names.size(); ++id) {
    if (const Value* given = variables.find(parsed.names[id])) {
      root_->set(static_cast<uint32_t>(id), *given);
    } else if (auto function = global_function(parsed.names[id])) {
      root_->set(static_cast<uint32_t>(id), std::move(*function));
    }
  }
}

std::string Interpreter::run() {
  execute(template_.body);
  return std::move(output_);
}

Interpreter::Flow Interpreter::execute(const Body& body) {
  const Runtime::Nested nested(runtime_);
  for (const Statement& statement : body) {
    runtime_.step();
    const Flow flow = execute(statement);
    if (flow != Flow::go_on) return flow;
  }
  return Flow::go_on;
}

Interpreter::Flow Interpreter::execute(const Statement& statement) {
  runtime_.line = statement.line;
  if (const auto* text = std::get_if<Text>(&statement.node)) {
    runtime_.append(*out_, text->text);
  } else if (const auto* print = std::get_if<Print>(&statement.node)) {
    append_str(runtime_, evaluate(*print->value), *out_);
  } else if (const auto* conditional = std::get_if<If>(&statement.node)) {
    for (const auto& [condition, body] : conditional->branches)
      if (evaluate(*condition).truthy()) return execute(body);
    return execute(conditional->otherwise);
  } else if (const auto* set = std::get_if<Set>(&statement.node)) {
    assign(set->target, evaluate(*set->value));
  } else if (const auto* loop = std::get_if<For>(&statement.node)) {
    return execute_for(*loop);
  } else if (const auto* set_block = std::get_if<SetBlock>(&statement.node)) {
    return execute_set_block(*set_block);
  } else if (const auto* definition = std::get_if<MacroDefinition>(&statement.node)) {
    scope_->set(definition->macro->id, macro_value(definition->macro));
  } else if (const auto* call_block = std::get_if<CallBlock>(&statement.node)) {
    execute_call_block(*call_block, statement.line);
  } else if (const auto* filter_block = std::get_if<FilterBlock>(&statement.node)) {
    return execute_filter_block(*filter_block);
  } else if (const auto* with = std::get_if<With>(&statement.node)) {
    return execute_with(*with);
  } else {
    return std::holds_alternative<Break>(statement.node) ? Flow::break_loop : Flow::continue_loop;
  }
  return Flow::go_on;
}

Interpreter::Flow Interpreter::execute_for(const For& loop) {
  std::vector<Value> items = iterate(runtime_, evaluate(*loop.iterable));
  const std::shared_ptr<Scope> outer = scope_;
  LoopItems::Filter filter;
  if (loop.condition) {
    filter = [&](const Value& item) {
      const InScope in_scope(*this, std::make_shared<Scope>(runtime_, outer));
      runtime_.step();
      assign(loop.target, item);
      return evaluate(*loop.condition).truthy();
    };
  }
  const auto state = std::make_shared<LoopItems>(std::move(items), std::move(filter));
  const struct Release {
    LoopItems& items;
    ~Release() { items.release(); }
  } release{*state};

  auto scope = std::make_shared<Scope>(runtime_, outer);
  // jinja2 runs the "else" when no round came to its end: none at all, or all left by break or continue.
  bool completed = false;
  while (state->advance()) {
    runtime_.step();
    // A round starts with no variables of its own; a macro defined in the last round keeps that round's.
    if (scope.use_count() > 1) {
      scope = std::make_shared<Scope>(runtime_, outer);
    } else {
      scope->clear();
    }
    const InScope in_scope(*this, scope);
    assign(loop.target, state->current());
    scope->set(template_.loop_id, ObjectPtr(state));
    const Flow flow = execute(loop.body);
    if (flow == Flow::break_loop) break;
    completed |= flow == Flow::go_on;
  }
  if (completed) return Flow::go_on;
  const InScope in_scope(*this, std::make_shared<Scope>(runtime_, outer));
  return execute(loop.otherwise);
}

Interpreter::Flow Interpreter::execute_set_block(const SetBlock& block) {
  Value value;
  {
    const InScope in_scope(*this, std::make_shared<Scope>(runtime_, scope_));
    Captured captured(*this);
    const Flow flow = execute(block.body);
    if (flow != Flow::go_on) return flow;
    value = runtime_.text(std::move(captured.text));
    for (const Step& filter : block.filters) value = apply(filter, value);
  }
  assign(block.target, std::move(value));
  return Flow::go_on;
}

Interpreter::Flow Interpreter::execute_filter_block(const FilterBlock& block) {
  Value value;
  {
    const InScope in_scope(*this, std::make_shared<Scope>(runtime_, scope_));
    Captured captured(*this);
    const Flow flow = execute(block.body);
    if (flow != Flow::go_on) return flow;
    value = runtime_.text(std::move(captured.text));
    for (const Step& filter : block.filters) value = apply(filter, value);
  }
  append_str(runtime_, value, *out_);
  return Flow::go_on;
}

Interpreter::Flow Interpreter::execute_with(const With& block) {
  auto scope = std::make_shared<Scope>(runtime_, scope_);
  std::vector<Value> values;  // all of them are computed outside, before the first is assigned
  for (const auto& [target, value] : block.variables) values.push_back(evaluate(*value));
  const InScope in_scope(*this, std::move(scope));
  for (size_t i = 0; i < values.size(); ++i) assign(block.variables[i].first, std::move(values[i]));
  return execute(block.body);
}

void Interpreter::execute_call_block(const CallBlock& block, uint32_t line) {
  // The call is a Postfix whose last step is the call itself (the parser saw to that): run the steps before
  // it, then call with the body as one more argument.
  const auto& postfix = std::get<Postfix>(block.call->node);
  Value callee = evaluate(*postfix.base);
  for (size_t i = 0; i + 1 < postfix.steps.size(); ++i) callee = apply(postfix.steps[i], callee);
  CallArguments arguments = evaluate(postfix.steps.back().arguments);
  arguments.named.emplace_back("caller", macro_value(block.body));
  runtime_.line = line;
  append_str(runtime_, call(runtime_, callee, arguments), *out_);
}

Value Interpreter::macro_value(const MacroPtr& macro) {
  runtime_.build(256);
  auto value = std::make_shared<MacroValue>(*this, macro, scope_);
  runtime_.adopt(value);
  return ObjectPtr(std::move(value));
}

Value Interpreter::call_macro(const Macro& macro, const std::shared_ptr<Scope>& scope,
                              const CallArguments& arguments) {
  const uint32_t line = runtime_.line;
  const InScope in_scope(*this, std::make_shared<Scope>(runtime_, scope));
  const size_t count = macro.parameters.size();
  std::vector<std::optional<Value>> given(count);
  std::vector<Value> extra;
  auto extra_named = std::make_shared<Dict>();
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    if (i < count)
      given[i] = arguments.positional[i];
    else
      extra.push_back(arguments.positional[i]);
  }
  if (!extra.empty() && !macro.uses_varargs)
    runtime_.error("macro '", macro.name, "' takes not more than ", count, " argument(s)");
  std::optional<Value> caller;
  for (const auto& [name, value] : arguments.named) {
    size_t at = 0;
    while (at < count && macro.parameter_names[at] != name) ++at;
    if (at < count) {
      if (given[at]) runtime_.error("macro '", macro.name, "' got two values for its argument ", quote(name));
      given[at] = value;
    } else if (name == "caller" && macro.uses_caller) {
      caller = value;
    } else if (macro.uses_kwargs) {
      extra_named->set(Value::text(name), value);
    } else {
      runtime_.error("macro '", macro.name, "' takes no keyword argument ", quote(name));
    }
  }
  for (size_t i = 0; i < count; ++i) {
    // A default may use the parameters before it.
    if (!given[i])
      given[i] = macro.defaults[i]
                     ? evaluate(*macro.defaults[i])
                     : Value::undefined({Undefined::Reason::hint,
                                         cat("parameter '", macro.parameter_names[i], "' was not provided")});
    scope_->set(macro.parameters[i], std::move(*given[i]));
  }
  if (macro.uses_caller)
    scope_->set(template_.caller_id,
                caller ? *caller : Value::undefined({Undefined::Reason::hint, "No caller defined"}));
  if (macro.uses_varargs)
    scope_->set(template_.varargs_id, runtime_.sequence(std::move(extra), SequenceType::tuple));
  if (macro.uses_kwargs) scope_->set(template_.kwargs_id, runtime_.dict(std::move(extra_named)));
  Captured captured(*this);
  execute(macro.body);
  runtime_.line = line;
  return runtime_.text(std::move(captured.text));
}

void Interpreter::assign(const Target& target, Value value) {
  if (target.kind == Target::Kind::name) {
    scope_->set(target.id, std::move(value));
  } else if (target.kind == Target::Kind::attribute) {
    const Value* owner = scope_->find(target.id);
    auto* space = owner && owner->is_object() ? dynamic_cast<Namespace*>(&owner->object()) : nullptr;
    if (!space) runtime_.error("cannot assign attribute on non-namespace object");
    space->set(runtime_, target.attribute, std::move(value));
  } else {
    std::vector<Value> parts = iterate(runtime_, value);
    if (parts.size() != target.items.size())
      runtime_.error(parts.size() < target.items.size() ? "not enough" : "too many",
                     " values to unpack (expected ", target.items.size(), ", got ", parts.size(), ")");
    for (size_t i = 0; i < parts.size(); ++i) assign(target.items[i], std::move(parts[i]));
  }
}

std::string render(const Template& parsed, const Dict& variables) {
  return Interpreter(parsed, variables).run();
}

}  // namespace qwen::jinja
