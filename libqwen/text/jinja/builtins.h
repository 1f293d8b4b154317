// jinja2's filters, tests and global functions, and the methods of Python's str, dict and list, by name.
#pragma once

#include "text/jinja/runtime.h"

namespace qwen::jinja {

using FilterFunction = Value (*)(Runtime&, const Value& subject, const CallArguments&);
using TestFunction = bool (*)(Runtime&, const Value& subject, const CallArguments&);
using MethodFunction = Value (*)(Runtime&, const Value& self, const CallArguments&);
using GlobalFunction = Value (*)(Runtime&, const CallArguments&);

// nullptr: there is none of this name.
FilterFunction find_filter(std::string_view name);
TestFunction find_test(std::string_view name);

// value.name of a str, dict or list: the bound method; Undefined for one that the sandbox forbids (append,
// update,
// ...); nullopt when Python's type has no such attribute.
std::optional<Value> find_method(Runtime& runtime, const Value& value, std::string_view name);

// range, dict, namespace, joiner, cycler, raise_exception, strftime_now: callable values.
std::optional<Value> global_function(std::string_view name);

// A namespace() object: the one mutable value.
class Namespace : public Object {
 public:
  std::string_view type_name() const override { return "Namespace"; }
  std::optional<Value> attribute(Runtime& runtime, std::string_view name) override;
  void set(Runtime& runtime, std::string_view name, Value value);
  void release() override { attributes_.clear(); }

 private:
  Dict attributes_;
};

}  // namespace qwen::jinja
