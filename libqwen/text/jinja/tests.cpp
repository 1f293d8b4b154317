// jinja2's tests: what may stand behind "is".
#include <algorithm>

#include "text/jinja/operations.h"
#include "text/jinja/text.h"

namespace qwen::jinja {
namespace {

template <CompareOp operation>
bool compared(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "comparison test", arguments, {"other"}, 1);
  return compare(runtime, operation, subject, *bound[0]);
}

template <bool (Value::*is)() const>
bool kind(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  bind(runtime, "test", arguments, {});
  return (subject.*is)();
}

int64_t remainder(Runtime& runtime, const Value& subject, int64_t divisor) {
  const Value rest = arithmetic(runtime, ArithmeticOp::modulo, subject, divisor);
  return rest.is_real() ? (rest.real() == 0 ? 0 : rest.real() == 1 ? 1 : 2) : rest.integer();
}

bool odd(Runtime& runtime, const Value& subject, const CallArguments&) {
  return remainder(runtime, subject, 2) == 1;
}
bool even(Runtime& runtime, const Value& subject, const CallArguments&) {
  return remainder(runtime, subject, 2) == 0;
}

bool divisible_by(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "divisibleby", arguments, {"num"}, 1);
  return equal(runtime, arithmetic(runtime, ArithmeticOp::modulo, subject, *bound[0]), int64_t{0});
}

bool defined(Runtime&, const Value& subject, const CallArguments&) {
  return !subject.is_undefined();
}
bool is_true(Runtime&, const Value& subject, const CallArguments&) {
  return subject.is_bool() && subject.boolean();
}
bool is_false(Runtime&, const Value& subject, const CallArguments&) {
  return subject.is_bool() && !subject.boolean();
}
bool integer_test(Runtime&, const Value& subject, const CallArguments&) {
  return subject.is_int() || subject.is_big();
}
bool number_test(Runtime&, const Value& subject, const CallArguments&) {
  return subject.is_number() || subject.is_big();
}

bool sequence_test(Runtime&, const Value& subject, const CallArguments&) {
  // Python: has a length and can be indexed. jinja2's Undefined has both, its Macro neither.
  if (subject.is_sequence())
    return subject.sequence().type != SequenceType::view && subject.sequence().type != SequenceType::iterator;
  return subject.is_string() || subject.is_dict() || subject.is_undefined();
}

bool iterable_test(Runtime&, const Value& subject, const CallArguments&) {
  return subject.is_string() || subject.is_sequence() || subject.is_dict() || subject.is_undefined();
}

bool callable_test(Runtime&, const Value& subject, const CallArguments&) {
  // Undefined has a __call__ (which raises).
  return subject.is_undefined() || (subject.is_object() && subject.object().callable());
}

bool same_as(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  return subject.same_as(*bind(runtime, "sameas", arguments, {"other"}, 1)[0]);
}

bool escaped(Runtime&, const Value& subject, const CallArguments&) {
  return subject.is_string() && subject.string().markup;
}

bool in_test(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  return contains(runtime, *bind(runtime, "in", arguments, {"seq"}, 1)[0], subject);
}

// At least one letter of this case and none of the other.
template <bool (*wanted)(char32_t), bool (*other)(char32_t)>
bool case_test(Runtime& runtime, const Value& subject, const CallArguments&) {
  const std::string text = str(runtime, subject);
  bool found = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t code = next_code_point(text, at);
    if (other(code)) return false;
    found |= wanted(code);
  }
  return found;
}

bool filter_test(Runtime& runtime, const Value& subject, const CallArguments&) {
  return find_filter(text(runtime, "filter", subject)) != nullptr;
}

bool test_test(Runtime& runtime, const Value& subject, const CallArguments&) {
  return find_test(text(runtime, "test", subject)) != nullptr;
}

constexpr std::pair<std::string_view, TestFunction> kTests[] = {
    {"odd", odd},
    {"even", even},
    {"divisibleby", divisible_by},
    {"defined", defined},
    {"undefined", kind<&Value::is_undefined>},
    {"none", kind<&Value::is_none>},
    {"boolean", kind<&Value::is_bool>},
    {"true", is_true},
    {"false", is_false},
    {"integer", integer_test},
    {"float", kind<&Value::is_real>},
    {"number", number_test},
    {"string", kind<&Value::is_string>},
    {"mapping", kind<&Value::is_dict>},
    {"sequence", sequence_test},
    {"iterable", iterable_test},
    {"callable", callable_test},
    {"sameas", same_as},
    {"escaped", escaped},
    {"in", in_test},
    {"lower", case_test<is_lower_letter, is_upper_letter>},
    {"upper", case_test<is_upper_letter, is_lower_letter>},
    {"filter", filter_test},
    {"test", test_test},
    {"==", compared<CompareOp::equal>},
    {"eq", compared<CompareOp::equal>},
    {"equalto", compared<CompareOp::equal>},
    {"!=", compared<CompareOp::not_equal>},
    {"ne", compared<CompareOp::not_equal>},
    {">", compared<CompareOp::greater>},
    {"gt", compared<CompareOp::greater>},
    {"greaterthan", compared<CompareOp::greater>},
    {">=", compared<CompareOp::greater_equal>},
    {"ge", compared<CompareOp::greater_equal>},
    {"<", compared<CompareOp::less>},
    {"lt", compared<CompareOp::less>},
    {"lessthan", compared<CompareOp::less>},
    {"<=", compared<CompareOp::less_equal>},
    {"le", compared<CompareOp::less_equal>},
};

}  // namespace

TestFunction find_test(std::string_view name) {
  for (const auto& [known, function] : kTests)
    if (known == name) return function;
  return nullptr;
}

}  // namespace qwen::jinja
