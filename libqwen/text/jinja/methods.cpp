// Methods of Python's str, dict, list and tuple.
#include <algorithm>

#include "text/jinja/operations.h"
#include "text/jinja/text.h"

namespace qwen::jinja {
namespace {

struct Method {
  std::string_view name;
  MethodFunction function;  // nullptr: Python has it, this interpreter does not
};

class BoundMethod : public Object {
 public:
  BoundMethod(Value self, const Method& method) : self_(std::move(self)), method_(method) {}
  std::string_view type_name() const override { return "builtin_function_or_method"; }
  bool callable() const override { return true; }
  unsigned depth() const override { return self_.depth() + 1; }
  Value call(Runtime& runtime, const CallArguments& arguments) override {
    if (!method_.function)
      runtime.unsupported("the method ", self_.type_name(), ".", method_.name, " is not supported");
    return method_.function(runtime, self_, arguments);
  }

 private:
  Value self_;
  Method method_;
};

// A new text with the mark of the one it comes from.
Value like(Runtime& runtime, const Value& self, std::string text) {
  return runtime.text(std::move(text), self.string().markup);
}

Value like(Runtime& runtime, const Value& self, std::string_view text) {
  return like(runtime, self, std::string(text));
}

template <std::string (*convert)(std::string_view)>
Value converted(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  bind(runtime, "method", arguments, {});
  return like(runtime, self, convert(self.view()));
}

template <bool left, bool right>
Value stripped(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind(runtime, "strip", arguments, {"chars"});
  if (!bound[0] || bound[0]->is_none()) return like(runtime, self, strip(self.view(), left, right));
  return like(runtime, self, strip(self.view(), text(runtime, "strip", *bound[0]), left, right));
}

std::string title(std::string_view text) {
  std::string out;
  bool inside = false;
  for (const std::string_view character : code_points(text)) {
    size_t at = 0;
    const char32_t code = next_code_point(character, at);
    out += inside ? lower(character) : upper(character);
    inside = is_upper_letter(code) || is_lower_letter(code);
  }
  return out;
}

std::string swap_case(std::string_view text) {
  std::string out;
  for (const std::string_view character : code_points(text)) {
    size_t at = 0;
    out += is_upper_letter(next_code_point(character, at)) ? lower(character) : upper(character);
  }
  return out;
}

// The part of self between the optional code point positions start and end, and where it begins.
std::string_view window(Runtime& runtime, const Value& self, const Value* start, const Value* end,
                        size_t* first = nullptr) {
  const std::string_view all = self.view();
  const auto length = static_cast<int64_t>(self.string().length);
  const auto position = [&](const Value* value, int64_t otherwise) {
    int64_t at = value && !value->is_none() ? integer(runtime, "str method", value, 0) : otherwise;
    if (at < 0) at = std::max<int64_t>(at + length, 0);
    return at;
  };
  const int64_t from = position(start, 0), to = std::min(position(end, length), length);
  if (first) *first = static_cast<size_t>(std::min(from, length));
  if (from > to) return {};
  const size_t begin = byte_offset(all, static_cast<size_t>(from));
  return all.substr(begin, byte_offset(all, static_cast<size_t>(to)) - begin);
}

template <bool at_start>
Value affix(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound =
      bind(runtime, at_start ? "startswith" : "endswith", arguments, {"prefix", "start", "end"}, 1);
  const std::string_view part = window(runtime, self, bound[1], bound[2]);
  const auto matches = [&](const Value& wanted) {
    const std::string_view piece = text(runtime, at_start ? "startswith" : "endswith", wanted);
    return at_start ? part.starts_with(piece) : part.ends_with(piece);
  };
  if (!bound[0]->is_sequence(SequenceType::tuple)) return matches(*bound[0]);
  return std::any_of(bound[0]->sequence().items.begin(), bound[0]->sequence().items.end(), matches);
}

template <bool prefix>
Value remove_affix(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const std::string_view piece =
      text(runtime, "remove", *bind(runtime, "remove", arguments, {"affix"}, 1)[0]);
  std::string_view all = self.view();
  if (prefix && all.starts_with(piece)) all.remove_prefix(piece.size());
  if (!prefix && all.ends_with(piece)) all.remove_suffix(piece.size());
  return like(runtime, self, all);
}

template <bool from_right, bool must_exist>
Value find(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind(runtime, "find", arguments, {"sub", "start", "end"}, 1);
  const std::string_view wanted = text(runtime, "find", *bound[0]);
  size_t first = 0;
  const std::string_view part = window(runtime, self, bound[1], bound[2], &first);
  runtime.build(part.size());
  const size_t at = from_right ? rfind_text(part, wanted) : find_text(part, wanted);
  // A window that starts behind the end holds nothing, not even the empty text.
  const bool outside =
      bound[1] && !bound[1]->is_none() && bound[1]->integer() > static_cast<int64_t>(self.string().length);
  if (at == std::string_view::npos || outside) {
    if (must_exist) runtime.error("substring not found");
    return int64_t{-1};
  }
  return static_cast<int64_t>(first + count_code_points(part.substr(0, at)));
}

Value count(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind(runtime, "count", arguments, {"sub", "start", "end"}, 1);
  const std::string_view wanted = text(runtime, "count", *bound[0]);
  const std::string_view part = window(runtime, self, bound[1], bound[2]);
  runtime.build(part.size());
  if (wanted.empty()) return static_cast<int64_t>(count_code_points(part) + 1);
  int64_t found = 0;
  for (size_t at = 0; (at = find_text(part, wanted, at)) != std::string_view::npos; at += wanted.size())
    ++found;
  return found;
}

Value replaced(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind(runtime, "replace", arguments, {"old", "new", "count"}, 2);
  const bool markup = self.string().markup;  // markupsafe escapes what is put in
  const std::string_view old_text = text(runtime, "replace", *bound[0]);
  std::string new_text(text(runtime, "replace", *bound[1]));
  if (markup && !bound[1]->string().markup) new_text = escape_html(new_text);
  const int64_t limit = integer(runtime, "replace", bound[2], -1);
  if (replaced_size(self.view(), old_text, new_text, limit) > kMaxTextBytes)
    runtime.unsupported("the limit of ", kMaxTextBytes, " bytes of one text is reached");
  return like(runtime, self, replace(self.view(), old_text, new_text, limit));
}

Value list_of(Runtime& runtime, const Value& self, const std::vector<std::string_view>& pieces,
              SequenceType type = SequenceType::list) {
  runtime.build(pieces.size() * 128);
  std::vector<Value> items;
  items.reserve(pieces.size());
  for (const std::string_view piece : pieces) items.push_back(like(runtime, self, piece));
  return runtime.sequence(std::move(items), type);
}

// Pieces between runs of white space, at most `limit` cuts (negative: all), counted from the left or the
// right.
std::vector<std::string_view> split_space(std::string_view all, int64_t limit, bool from_right) {
  std::vector<std::string_view> pieces;
  all = strip(all, !from_right, from_right);
  if (from_right) {
    while (!all.empty()) {
      if (limit == 0) {
        pieces.push_back(all);
        break;
      }
      // The last run of characters that are not white space.
      size_t start = all.size();
      while (start > 0) {
        size_t at = start - 1;
        while (at > 0 && (static_cast<unsigned char>(all[at]) & 0xC0) == 0x80) --at;
        size_t behind = at;
        if (is_space(next_code_point(all, behind))) break;
        start = at;
      }
      pieces.push_back(all.substr(start));
      all = strip(all.substr(0, start), false, true);
      --limit;
    }
    std::reverse(pieces.begin(), pieces.end());
    return pieces;
  }
  while (!all.empty()) {
    if (limit-- == 0) {
      pieces.push_back(all);
      break;
    }
    size_t end = 0;
    while (end < all.size()) {
      size_t at = end;
      if (is_space(next_code_point(all, at))) break;
      end = at;
    }
    pieces.push_back(all.substr(0, end));
    all = strip(all.substr(end), true, false);
  }
  return pieces;
}

template <bool from_right>
Value split(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind(runtime, "split", arguments, {"sep", "maxsplit"});
  int64_t limit = integer(runtime, "split", bound[1], -1);
  const std::string_view all = self.view();
  if (!bound[0] || bound[0]->is_none()) return list_of(runtime, self, split_space(all, limit, from_right));
  const std::string_view separator = text(runtime, "split", *bound[0]);
  if (separator.empty()) runtime.error("empty separator");
  // From the right: cut the mirror image from the left.
  const std::string mirror = from_right ? std::string(all.rbegin(), all.rend()) : std::string();
  const std::string pattern =
      from_right ? std::string(separator.rbegin(), separator.rend()) : std::string(separator);
  const std::string_view searched = from_right ? std::string_view(mirror) : all;
  std::vector<std::string_view> pieces;
  const auto take = [&](size_t begin, size_t end) {
    pieces.push_back(all.substr(from_right ? all.size() - end : begin, end - begin));
  };
  size_t start = 0;
  for (; limit != 0; --limit) {
    const size_t at = find_text(searched, pattern, start);
    if (at == std::string_view::npos) break;
    take(start, at);
    start = at + separator.size();
  }
  take(start, all.size());
  if (from_right) std::reverse(pieces.begin(), pieces.end());
  return list_of(runtime, self, pieces);
}

template <bool from_right>
Value partition(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const std::string_view separator =
      text(runtime, "partition", *bind(runtime, "partition", arguments, {"sep"}, 1)[0]);
  if (separator.empty()) runtime.error("empty separator");
  const std::string_view all = self.view();
  runtime.build(all.size());
  const size_t at = from_right ? rfind_text(all, separator) : find_text(all, separator);
  if (at == std::string_view::npos)
    return list_of(
        runtime, self,
        from_right ? std::vector<std::string_view>{"", "", all} : std::vector<std::string_view>{all, "", ""},
        SequenceType::tuple);
  return list_of(runtime, self, {all.substr(0, at), separator, all.substr(at + separator.size())},
                 SequenceType::tuple);
}

Value splitlines(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind(runtime, "splitlines", arguments, {"keepends"});
  return list_of(runtime, self, split_lines(self.view(), flag(bound[0], false)));
}

Value join(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind(runtime, "join", arguments, {"iterable"}, 1);
  std::string out;
  bool first = true;
  for (const Value& item : iterate(runtime, *bound[0])) {
    if (!item.is_string())
      runtime.error("sequence item: expected str instance, ", item.type_name(), " found");
    if (!std::exchange(first, false)) runtime.append(out, self.view());
    runtime.append(out, self.string().markup && !item.string().markup ? escape_html(item.view())
                                                                      : std::string(item.view()));
  }
  return like(runtime, self, std::move(out));
}

template <bool left, bool right>
Value justify(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind(runtime, "justify", arguments, {"width", "fillchar"}, 1);
  const int64_t missing =
      integer(runtime, "justify", bound[0], 0) - static_cast<int64_t>(self.string().length);
  const std::string fill(bound[1] ? text(runtime, "justify", *bound[1]) : " ");
  if (count_code_points(fill) != 1) runtime.error("the fill character must be exactly one character long");
  if (missing <= 0) return self;
  if (missing > static_cast<int64_t>(kMaxTextBytes / 4))
    runtime.unsupported("the limit of ", kMaxTextBytes, " bytes of one text is reached");
  // center() puts the odd one left when the width is odd, as CPython does.
  const int64_t before =
      left && right ? missing / 2 + (missing & (missing + static_cast<int64_t>(self.string().length)) & 1)
      : right       ? missing
                    : 0;
  std::string out;
  for (int64_t i = 0; i < before; ++i) out += fill;
  out += self.view();
  for (int64_t i = before; i < missing; ++i) out += fill;
  return like(runtime, self, std::move(out));
}

Value zfill(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind(runtime, "zfill", arguments, {"width"}, 1);
  const int64_t missing = integer(runtime, "zfill", bound[0], 0) - static_cast<int64_t>(self.string().length);
  if (missing <= 0) return self;
  if (missing > static_cast<int64_t>(kMaxTextBytes))
    runtime.unsupported("the limit of ", kMaxTextBytes, " bytes of one text is reached");
  std::string out(self.view());
  const size_t sign = !out.empty() && (out[0] == '-' || out[0] == '+');
  out.insert(sign, static_cast<size_t>(missing), '0');
  return like(runtime, self, std::move(out));
}

// Every character of a kind, and at least one of them. What is not ASCII would need Unicode's category
// tables.
template <bool digits, bool letters, bool spaces>
Value all_of(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  bind(runtime, "method", arguments, {});
  const std::string_view all = self.view();
  for (size_t at = 0; at < all.size();) {
    const char32_t code = next_code_point(all, at);
    if (spaces ? is_space(code) : false) continue;
    if (!spaces && code >= 0x80)
      runtime.unsupported("str.isalpha and its like beyond ASCII are not supported");
    if (digits && code >= '0' && code <= '9') continue;
    if (letters && ((code | 0x20) >= 'a' && (code | 0x20) <= 'z')) continue;
    return false;
  }
  return !all.empty();
}

template <bool upper_case>
Value is_case(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  bind(runtime, "method", arguments, {});
  return find_test(upper_case ? "upper" : "lower")(runtime, self, arguments);
}

// "{} {0} {name}".format(...), without conversions and format specifications.
Value format(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  std::string out;
  size_t automatic = 0;
  bool automatic_fields = false, numbered_fields = false;
  const std::string_view all = self.view();
  for (size_t at = 0; at < all.size();) {
    const char c = all[at++];
    if (c != '{' && c != '}') {
      out += c;
      continue;
    }
    if (at < all.size() && all[at] == c) {
      out += c;
      ++at;
      continue;
    }
    const size_t end = c == '{' ? all.find('}', at) : std::string_view::npos;
    if (end == std::string_view::npos) runtime.error("single '", c, "' in a format string");
    const std::string_view field = all.substr(at, end - at);
    at = end + 1;
    const Value* value = nullptr;
    if (field.find_first_not_of("0123456789") == std::string_view::npos && field.size() < 6) {
      (field.empty() ? automatic_fields : numbered_fields) = true;
      if (automatic_fields && numbered_fields) runtime.error("a format string with both '{}' and '{0}'");
      const size_t index = field.empty() ? automatic++ : static_cast<size_t>(std::stoi(std::string(field)));
      if (index >= arguments.positional.size()) runtime.error("replacement index ", index, " out of range");
      value = &arguments.positional[index];
    } else {
      if (field.find_first_of("!:.[{") != std::string_view::npos)
        runtime.unsupported("the format field ", quote(field), " is not supported");
      for (const auto& [name, named] : arguments.named)
        if (name == field) value = &named;
      if (!value) runtime.error("format() misses the argument ", quote(field));
    }
    append_str(runtime, *value, out);
  }
  return like(runtime, self, std::move(out));
}

template <int part>  // 0: keys, 1: values, 2: pairs
Value dict_view(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  bind(runtime, "dict method", arguments, {});
  std::vector<Value> items;
  items.reserve(self.dict().size());
  if (part == 2) runtime.build(self.dict().size() * 160);
  for (const auto& [key, value] : self.dict().items())
    items.push_back(part == 0   ? key
                    : part == 1 ? value
                                : runtime.sequence({key, value}, SequenceType::tuple));
  return runtime.sequence(std::move(items), SequenceType::view);
}

Value dict_get(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind(runtime, "get", arguments, {"key", "default"}, 1);
  if (const Value* found = self.dict().find(*bound[0])) return *found;
  return bound[1] ? *bound[1] : Value();
}

Value copied(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  bind(runtime, "copy", arguments, {});
  return self;  // values do not change, so nobody can tell
}

Value list_count(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind(runtime, "count", arguments, {"value"}, 1);
  int64_t found = 0;
  for (const Value& item : self.sequence().items) found += equal(runtime, item, *bound[0]);
  return found;
}

Value list_index(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind(runtime, "index", arguments, {"value"}, 1);
  const auto& items = self.sequence().items;
  for (size_t i = 0; i < items.size(); ++i)
    if (equal(runtime, items[i], *bound[0])) return static_cast<int64_t>(i);
  runtime.error("the value is not in the list");
}

constexpr Method kStringMethods[] = {
    {"capitalize", converted<capitalize>},
    {"casefold", nullptr},
    {"center", justify<true, true>},
    {"count", count},
    {"encode", nullptr},
    {"endswith", affix<false>},
    {"expandtabs", nullptr},
    {"find", find<false, false>},
    {"format", format},
    {"format_map", nullptr},
    {"index", find<false, true>},
    {"isalnum", all_of<true, true, false>},
    {"isalpha", all_of<false, true, false>},
    {"isascii", nullptr},
    {"isdecimal", all_of<true, false, false>},
    {"isdigit", all_of<true, false, false>},
    {"isidentifier", nullptr},
    {"islower", is_case<false>},
    {"isnumeric", all_of<true, false, false>},
    {"isprintable", nullptr},
    {"isspace", all_of<false, false, true>},
    {"istitle", nullptr},
    {"isupper", is_case<true>},
    {"join", join},
    {"ljust", justify<true, false>},
    {"lower", converted<lower>},
    {"lstrip", stripped<true, false>},
    {"maketrans", nullptr},
    {"partition", partition<false>},
    {"removeprefix", remove_affix<true>},
    {"removesuffix", remove_affix<false>},
    {"replace", replaced},
    {"rfind", find<true, false>},
    {"rindex", find<true, true>},
    {"rjust", justify<false, true>},
    {"rpartition", partition<true>},
    {"rsplit", split<true>},
    {"rstrip", stripped<false, true>},
    {"split", split<false>},
    {"splitlines", splitlines},
    {"startswith", affix<true>},
    {"strip", stripped<true, true>},
    {"swapcase", converted<swap_case>},
    {"title", converted<title>},
    {"translate", nullptr},
    {"upper", converted<upper>},
    {"zfill", zfill},
};

constexpr Method kDictMethods[] = {
    {"copy", copied},        {"fromkeys", nullptr},  {"get", dict_get},
    {"items", dict_view<2>}, {"keys", dict_view<0>}, {"values", dict_view<1>},
};

constexpr Method kSequenceMethods[] = {
    {"copy", copied},
    {"count", list_count},
    {"index", list_index},
};

// What would change the value: jinja2's immutable sandbox answers with an Undefined that says so.
constexpr std::string_view kForbiddenDictMethods[] = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr std::string_view kForbiddenListMethods[] = {"append", "clear",  "extend",  "insert",
                                                      "pop",    "remove", "reverse", "sort"};

std::optional<Value> bound(const Value& self, std::span<const Method> methods, std::string_view name) {
  for (const Method& method : methods)
    if (method.name == name) return Value(std::make_shared<BoundMethod>(self, method));
  return std::nullopt;
}

std::optional<Value> forbidden(const Value& self, std::span<const std::string_view> names,
                               std::string_view name) {
  if (std::find(names.begin(), names.end(), name) == names.end()) return std::nullopt;
  return Value::undefined({Undefined::Reason::hint, cat("access to attribute '", name, "' of '",
                                                        self.type_name(), "' object is unsafe.")});
}

}  // namespace

std::optional<Value> find_method(Runtime&, const Value& value, std::string_view name) {
  if (value.is_string()) return bound(value, kStringMethods, name);
  if (value.is_dict()) {
    auto found = bound(value, kDictMethods, name);
    return found ? found : forbidden(value, kForbiddenDictMethods, name);
  }
  if (!value.is_sequence()) return std::nullopt;
  const bool list = value.is_sequence(SequenceType::list);
  if (list)
    if (auto found = forbidden(value, kForbiddenListMethods, name)) return found;
  if (list || (value.is_sequence(SequenceType::tuple) && name != "copy"))
    return bound(value, kSequenceMethods, name);
  return std::nullopt;
}

}  // namespace qwen::jinja
