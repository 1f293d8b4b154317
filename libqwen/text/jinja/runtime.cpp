#include "text/jinja/runtime.h"

namespace qwen::jinja {

Value Runtime::text(std::string text, bool markup) {
  if (text.size() > kMaxTextBytes)
    unsupported("the limit of ", kMaxTextBytes, " bytes of one text is reached");
  build(text.size());
  return Value::text(std::move(text), markup);
}

Value Runtime::sequence(std::vector<Value> items, SequenceType type) {
  build(items.size() * sizeof(Value));
  Value made = Value::sequence(std::move(items), type);
  if (made.depth() > kMaxValueDepth)
    unsupported("the limit of ", kMaxValueDepth, " nested lists and dicts is reached");
  return made;
}

Value Runtime::dict(std::shared_ptr<Dict> dict) {
  build(dict->size() * sizeof(Dict::Item));
  if (dict->depth() > kMaxValueDepth)
    unsupported("the limit of ", kMaxValueDepth, " nested lists and dicts is reached");
  return DictPtr(std::move(dict));
}

std::vector<const Value*> bind(Runtime& runtime, std::string_view callee, const CallArguments& arguments,
                               std::initializer_list<std::string_view> parameters, size_t required) {
  std::vector<const Value*> bound(parameters.size(), nullptr);
  if (arguments.positional.size() > parameters.size())
    runtime.error(callee, "() takes at most ", parameters.size(), " arguments, ", arguments.positional.size(),
                  " were given");
  for (size_t i = 0; i < arguments.positional.size(); ++i) bound[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    size_t at = 0;
    while (at < parameters.size() && parameters.begin()[at] != name) ++at;
    if (at == parameters.size()) runtime.error(callee, "() got an unexpected keyword argument ", quote(name));
    if (bound[at]) runtime.error(callee, "() got multiple values for argument ", quote(name));
    bound[at] = &value;
  }
  for (size_t i = 0; i < required; ++i)
    if (!bound[i]) runtime.error(callee, "() misses its argument '", parameters.begin()[i], "'");
  return bound;
}

bool flag(const Value* argument, bool otherwise) {
  return argument ? argument->truthy() : otherwise;
}

int64_t integer(Runtime& runtime, std::string_view callee, const Value* argument, int64_t otherwise) {
  if (!argument) return otherwise;
  if (argument->is_undefined()) runtime.undefined_error(*argument);
  if (!argument->is_integral())
    runtime.error(callee, "() needs an integer, not '", argument->type_name(), "'");
  return argument->integer();
}

std::string_view text(Runtime& runtime, std::string_view callee, const Value& argument) {
  if (argument.is_undefined()) runtime.undefined_error(argument);
  if (!argument.is_string()) runtime.error(callee, "() needs a string, not '", argument.type_name(), "'");
  return argument.view();
}

}  // namespace qwen::jinja
