#include "text/jinja/operations.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "text/jinja/text.h"

namespace qwen::jinja {
namespace {

std::string_view symbol(ArithmeticOp operation) {
  switch (operation) {
    case ArithmeticOp::add:
      return "+";
    case ArithmeticOp::subtract:
      return "-";
    case ArithmeticOp::multiply:
      return "*";
    case ArithmeticOp::divide:
      return "/";
    case ArithmeticOp::floor_divide:
      return "//";
    case ArithmeticOp::modulo:
      return "%";
    case ArithmeticOp::power:
      break;
  }
  return "**";
}

[[noreturn]] void overflow(Runtime& runtime) {
  runtime.unsupported("integers beyond 64 bits are not supported");
}

int64_t floor_divide(int64_t left, int64_t right) {
  const int64_t quotient = left / right;
  return quotient - (left % right != 0 && (left < 0) != (right < 0));
}

Value integer_power(Runtime& runtime, int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) runtime.error("0.0 cannot be raised to a negative power");
    return std::pow(static_cast<double>(base), static_cast<double>(exponent));
  }
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) && __builtin_mul_overflow(result, base, &result)) overflow(runtime);
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) overflow(runtime);
  }
  return result;
}

Value integer_arithmetic(Runtime& runtime, ArithmeticOp operation, int64_t left, int64_t right) {
  int64_t result = 0;
  bool overflowed = false;
  switch (operation) {
    case ArithmeticOp::add:
      overflowed = __builtin_add_overflow(left, right, &result);
      break;
    case ArithmeticOp::subtract:
      overflowed = __builtin_sub_overflow(left, right, &result);
      break;
    case ArithmeticOp::multiply:
      overflowed = __builtin_mul_overflow(left, right, &result);
      break;
    case ArithmeticOp::divide:
      if (right == 0) runtime.error("division by zero");
      return static_cast<double>(left) / static_cast<double>(right);
    case ArithmeticOp::floor_divide:
    case ArithmeticOp::modulo:
      if (right == 0) runtime.error("integer division or modulo by zero");
      if (right == -1) {  // the one quotient that does not fit is min / -1
        if (operation == ArithmeticOp::modulo) return int64_t{0};
        overflowed = __builtin_sub_overflow(int64_t{0}, left, &result);
      } else {
        result = floor_divide(left, right);
        if (operation == ArithmeticOp::modulo) result = left - result * right;
      }
      break;
    case ArithmeticOp::power:
      return integer_power(runtime, left, right);
  }
  if (overflowed) overflow(runtime);
  return result;
}

Value real_arithmetic(Runtime& runtime, ArithmeticOp operation, double left, double right) {
  switch (operation) {
    case ArithmeticOp::add:
      return left + right;
    case ArithmeticOp::subtract:
      return left - right;
    case ArithmeticOp::multiply:
      return left * right;
    case ArithmeticOp::divide:
      if (right == 0) runtime.error("float division by zero");
      return left / right;
    case ArithmeticOp::floor_divide:
    case ArithmeticOp::modulo: {
      if (right == 0) runtime.error("float floor division or modulo by zero");
      double remainder = std::fmod(left, right);
      if (remainder != 0 && (remainder < 0) != (right < 0)) remainder += right;
      if (operation == ArithmeticOp::modulo) return remainder == 0 ? std::copysign(0.0, right) : remainder;
      const double quotient = (left - remainder) / right;
      const double whole = std::floor(quotient);
      return quotient - whole > 0.5 ? whole + 1 : whole;
    }
    case ArithmeticOp::power:
      break;
  }
  if (left < 0 && right != std::floor(right)) runtime.unsupported("complex numbers are not supported");
  if (left == 0 && right < 0) runtime.error("0.0 cannot be raised to a negative power");
  return std::pow(left, right);
}

Value repeat(Runtime& runtime, const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  if (value.is_string()) {
    const String& text = value.string();
    if (text.text.empty() || count == 0) return runtime.text("", text.markup);
    if (count > static_cast<int64_t>(kMaxTextBytes / text.text.size()))
      runtime.unsupported("the limit of ", kMaxTextBytes, " bytes of one text is reached");
    std::string out;
    out.reserve(text.text.size() * static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) out += text.text;
    return runtime.text(std::move(out), text.markup);
  }
  const auto& items = value.sequence().items;
  if (items.empty()) count = 0;
  if (count)
    runtime.step(items.size() > kMaxSteps / static_cast<size_t>(count)
                     ? kMaxSteps
                     : items.size() * static_cast<size_t>(count));
  std::vector<Value> out;
  for (int64_t i = 0; i < count; ++i) out.insert(out.end(), items.begin(), items.end());
  return runtime.sequence(std::move(out), value.sequence().type);
}

bool is_list_or_tuple(const Value& value) {
  return value.is_sequence(SequenceType::list) || value.is_sequence(SequenceType::tuple);
}

Value add_strings(Runtime& runtime, const String& left, const String& right) {
  const bool markup = left.markup || right.markup;
  if (left.text.size() + right.text.size() > kMaxTextBytes)
    runtime.unsupported("the limit of ", kMaxTextBytes, " bytes of one text is reached");
  std::string out;
  out.reserve(left.text.size() + right.text.size());
  out += markup && !left.markup ? escape_html(left.text) : left.text;
  out += markup && !right.markup ? escape_html(right.text) : right.text;
  return runtime.text(std::move(out), markup);
}

// A slice's bounds as Python's slice.indices gives them.
struct Bounds {
  int64_t start, stop, stride;
};

Bounds slice_bounds(Runtime& runtime, int64_t size, const Value* start, const Value* stop,
                    const Value* stride) {
  const auto read = [&](const Value* value, int64_t otherwise) {
    if (!value || value->is_none()) return otherwise;
    if (!value->is_integral()) {
      if (value->is_undefined()) runtime.undefined_error(*value);
      runtime.error("slice indices must be integers or None, not '", value->type_name(), "'");
    }
    return value->integer();
  };
  const int64_t by = read(stride, 1);
  if (by == 0) runtime.error("slice step cannot be zero");
  const int64_t low = by < 0 ? -1 : 0, high = by < 0 ? size - 1 : size;
  const auto clamp = [&](int64_t at) {
    if (at < 0) at = at < -size ? low : at + size;
    return std::clamp(at, low, high);
  };
  const bool has_start = start && !start->is_none(), has_stop = stop && !stop->is_none();
  return {has_start ? clamp(read(start, 0)) : (by < 0 ? high : low),
          has_stop ? clamp(read(stop, 0)) : (by < 0 ? low : high), by};
}

template <class Visit>
void for_slice(const Bounds& bounds, const Visit& visit) {
  // The stride may be as large as an integer can be: compare distances, so that nothing overflows.
  if (bounds.stride > 0) {
    for (int64_t at = bounds.start; at < bounds.stop; at += bounds.stride) {
      visit(static_cast<size_t>(at));
      if (bounds.stride >= bounds.stop - at) break;
    }
  } else {
    for (int64_t at = bounds.start; at > bounds.stop; at += bounds.stride) {
      visit(static_cast<size_t>(at));
      if (bounds.stride <= bounds.stop - at) break;
    }
  }
}

Value slice_string(Runtime& runtime, const String& text, const Bounds& bounds) {
  std::string out;
  if (bounds.stride == 1) {
    if (bounds.start >= bounds.stop) return runtime.text({}, text.markup);
    const auto start = static_cast<size_t>(bounds.start), stop = static_cast<size_t>(bounds.stop);
    if (text.ascii()) return runtime.text(text.text.substr(start, stop - start), text.markup);
    runtime.build(text.text.size());  // walked to find the bytes
    const size_t first = byte_offset(text.text, start);
    const std::string_view rest = std::string_view(text.text).substr(first);
    return runtime.text(std::string(rest.substr(0, byte_offset(rest, stop - start))), text.markup);
  }
  runtime.build(text.text.size() * sizeof(std::string_view));
  const auto characters = code_points(text.text);
  for_slice(bounds, [&](size_t at) { out += characters[at]; });
  return runtime.text(std::move(out), text.markup);
}

// Python's index of a sequence: negative ones count from the end. -1: out of range.
int64_t resolve_index(int64_t index, size_t size) {
  const auto length = static_cast<int64_t>(size);
  if (index < 0) index += length;
  return index < 0 || index >= length ? -1 : index;
}

// value[key] without the attribute that get_item falls back to; nullopt: Python would raise.
std::optional<Value> item(Runtime& runtime, const Value& value, const Value& key) {
  if (value.is_dict()) {
    const Value* found = value.dict().find(key);
    return found ? std::optional(*found) : std::nullopt;
  }
  if (!key.is_integral()) return std::nullopt;
  if (value.is_sequence()) {
    const Sequence& sequence = value.sequence();
    if (sequence.type == SequenceType::view || sequence.type == SequenceType::iterator) return std::nullopt;
    const int64_t at = resolve_index(key.integer(), sequence.items.size());
    return at < 0 ? std::nullopt : std::optional(sequence.items[static_cast<size_t>(at)]);
  }
  if (value.is_string()) {
    const String& text = value.string();
    const int64_t at = resolve_index(key.integer(), text.length);
    if (at < 0) return std::nullopt;
    return slice_string(runtime, text, {at, at + 1, 1});
  }
  return std::nullopt;
}

std::optional<Value> attribute(Runtime& runtime, const Value& value, std::string_view name) {
  // Nothing of Python's own machinery is reachable.
  if (name.starts_with("__"))
    return Value::undefined({Undefined::Reason::hint, cat("access to attribute '", name, "' of '",
                                                          value.type_name(), "' object is unsafe.")});
  if (value.is_object()) return value.object().attribute(runtime, name);
  return find_method(runtime, value, name);
}

}  // namespace

Value arithmetic(Runtime& runtime, ArithmeticOp operation, const Value& left, const Value& right) {
  runtime.step();
  if (left.is_undefined()) runtime.undefined_error(left);
  if (operation == ArithmeticOp::modulo && left.is_string())
    return runtime.text(format_percent(runtime, left.view(), right), left.string().markup);
  if (right.is_undefined()) runtime.undefined_error(right);
  if (left.is_integral() && right.is_integral())
    return integer_arithmetic(runtime, operation, left.integer(), right.integer());
  if (left.is_number() && right.is_number())
    return real_arithmetic(runtime, operation, left.real(), right.real());
  if (left.is_big() || right.is_big()) overflow(runtime);
  if (operation == ArithmeticOp::add) {
    if (left.is_string() && right.is_string()) return add_strings(runtime, left.string(), right.string());
    if (is_list_or_tuple(left) && right.is_sequence(left.sequence().type)) {
      std::vector<Value> items;
      items.reserve(left.sequence().items.size() + right.sequence().items.size());
      items.insert(items.end(), left.sequence().items.begin(), left.sequence().items.end());
      items.insert(items.end(), right.sequence().items.begin(), right.sequence().items.end());
      return runtime.sequence(std::move(items), left.sequence().type);
    }
    if (left.is_string()) runtime.error("can only concatenate str (not \"", right.type_name(), "\") to str");
    if (is_list_or_tuple(left))
      runtime.error("can only concatenate ", left.type_name(), " (not \"", right.type_name(), "\") to ",
                    left.type_name());
  }
  if (operation == ArithmeticOp::multiply) {
    if ((left.is_string() || is_list_or_tuple(left)) && right.is_integral())
      return repeat(runtime, left, right.integer());
    if ((right.is_string() || is_list_or_tuple(right)) && left.is_integral())
      return repeat(runtime, right, left.integer());
  }
  runtime.error("unsupported operand type(s) for ", symbol(operation), ": '", left.type_name(), "' and '",
                right.type_name(), "'");
}

Value negate(Runtime& runtime, const Value& value, char sign) {
  if (value.is_undefined()) runtime.undefined_error(value);
  if (value.is_big()) overflow(runtime);
  if (value.is_real()) return sign == '-' ? -value.real() : value.real();
  if (!value.is_integral()) runtime.error("bad operand type for unary ", sign, ": '", value.type_name(), "'");
  if (sign == '+') return value.integer();
  return integer_arithmetic(runtime, ArithmeticOp::subtract, 0, value.integer());
}

bool contains(Runtime& runtime, const Value& container, const Value& item) {
  runtime.step();
  if (container.is_undefined()) return false;
  if (container.is_string()) {
    if (!item.is_string())
      runtime.error("'in <string>' requires string as left operand, not ", item.type_name());
    runtime.step(container.view().size() / 256);
    return find_text(container.view(), item.view()) != std::string_view::npos;
  }
  if (container.is_dict()) {
    if (item.is_sequence(SequenceType::list) || item.is_dict())
      runtime.error("unhashable type: '", item.type_name(), "'");
    return container.dict().find(item) != nullptr;
  }
  if (container.is_sequence()) {
    const Sequence& sequence = container.sequence();
    const bool spends = sequence.type == SequenceType::iterator;
    for (size_t i = spends ? sequence.consumed : 0; i < sequence.items.size(); ++i) {
      if (spends) sequence.consumed = i + 1;
      if (equal(runtime, sequence.items[i], item)) return true;
    }
    return false;
  }
  runtime.error("argument of type '", container.type_name(), "' is not iterable");
}

bool compare(Runtime& runtime, CompareOp operation, const Value& left, const Value& right) {
  // NaN is neither less, equal nor greater.
  const bool unordered =
      (left.is_real() && std::isnan(left.real())) || (right.is_real() && std::isnan(right.real()));
  switch (operation) {
    case CompareOp::equal:
      return equal(runtime, left, right);
    case CompareOp::not_equal:
      return !equal(runtime, left, right);
    case CompareOp::in:
      return contains(runtime, right, left);
    case CompareOp::not_in:
      return !contains(runtime, right, left);
    case CompareOp::less:
      return compare(runtime, left, right, "<") < 0 && !unordered;
    case CompareOp::less_equal:
      return compare(runtime, left, right, "<=") <= 0 && !unordered;
    case CompareOp::greater:
      return compare(runtime, left, right, ">") > 0 && !unordered;
    case CompareOp::greater_equal:
      break;
  }
  return compare(runtime, left, right, ">=") >= 0 && !unordered;
}

void check_key(Runtime& runtime, const Value& key) {
  if (scalar_key(key)) return;
  if (key.is_sequence(SequenceType::list) || key.is_dict())
    runtime.error("unhashable type: '", key.type_name(), "'");
  runtime.unsupported("a dict key of type '", key.type_name(), "' is not supported");
}

Value get_attribute(Runtime& runtime, const Value& value, std::string_view name) {
  runtime.step();
  if (value.is_undefined()) runtime.undefined_error(value);
  if (auto found = attribute(runtime, value, name)) return std::move(*found);
  if (value.is_dict())
    if (const Value* found = value.dict().find(name)) return *found;
  return Value::undefined({Undefined::Reason::attribute, std::string(name), value.type_name()});
}

Value get_item(Runtime& runtime, const Value& value, const Value& key) {
  runtime.step();
  if (value.is_undefined()) runtime.undefined_error(value);
  if (auto found = item(runtime, value, key)) return std::move(*found);
  if (key.is_string()) {
    if (auto found = attribute(runtime, value, key.view())) return std::move(*found);
    return Value::undefined({Undefined::Reason::attribute, std::string(key.view()), value.type_name()});
  }
  std::string shown;
  if (key.is_undefined()) {
    shown = "Undefined";
  } else if (key.is_object()) {
    shown = key.type_name();
  } else {
    append_repr(runtime, key, shown);
  }
  return Value::undefined({Undefined::Reason::element, std::move(shown), value.type_name()});
}

Value get_slice(Runtime& runtime, const Value& value, const Value* start, const Value* stop,
                const Value* stride) {
  runtime.step();
  if (value.is_undefined()) runtime.undefined_error(value);
  if (value.is_string())
    return slice_string(
        runtime, value.string(),
        slice_bounds(runtime, static_cast<int64_t>(value.string().length), start, stop, stride));
  if (is_list_or_tuple(value) || value.is_sequence(SequenceType::range)) {
    const Sequence& sequence = value.sequence();
    std::vector<Value> items;
    for_slice(slice_bounds(runtime, static_cast<int64_t>(sequence.items.size()), start, stop, stride),
              [&](size_t at) { items.push_back(sequence.items[at]); });
    return runtime.sequence(std::move(items), sequence.type);
  }
  runtime.error("'", value.type_name(), "' object cannot be sliced");
}

Value call(Runtime& runtime, const Value& callee, const CallArguments& arguments) {
  runtime.step();
  if (callee.is_undefined()) runtime.undefined_error(callee);
  if (!callee.is_object()) runtime.error("'", callee.type_name(), "' object is not callable");
  const Runtime::Nested nested(runtime);
  // The object must outlive its call, whatever the call does to the variable that held it.
  const Value kept = callee;
  return kept.object().call(runtime, arguments);
}

std::vector<Value> iterate(Runtime& runtime, const Value& value) {
  if (value.is_undefined()) return {};
  if (value.is_sequence()) {
    const Sequence& sequence = value.sequence();
    runtime.build(sequence.items.size() * sizeof(Value));
    const bool spends = sequence.type == SequenceType::iterator;
    const size_t from = spends ? std::exchange(sequence.consumed, sequence.items.size()) : 0;
    return {sequence.items.begin() + static_cast<ptrdiff_t>(from), sequence.items.end()};
  }
  std::vector<Value> out;
  if (value.is_dict()) {
    runtime.build(value.dict().size() * sizeof(Value));
    for (const auto& [key, item] : value.dict().items()) out.push_back(key);
    return out;
  }
  if (value.is_string()) {
    // A character costs a whole value: some hundred bytes, so it is paid for as that.
    runtime.build(value.string().length * 128);
    for (const std::string_view character : code_points(value.view()))
      out.push_back(Value::text(std::string(character)));
    return out;
  }
  runtime.error("'", value.type_name(), "' object is not iterable");
}

int64_t length(Runtime& runtime, const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_string()) return static_cast<int64_t>(value.string().length);
  if (value.is_dict()) return static_cast<int64_t>(value.dict().size());
  if (value.is_sequence() && value.sequence().type != SequenceType::iterator)
    return static_cast<int64_t>(value.sequence().items.size());
  runtime.error("object of type '", value.type_name(), "' has no len()");
}

}  // namespace qwen::jinja
