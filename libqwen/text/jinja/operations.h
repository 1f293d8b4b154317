// What Python's operators, lookups and calls do with values; shared by the interpreter and the built-in
// functions.
#pragma once

#include "text/jinja/ast.h"
#include "text/jinja/runtime.h"

namespace qwen::jinja {

Value arithmetic(Runtime& runtime, ArithmeticOp operation, const Value& left, const Value& right);
Value negate(Runtime& runtime, const Value& value, char sign);
bool contains(Runtime& runtime, const Value& container, const Value& item);
bool compare(Runtime& runtime, CompareOp operation, const Value& left, const Value& right);

// A dict's key: a scalar. An error for what Python cannot hash, unsupported for a tuple.
void check_key(Runtime& runtime, const Value& key);

// a.name: the attribute (a method, say), else the item of that name; Undefined when there is neither.
Value get_attribute(Runtime& runtime, const Value& value, std::string_view name);
// a[key]: the item, else, for a string, the attribute; Undefined when there is neither.
Value get_item(Runtime& runtime, const Value& value, const Value& key);
// a[start:stop:stride]; nullptr or None: left out.
Value get_slice(Runtime& runtime, const Value& value, const Value* start, const Value* stop,
                const Value* stride);
Value call(Runtime& runtime, const Value& callee, const CallArguments& arguments);

// The items in the order a for loop sees them: characters of a string, keys of a dict, nothing of Undefined;
// an iterator gives what is left of it and is spent. An error for what cannot be iterated.
std::vector<Value> iterate(Runtime& runtime, const Value& value);
// len(); an error for what has none.
int64_t length(Runtime& runtime, const Value& value);

// "%s is %d" % values, for the conversions s r d i f x c and %%.
std::string format_percent(Runtime& runtime, std::string_view format, const Value& values);

}  // namespace qwen::jinja
