// jinja2's filters that work on one value: text, numbers, JSON. Those over lists are in
// list_filters.cpp.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "text/jinja/filter_tables.h"
#include "text/jinja/operations.h"
#include "text/jinja/text.h"

namespace qwen::jinja {
namespace {

// soft_str: a string stays what it is, anything else becomes its str().
Value soft(Runtime& runtime, const Value& subject) {
  return subject.is_string() ? subject : runtime.text(str(runtime, subject));
}

template <std::string (*convert)(std::string_view)>
Value converted(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  bind(runtime, "filter", arguments, {});
  const Value text = soft(runtime, subject);
  return runtime.text(convert(text.view()), text.string().markup);
}

// Each word's first letter in upper case; words begin behind blanks, hyphens and opening brackets.
std::string title(std::string_view text) {
  std::string out;
  bool inside = false;
  for (const std::string_view character : code_points(text)) {
    size_t at = 0;
    const char32_t code = next_code_point(character, at);
    const bool separates =
        is_space(code) || std::u32string_view(U"-({[<").find(code) != std::u32string_view::npos;
    out += inside ? lower(character) : upper(character);
    inside = !separates;
  }
  return out;
}

Value trim(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "trim", arguments, {"chars"});
  const Value whole = soft(runtime, subject);
  const std::string_view part = !bound[0] || bound[0]->is_none()
                                    ? strip(whole.view(), true, true)
                                    : strip(whole.view(), text(runtime, "trim", *bound[0]), true, true);
  return runtime.text(std::string(part), whole.string().markup);
}

Value to_string(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  bind(runtime, "string", arguments, {});
  return soft(runtime, subject);
}

Value safe(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  bind(runtime, "safe", arguments, {});
  return runtime.text(str(runtime, subject), true);
}

Value escape(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  bind(runtime, "escape", arguments, {});
  const Value text = soft(runtime, subject);
  return text.string().markup ? text : runtime.text(escape_html(text.view()), true);
}

Value replaced(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "replace", arguments, {"old", "new", "count"}, 2);
  const std::string whole = str(runtime, subject), old_text = str(runtime, *bound[0]),
                    new_text = str(runtime, *bound[1]);
  const int64_t limit = bound[2] && !bound[2]->is_none() ? integer(runtime, "replace", bound[2], -1) : -1;
  if (replaced_size(whole, old_text, new_text, limit) > kMaxTextBytes)
    runtime.unsupported("the limit of ", kMaxTextBytes, " bytes of one text is reached");
  return runtime.text(replace(whole, old_text, new_text, limit));
}

Value indent(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "indent", arguments, {"width", "first", "blank"});
  std::string indention;
  if (bound[0] && bound[0]->is_string()) {
    indention = bound[0]->view();
  } else {
    const int64_t width = integer(runtime, "indent", bound[0], 4);
    if (width > static_cast<int64_t>(kMaxTextBytes))
      runtime.unsupported("the limit of ", kMaxTextBytes, " bytes of one text is reached");
    indention.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const bool first = flag(bound[1], false), blank = flag(bound[2], false);
  // jinja2 appends a newline first, so that the text's own last newline is kept.
  const std::string whole = cat(text(runtime, "indent", subject), "\n");
  std::string out;
  bool at_first = true;
  for (const std::string_view line : split_lines(whole, false)) {
    if (!at_first) runtime.append(out, "\n");
    if (at_first ? first : (blank || !line.empty())) runtime.append(out, indention);
    runtime.append(out, line);
    at_first = false;
  }
  return runtime.text(std::move(out), subject.string().markup);
}

Value to_json(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound =
      bind(runtime, "tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = flag(bound[0], false);
  style.sort_keys = flag(bound[3], false);
  if (bound[1] && !bound[1]->is_none()) {
    if (bound[1]->is_string()) {
      style.indent = std::string(bound[1]->view());
    } else {
      const int64_t width = integer(runtime, "tojson", bound[1], 0);
      if (width > 10000) runtime.unsupported("the limit of 10000 blanks of tojson's indent is reached");
      style.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
    style.item_separator = ",";
  }
  if (bound[2] && !bound[2]->is_none()) {
    const auto separators = iterate(runtime, *bound[2]);
    if (separators.size() != 2) runtime.error("tojson's separators must be two strings");
    style.item_separator = text(runtime, "tojson", separators[0]);
    style.key_separator = text(runtime, "tojson", separators[1]);
  }
  std::string out;
  append_json(runtime, subject, style, out);
  return runtime.text(std::move(out));
}

Value otherwise(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "default", arguments, {"default_value", "boolean"});
  const bool missing = subject.is_undefined() || (flag(bound[1], false) && !subject.truthy());
  if (!missing) return subject;
  return bound[0] ? *bound[0] : Value::text("");
}

// Python's float(text), without underscores. nullopt: not a number.
std::optional<double> parse_real(std::string_view text) {
  text = strip(text, true, true);
  std::string_view digits = text;
  if (digits.starts_with('+')) digits.remove_prefix(1);
  if (digits.empty() || (digits[0] == '-' && digits.size() != text.size())) return std::nullopt;
  double value = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (parsed.ptr != digits.data() + digits.size()) return std::nullopt;
  if (parsed.ec == std::errc::result_out_of_range) {
    const size_t e = digits.find_first_of("eE");
    const bool small = e != std::string_view::npos && digits.substr(e + 1).starts_with('-');
    value =
        std::copysign(small ? 0.0 : std::numeric_limits<double>::infinity(), digits[0] == '-' ? -1.0 : 1.0);
  } else if (parsed.ec != std::errc()) {
    return std::nullopt;
  }
  return value;
}

std::optional<Value> parse_integer(Runtime& runtime, std::string_view text, int64_t base) {
  text = strip(text, true, true);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  const std::string_view prefix = base == 16 ? "0x" : base == 8 ? "0o" : base == 2 ? "0b" : "";
  if (!prefix.empty() && text.size() > 2 && text[0] == '0' && (text[1] | 0x20) == prefix[1])
    text.remove_prefix(2);
  std::string digits(negative ? "-" : "");
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '_' && i > 0 && i + 1 < text.size() && text[i - 1] != '_') continue;
    digits += text[i];
  }
  if (digits.empty() || (negative && (digits.size() < 2 || digits[1] == '-'))) return std::nullopt;
  int64_t value = 0;
  const auto parsed =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, static_cast<int>(base));
  if (parsed.ec == std::errc::result_out_of_range && parsed.ptr == digits.data() + digits.size())
    runtime.unsupported("integers beyond 64 bits are not supported");
  if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size()) return std::nullopt;
  return value;
}

std::optional<Value> truncated(Runtime& runtime, double value) {
  if (!std::isfinite(value)) return std::nullopt;
  if (std::abs(value) >= 9.2e18) runtime.unsupported("integers beyond 64 bits are not supported");
  return static_cast<int64_t>(value);
}

Value to_integer(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "int", arguments, {"default", "base"});
  const Value fallback = bound[0] ? *bound[0] : Value(int64_t{0});
  const int64_t base = integer(runtime, "int", bound[1], 10);
  if (base < 2 || base > 36) runtime.unsupported("int() with base ", base, " is not supported");
  if (subject.is_undefined()) runtime.undefined_error(subject);
  std::optional<Value> value;
  if (subject.is_big()) return subject;
  if (subject.is_integral()) return subject.integer();
  if (subject.is_real()) value = truncated(runtime, subject.real());
  if (subject.is_string()) {
    value = parse_integer(runtime, subject.view(), base);
    if (!value)
      if (const auto real = parse_real(subject.view())) value = truncated(runtime, *real);
  }
  return value ? *value : fallback;
}

Value to_real(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "float", arguments, {"default"});
  if (subject.is_undefined()) runtime.undefined_error(subject);
  if (subject.is_number()) return subject.real();
  if (subject.is_big()) runtime.unsupported("integers beyond 64 bits are not supported");
  if (subject.is_string())
    if (const auto real = parse_real(subject.view())) return *real;
  return bound[0] ? *bound[0] : Value(0.0);
}

Value absolute(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  bind(runtime, "abs", arguments, {});
  if (subject.is_undefined()) runtime.undefined_error(subject);
  if (subject.is_real()) return std::abs(subject.real());
  if (!subject.is_integral()) runtime.error("bad operand type for abs(): '", subject.type_name(), "'");
  return subject.integer() < 0 ? negate(runtime, subject, '-') : Value(subject.integer());
}

// Python's round(value, digits): correctly rounded from the exact binary value, halves to even.
double round_real(double value, int64_t digits) {
  if (!std::isfinite(value) || digits > 300) return value;
  if (digits >= 0) {
    char buffer[1024];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed,
                                   static_cast<int>(digits));
    double rounded = value;
    std::from_chars(buffer, end.ptr, rounded);
    return rounded;
  }
  if (digits < -308) return std::copysign(0.0, value);
  const double scale = std::pow(10.0, static_cast<double>(-digits));
  return std::nearbyint(value / scale) * scale;
}

Value rounded(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "round", arguments, {"precision", "method"});
  const int64_t digits = integer(runtime, "round", bound[0], 0);
  const std::string_view method = bound[1] ? text(runtime, "round", *bound[1]) : "common";
  if (method != "common" && method != "ceil" && method != "floor")
    runtime.error("round's method must be common, ceil or floor");
  if (subject.is_undefined()) runtime.undefined_error(subject);
  if (!subject.is_number()) runtime.error("type ", subject.type_name(), " cannot be rounded");
  if (method == "common") {
    if (subject.is_real()) return round_real(subject.real(), digits);
    if (digits >= 0) return subject.integer();
    runtime.unsupported("rounding an integer to a negative precision is not supported");
  }
  const double scale = std::pow(10.0, static_cast<double>(digits));
  const double scaled = subject.real() * scale;
  return (method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale;
}

Value formatted(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  if (!arguments.named.empty())
    runtime.unsupported("the filter 'format' with named arguments is not supported");
  const Value pattern = soft(runtime, subject);
  const Value values = runtime.sequence(arguments.positional, SequenceType::tuple);
  return runtime.text(format_percent(runtime, pattern.view(), values), pattern.string().markup);
}

Value word_count(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  bind(runtime, "wordcount", arguments, {});
  const std::string whole = str(runtime, subject);
  int64_t words = 0;
  bool inside = false;
  for (const char c : whole) {
    if (static_cast<unsigned char>(c) >= 0x80)
      runtime.unsupported("the filter 'wordcount' beyond ASCII is not supported");
    const bool word = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_';
    words += word && !inside;
    inside = word;
  }
  return words;
}

Value attribute(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "attr", arguments, {"name"}, 1);
  const std::string name = str(runtime, *bound[0]);
  // Unlike a dot, this never takes an item.
  if (subject.is_undefined()) runtime.undefined_error(subject);
  if (!subject.is_dict() || find_method(runtime, subject, name)) return get_attribute(runtime, subject, name);
  return Value::undefined({Undefined::Reason::attribute, name, subject.type_name()});
}

constexpr NamedFilter kFilters[] = {
    {"abs", absolute},     {"attr", attribute},         {"capitalize", converted<capitalize>},
    {"d", otherwise},      {"default", otherwise},      {"e", escape},
    {"escape", escape},    {"float", to_real},          {"format", formatted},
    {"indent", indent},    {"int", to_integer},         {"lower", converted<lower>},
    {"replace", replaced}, {"round", rounded},          {"safe", safe},
    {"string", to_string}, {"title", converted<title>}, {"tojson", to_json},
    {"trim", trim},        {"upper", converted<upper>}, {"wordcount", word_count},
};

}  // namespace

FilterFunction find_filter(std::string_view name) {
  for (const auto& [known, function] : kFilters)
    if (known == name) return function;
  return find_list_filter(name);
}

std::string format_percent(Runtime& runtime, std::string_view format, const Value& values) {
  const bool tuple = values.is_sequence(SequenceType::tuple);
  size_t used = 0;
  const auto next = [&]() -> const Value& {
    if (tuple && used < values.sequence().items.size()) return values.sequence().items[used++];
    if (tuple || used++ > 0) runtime.error("not enough arguments for format string");
    return values;
  };
  std::string out;
  for (size_t at = 0; at < format.size(); ++at) {
    if (format[at] != '%') {
      out += format[at];
      continue;
    }
    if (++at >= format.size()) runtime.error("incomplete format");
    int precision = 6;
    if (format[at] == '.' && at + 2 < format.size() && format[at + 1] >= '0' && format[at + 1] <= '9') {
      precision = format[at + 1] - '0';
      at += 2;
      if (format[at] != 'f') runtime.unsupported("a precision in a '%' format is supported for %f only");
    }
    switch (format[at]) {
      case '%':
        out += '%';
        break;
      case 's':
        append_str(runtime, next(), out);
        break;
      case 'r':
        append_repr(runtime, next(), out);
        break;
      case 'd':
      case 'i': {
        const Value& value = next();
        if (value.is_undefined()) runtime.undefined_error(value);
        if (!value.is_number())
          runtime.error("%d format: a real number is required, not ", value.type_name());
        if (value.is_integral()) {
          append_str(runtime, value.integer(), out);
        } else if (const auto whole = truncated(runtime, value.real())) {
          append_str(runtime, *whole, out);
        } else {
          runtime.error("cannot convert float ", real_repr(value.real()), " to integer");
        }
        break;
      }
      case 'f': {
        const Value& value = next();
        if (value.is_undefined()) runtime.undefined_error(value);
        if (!value.is_number()) runtime.error("must be real number, not ", value.type_name());
        char buffer[512];
        const auto end =
            std::to_chars(buffer, buffer + sizeof buffer, value.real(), std::chars_format::fixed, precision);
        out.append(buffer, end.ptr);
        break;
      }
      default:
        runtime.unsupported("the format '%", format[at], "' is not supported");
    }
  }
  const bool unused = tuple ? used < values.sequence().items.size() : used == 0 && !values.is_dict();
  if (unused) runtime.error("not all arguments converted during string formatting");
  return out;
}

}  // namespace qwen::jinja
