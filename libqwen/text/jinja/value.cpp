#include "text/jinja/value.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <functional>

#include "text/jinja/runtime.h"
#include "text/jinja/text.h"

namespace qwen::jinja {
namespace {

// Few items are found faster by looking at each.
constexpr size_t kLinearItems = 8;

size_t hash_text(std::string_view text) {
  return std::hash<std::string_view>{}(text);
}

size_t hash_scalar(const Value& value) {
  if (value.is_string()) return hash_text(value.view());
  if (value.is_integral()) return std::hash<int64_t>{}(value.integer());
  if (value.is_real()) {
    const double real = value.real();
    if (real == std::trunc(real) && std::abs(real) < 9e18)
      return std::hash<int64_t>{}(static_cast<int64_t>(real));
    return std::hash<double>{}(real);
  }
  return 0;  // None
}

// Hashes of neighbouring integers are neighbours; multiply so that the table's low bits depend on all of
// them.
size_t mix(size_t hash) {
  return (hash * 0x9E3779B97F4A7C15ULL) >> 17;
}

int sign(int value) {
  return (value > 0) - (value < 0);
}

// int64 against double without losing the integer's low bits.
int compare_int_real(int64_t left, double right) {
  if (right >= 9.3e18) return -1;
  if (right < -9.3e18) return 1;
  const double whole = std::floor(right);
  if (whole >= 9223372036854775808.0) return -1;
  if (whole < -9223372036854775808.0) return 1;
  const auto truncated = static_cast<int64_t>(whole);
  if (left != truncated) return left < truncated ? -1 : 1;
  return right > whole ? -1 : 0;
}

bool numbers_equal(const Value& left, const Value& right) {
  if (left.is_real() && right.is_real()) return left.real() == right.real();
  if (left.is_real()) return !std::isnan(left.real()) && compare_int_real(right.integer(), left.real()) == 0;
  if (right.is_real())
    return !std::isnan(right.real()) && compare_int_real(left.integer(), right.real()) == 0;
  return left.integer() == right.integer();
}

void append_escaped(std::string& out, char32_t code) {
  static constexpr char kHex[] = "0123456789abcdef";
  const int digits = code < 0x100 ? 2 : code < 0x10000 ? 4 : 8;
  out += digits == 2 ? "\\x" : digits == 4 ? "\\u" : "\\U";
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) out += kHex[(code >> shift) & 15];
}

void append_string_repr(const std::string& text, std::string& out) {
  // Python prefers single quotes and takes double ones when that avoids a backslash.
  const char quote = text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  out += quote;
  for (size_t at = 0; at < text.size();) {
    const char32_t code = next_code_point(text, at);
    if (code == static_cast<char32_t>(quote) || code == '\\') {
      out += '\\';
      out += static_cast<char>(code);
    } else if (code == '\n') {
      out += "\\n";
    } else if (code == '\r') {
      out += "\\r";
    } else if (code == '\t') {
      out += "\\t";
    } else if (is_printable(code)) {
      append_code_point(out, code);
    } else {
      append_escaped(out, code);
    }
  }
  out += quote;
}

}  // namespace

std::string Undefined::message() const {
  const std::string type = owner == "NoneType" ? "None" : cat(owner, " object");
  switch (reason) {
    case Reason::name:
      return cat("'", what, "' is undefined");
    case Reason::attribute:
      return cat("'", type, "' has no attribute '", what, "'");
    case Reason::element:
      return cat(type, " has no element ", what);
    case Reason::hint:
      break;
  }
  return what;
}

template <class Equals>
int64_t Dict::locate(size_t hash, const Equals& equals) const {
  if (slots_.empty()) {
    for (size_t i = 0; i < items_.size(); ++i)
      if (equals(items_[i].first)) return static_cast<int64_t>(i);
    return -1;
  }
  for (size_t slot = mix(hash) & (slots_.size() - 1); slots_[slot]; slot = (slot + 1) & (slots_.size() - 1))
    if (equals(items_[slots_[slot] - 1].first)) return slots_[slot] - 1;
  return -1;
}

const Value* Dict::find(const Value& key) const {
  if (!scalar_key(key)) return nullptr;
  const int64_t at = locate(hash_scalar(key), [&](const Value& other) { return scalar_equal(other, key); });
  return at < 0 ? nullptr : &items_[static_cast<size_t>(at)].second;
}

const Value* Dict::find(std::string_view key) const {
  const int64_t at =
      locate(hash_text(key), [&](const Value& other) { return other.is_string() && other.view() == key; });
  return at < 0 ? nullptr : &items_[static_cast<size_t>(at)].second;
}

void Dict::set(Value key, Value value) {
  depth_ = std::max(depth_, value.depth() + 1);
  const int64_t at = locate(hash_scalar(key), [&](const Value& other) { return scalar_equal(other, key); });
  if (at >= 0) {
    items_[static_cast<size_t>(at)].second = std::move(value);
    return;
  }
  items_.emplace_back(std::move(key), std::move(value));
  if (slots_.empty() ? items_.size() > kLinearItems : 2 * items_.size() > slots_.size()) {
    grow();
  } else if (!slots_.empty()) {
    size_t slot = mix(hash_scalar(items_.back().first)) & (slots_.size() - 1);
    while (slots_[slot]) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = static_cast<uint32_t>(items_.size());
  }
}

void Dict::grow() {
  slots_.assign(std::bit_ceil(4 * items_.size()), 0);
  for (size_t i = 0; i < items_.size(); ++i) {
    size_t slot = mix(hash_scalar(items_[i].first)) & (slots_.size() - 1);
    while (slots_[slot]) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = static_cast<uint32_t>(i + 1);
  }
}

void Dict::clear() {
  items_.clear();
  slots_.clear();
}

std::optional<Value> Object::attribute(Runtime&, std::string_view) {
  return std::nullopt;
}

Value Object::call(Runtime& runtime, const CallArguments&) {
  runtime.error("'", type_name(), "' object is not callable");
}

Value Value::text(std::string text, bool markup) {
  const size_t length = count_code_points(text);
  return StringPtr(std::make_shared<const String>(String{std::move(text), length, markup}));
}

Value Value::undefined(Undefined undefined) {
  Value value;
  value.data_ = std::make_shared<const Undefined>(std::move(undefined));
  return value;
}

Value Value::undefined_name(std::string_view name) {
  return undefined({Undefined::Reason::name, std::string(name)});
}

Value Value::big_integer(std::string digits) {
  Value value;
  value.data_ = std::make_shared<const BigInteger>(BigInteger{std::move(digits)});
  return value;
}

Value Value::sequence(std::vector<Value> items, SequenceType type) {
  auto made = std::make_shared<Sequence>();
  for (const Value& item : items) made->depth = std::max(made->depth, item.depth() + 1);
  made->type = type;
  made->items = std::move(items);
  return SequencePtr(std::move(made));
}

bool Value::truthy() const {
  if (is_undefined() || is_none()) return false;
  if (is_bool()) return boolean();
  if (is_int()) return integer() != 0;
  if (is_real()) return real() != 0;
  if (is_string()) return !view().empty();
  if (is_sequence()) return sequence().type == SequenceType::iterator || !sequence().items.empty();
  if (is_dict()) return dict().size() != 0;
  return true;
}

unsigned Value::depth() const {
  if (is_sequence()) return sequence().depth;
  if (is_dict()) return dict().depth();
  if (is_object()) return object().depth();
  return 0;
}

std::string_view Value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int() || is_big()) return "int";
  if (is_real()) return "float";
  if (is_string()) return string().markup ? "Markup" : "str";
  if (is_dict()) return "dict";
  if (is_object()) return object().type_name();
  switch (sequence().type) {
    case SequenceType::list:
      return "list";
    case SequenceType::tuple:
      return "tuple";
    case SequenceType::range:
      return "range";
    case SequenceType::view:
      return "dict_view";
    case SequenceType::iterator:
      break;
  }
  return "generator";
}

bool Value::same_as(const Value& other) const {
  if (data_.index() != other.data_.index()) return false;
  if (is_none()) return true;
  if (is_integral()) return integer() == other.integer();
  if (is_string()) return &string() == &other.string();
  if (is_sequence()) return &sequence() == &other.sequence();
  if (is_dict()) return &dict() == &other.dict();
  if (is_object()) return &object() == &other.object();
  return false;
}

bool scalar_key(const Value& value) {
  return value.is_none() || value.is_number() || value.is_string();
}

bool scalar_equal(const Value& left, const Value& right) {
  if (left.is_string()) return right.is_string() && left.view() == right.view();
  if (left.is_number()) return right.is_number() && numbers_equal(left, right);
  return left.is_none() && right.is_none();
}

bool equal(Runtime& runtime, const Value& left, const Value& right) {
  runtime.step();
  if (left.is_undefined() || right.is_undefined()) return left.is_undefined() && right.is_undefined();
  if (left.is_big() || right.is_big())
    return left.is_big() && right.is_big() && left.big_digits() == right.big_digits();
  if (left.is_sequence() && right.is_sequence()) {
    const Sequence &a = left.sequence(), &b = right.sequence();
    if (a.type == SequenceType::iterator || b.type == SequenceType::iterator) return &a == &b;
    if (a.type != b.type || a.items.size() != b.items.size()) return false;
    for (size_t i = 0; i < a.items.size(); ++i)
      if (!equal(runtime, a.items[i], b.items[i])) return false;
    return true;
  }
  if (left.is_dict() && right.is_dict()) {
    const Dict &a = left.dict(), &b = right.dict();
    if (a.size() != b.size()) return false;
    for (const auto& [key, value] : a.items()) {
      const Value* other = b.find(key);
      if (!other || !equal(runtime, value, *other)) return false;
    }
    return true;
  }
  if (left.is_object() && right.is_object()) return &left.object() == &right.object();
  if (left.is_string() && right.is_string()) runtime.step(left.view().size() / 256);
  return scalar_equal(left, right);
}

int compare(Runtime& runtime, const Value& left, const Value& right, std::string_view operation) {
  runtime.step();
  if (left.is_undefined()) runtime.undefined_error(left);
  if (right.is_undefined()) runtime.undefined_error(right);
  if (left.is_number() && right.is_number()) {
    if (left.is_real() && right.is_real())
      return left.real() < right.real() ? -1 : left.real() > right.real();
    if (left.is_real()) return -compare_int_real(right.integer(), left.real());
    if (right.is_real()) return compare_int_real(left.integer(), right.real());
    return left.integer() < right.integer() ? -1 : left.integer() > right.integer();
  }
  // The order of UTF-8 bytes is the order of code points.
  if (left.is_string() && right.is_string()) {
    runtime.step(left.view().size() / 256);
    return sign(left.view().compare(right.view()));
  }
  if ((left.is_sequence(SequenceType::list) && right.is_sequence(SequenceType::list)) ||
      (left.is_sequence(SequenceType::tuple) && right.is_sequence(SequenceType::tuple))) {
    const auto &a = left.sequence().items, &b = right.sequence().items;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      if (!equal(runtime, a[i], b[i])) return compare(runtime, a[i], b[i], operation);
    return a.size() < b.size() ? -1 : a.size() > b.size();
  }
  runtime.error("'", operation, "' not supported between instances of '", left.type_name(), "' and '",
                right.type_name(), "'");
}

std::string real_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto scientific = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  const std::string_view shortest(buffer, static_cast<size_t>(scientific.ptr - buffer));
  int exponent = 0;
  std::string_view digits = shortest.substr(shortest.find('e') + 1);
  if (digits.starts_with('+')) digits.remove_prefix(1);
  std::from_chars(digits.data(), digits.data() + digits.size(), exponent);
  if (exponent < -4 || exponent >= 16) return std::string(shortest);
  char plain[64];
  const auto fixed = std::to_chars(plain, plain + sizeof plain, value, std::chars_format::fixed);
  std::string out(plain, fixed.ptr);
  if (out.find('.') == std::string::npos) out += ".0";
  return out;
}

void append_repr(Runtime& runtime, const Value& value, std::string& out) {
  runtime.step();
  if (value.is_string()) {
    std::string repr;
    append_string_repr(value.string().text, repr);
    if (value.string().markup) repr = cat("Markup(", repr, ")");
    return runtime.append(out, repr);
  }
  if (value.is_undefined()) return runtime.append(out, "Undefined");
  if (value.is_dict()) {
    runtime.append(out, "{");
    bool first = true;
    for (const auto& [key, item] : value.dict().items()) {
      if (!std::exchange(first, false)) runtime.append(out, ", ");
      append_repr(runtime, key, out);
      runtime.append(out, ": ");
      append_repr(runtime, item, out);
    }
    return runtime.append(out, "}");
  }
  if (value.is_sequence()) {
    const Sequence& sequence = value.sequence();
    if (sequence.type != SequenceType::list && sequence.type != SequenceType::tuple)
      runtime.unsupported("printing a ", value.type_name(), " (write |list first)");
    const bool tuple = sequence.type == SequenceType::tuple;
    runtime.append(out, tuple ? "(" : "[");
    bool first = true;
    for (const Value& item : sequence.items) {
      if (!std::exchange(first, false)) runtime.append(out, ", ");
      append_repr(runtime, item, out);
    }
    return runtime.append(out, tuple ? (sequence.items.size() == 1 ? ",)" : ")") : "]");
  }
  if (value.is_object()) runtime.unsupported("printing a ", value.type_name());
  append_str(runtime, value, out);
}

void append_str(Runtime& runtime, const Value& value, std::string& out) {
  if (value.is_string()) return runtime.append(out, value.view());
  if (value.is_undefined()) return;
  if (value.is_none()) return runtime.append(out, "None");
  if (value.is_bool()) return runtime.append(out, value.boolean() ? "True" : "False");
  if (value.is_int()) return runtime.append(out, cat(value.integer()));
  if (value.is_big()) return runtime.append(out, value.big_digits());
  if (value.is_real()) return runtime.append(out, real_repr(value.real()));
  append_repr(runtime, value, out);
}

std::string str(Runtime& runtime, const Value& value) {
  std::string out;
  append_str(runtime, value, out);
  return out;
}

}  // namespace qwen::jinja
