// jinja2's filters over lists and dicts.
#include <algorithm>
#include <charconv>

#include "text/jinja/filter_tables.h"
#include "text/jinja/operations.h"
#include "text/jinja/text.h"

namespace qwen::jinja {
namespace {

// attribute='a.b.0': items (or attributes) looked up one after the other; nothing: the value itself.
class Getter {
 public:
  Getter(Runtime& runtime, const Value* path, const Value* otherwise = nullptr) : otherwise_(otherwise) {
    if (!path || path->is_none()) return;
    if (!path->is_string()) {
      path_.push_back(*path);
      return;
    }
    std::string_view rest = path->view();
    for (;;) {
      const size_t dot = rest.find('.');
      const std::string_view part = rest.substr(0, dot);
      int64_t index = 0;
      const auto parsed = std::from_chars(part.data(), part.data() + part.size(), index);
      const bool number = !part.empty() && part[0] != '-' && parsed.ec == std::errc() &&
                          parsed.ptr == part.data() + part.size();
      path_.push_back(number ? Value(index) : runtime.text(std::string(part)));
      if (dot == std::string_view::npos) break;
      rest = rest.substr(dot + 1);
    }
  }
  Value operator()(Runtime& runtime, const Value& item) const {
    Value value = item;
    for (const Value& part : path_) {
      value = get_item(runtime, value, part);
      if (otherwise_ && value.is_undefined()) value = *otherwise_;
    }
    return value;
  }

 private:
  std::vector<Value> path_;
  const Value* otherwise_;
};

// What is compared: strings without regard to case unless asked for.
Value comparable(Runtime& runtime, const Value& value, bool case_sensitive) {
  return case_sensitive || !value.is_string() ? value : runtime.text(lower(value.view()));
}

Value length_filter(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  bind(runtime, "length", arguments, {});
  return length(runtime, subject);
}

Value to_list(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  bind(runtime, "list", arguments, {});
  return runtime.sequence(iterate(runtime, subject));
}

Value first(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  bind(runtime, "first", arguments, {});
  if (subject.is_sequence(SequenceType::iterator)) {
    const Sequence& left = subject.sequence();
    if (left.consumed < left.items.size()) return left.items[left.consumed++];
  } else if (subject.is_sequence()) {
    if (!subject.sequence().items.empty()) return subject.sequence().items[0];
  } else if (const auto items = iterate(runtime, subject); !items.empty()) {
    return items[0];
  }
  return Value::undefined({Undefined::Reason::hint, "No first item, sequence was empty."});
}

Value last(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  bind(runtime, "last", arguments, {});
  if (subject.is_sequence(SequenceType::iterator))
    runtime.error("'generator' object is not reversible (write |list first)");
  if (subject.is_sequence()) {
    if (!subject.sequence().items.empty()) return subject.sequence().items.back();
  } else if (const auto items = iterate(runtime, subject); !items.empty()) {
    return items.back();
  }
  return Value::undefined({Undefined::Reason::hint, "No last item, sequence was empty."});
}

Value join(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "join", arguments, {"d", "attribute"});
  const std::string between = bound[0] ? str(runtime, *bound[0]) : "";
  const Getter get(runtime, bound[1]);
  std::string out;
  bool at_first = true;
  for (const Value& item : iterate(runtime, subject)) {
    if (!std::exchange(at_first, false)) runtime.append(out, between);
    append_str(runtime, get(runtime, item), out);
  }
  return runtime.text(std::move(out));
}

Value reversed(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  bind(runtime, "reverse", arguments, {});
  if (subject.is_string()) {
    runtime.build(subject.view().size() * sizeof(std::string_view));
    std::string out;
    const auto characters = code_points(subject.view());
    for (auto at = characters.rbegin(); at != characters.rend(); ++at) out += *at;
    return runtime.text(std::move(out), subject.string().markup);
  }
  std::vector<Value> items = iterate(runtime, subject);
  std::reverse(items.begin(), items.end());
  return runtime.sequence(std::move(items), SequenceType::iterator);
}

Value items(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  bind(runtime, "items", arguments, {});
  if (subject.is_undefined()) return runtime.sequence({}, SequenceType::iterator);
  if (!subject.is_dict()) runtime.error("Can only get item pairs from a mapping.");
  runtime.build(subject.dict().size() * 160);
  std::vector<Value> pairs;
  for (const auto& [key, value] : subject.dict().items())
    pairs.push_back(runtime.sequence({key, value}, SequenceType::tuple));
  return runtime.sequence(std::move(pairs), SequenceType::iterator);
}

Value sorted(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const bool descending = flag(bound[0], false), case_sensitive = flag(bound[1], false);
  // Several attributes, separated by commas, sort by the first, then the second, ...
  std::vector<Getter> getters;
  if (bound[2] && bound[2]->is_string()) {
    std::string_view rest = bound[2]->view();
    for (;;) {
      const size_t comma = rest.find(',');
      const Value path = runtime.text(std::string(rest.substr(0, comma)));
      getters.emplace_back(runtime, &path);
      if (comma == std::string_view::npos) break;
      rest = rest.substr(comma + 1);
    }
  } else {
    getters.emplace_back(runtime, bound[2]);
  }
  std::vector<std::pair<std::vector<Value>, Value>> keyed;
  for (Value& item : iterate(runtime, subject)) {
    std::vector<Value> keys;
    for (const Getter& get : getters) keys.push_back(comparable(runtime, get(runtime, item), case_sensitive));
    runtime.build(64);
    keyed.emplace_back(std::move(keys), std::move(item));
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    for (size_t i = 0; i < a.first.size(); ++i)
      if (const int order = compare(runtime, a.first[i], b.first[i], "<"))
        return descending ? order > 0 : order < 0;
    return false;
  });
  std::vector<Value> out;
  for (auto& [keys, item] : keyed) out.push_back(std::move(item));
  return runtime.sequence(std::move(out));
}

Value dict_sorted(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const bool case_sensitive = flag(bound[0], false), descending = flag(bound[2], false);
  const std::string_view by = bound[1] ? text(runtime, "dictsort", *bound[1]) : "key";
  if (by != "key" && by != "value") runtime.error("You can only sort by either \"key\" or \"value\"");
  if (!subject.is_dict()) runtime.error("dictsort needs a dict, not '", subject.type_name(), "'");
  std::vector<std::pair<Value, Dict::Item>> keyed;
  for (const Dict::Item& item : subject.dict().items()) {
    runtime.build(160);
    keyed.emplace_back(comparable(runtime, by == "key" ? item.first : item.second, case_sensitive), item);
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    const int order = compare(runtime, a.first, b.first, "<");
    return descending ? order > 0 : order < 0;
  });
  std::vector<Value> out;
  for (auto& [key, item] : keyed)
    out.push_back(runtime.sequence({item.first, item.second}, SequenceType::tuple));
  return runtime.sequence(std::move(out));
}

Value unique(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "unique", arguments, {"case_sensitive", "attribute"});
  const bool case_sensitive = flag(bound[0], false);
  const Getter get(runtime, bound[1]);
  Dict seen;
  std::vector<Value> out;
  for (Value& item : iterate(runtime, subject)) {
    Value key = comparable(runtime, get(runtime, item), case_sensitive);
    if (!scalar_key(key)) runtime.error("unhashable type: '", key.type_name(), "'");
    if (seen.find(key)) continue;
    runtime.build(64);
    seen.set(std::move(key), true);
    out.push_back(std::move(item));
  }
  return runtime.sequence(std::move(out), SequenceType::iterator);
}

Value sum(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, "sum", arguments, {"attribute", "start"});
  const Getter get(runtime, bound[0]);
  Value total = bound[1] ? *bound[1] : Value(int64_t{0});
  if (total.is_string()) runtime.error("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : iterate(runtime, subject))
    total = arithmetic(runtime, ArithmeticOp::add, total, get(runtime, item));
  return total;
}

template <int direction>
Value extreme(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const auto bound = bind(runtime, direction < 0 ? "min" : "max", arguments, {"case_sensitive", "attribute"});
  const bool case_sensitive = flag(bound[0], false);
  const Getter get(runtime, bound[1]);
  const auto items = iterate(runtime, subject);
  if (items.empty())
    return Value::undefined({Undefined::Reason::hint, "No aggregated item, sequence was empty."});
  size_t best = 0;
  Value best_key = comparable(runtime, get(runtime, items[0]), case_sensitive);
  for (size_t i = 1; i < items.size(); ++i) {
    Value key = comparable(runtime, get(runtime, items[i]), case_sensitive);
    if (compare(runtime, key, best_key, direction < 0 ? "<" : ">") * direction <= 0) continue;
    best = i;
    best_key = std::move(key);
  }
  return items[best];
}

CallArguments from(const CallArguments& arguments, size_t first_positional) {
  CallArguments rest{{}, arguments.named};
  for (size_t i = first_positional; i < arguments.positional.size(); ++i)
    rest.positional.push_back(arguments.positional[i]);
  return rest;
}

// map(attribute='name', default=...) or map('filter', its arguments...)
Value map(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  std::vector<Value> out;
  if (arguments.positional.empty()) {
    const auto bound = bind(runtime, "map", arguments, {"attribute", "default"});
    if (!bound[0]) runtime.error("map requires a filter argument");
    const Getter get(runtime, bound[0], bound[1]);
    for (const Value& item : iterate(runtime, subject)) out.push_back(get(runtime, item));
  } else {
    const std::string_view name = text(runtime, "map", arguments.positional[0]);
    const FilterFunction filter = find_filter(name);
    if (!filter) runtime.unsupported("the filter ", quote(name), " is not supported");
    const CallArguments rest = from(arguments, 1);
    const Runtime::Nested nested(runtime);  // map('map', 'map', ...)
    for (const Value& item : iterate(runtime, subject)) {
      runtime.step();
      out.push_back(filter(runtime, item, rest));
    }
  }
  return runtime.sequence(std::move(out), SequenceType::iterator);
}

// select('test', its arguments...), selectattr('name', 'test', ...), and their opposites; no test: truth.
template <bool by_attribute, bool wanted>
Value select(Runtime& runtime, const Value& subject, const CallArguments& arguments) {
  const size_t at = by_attribute ? 1 : 0;
  if (by_attribute && arguments.positional.empty()) runtime.error("Missing parameter for attribute name");
  const Getter get(runtime, by_attribute ? &arguments.positional[0] : nullptr);
  TestFunction test = nullptr;
  CallArguments rest;
  if (arguments.positional.size() > at) {
    const std::string_view name = text(runtime, "select", arguments.positional[at]);
    test = find_test(name);
    if (!test) runtime.unsupported("the test ", quote(name), " is not supported");
    rest = from(arguments, at + 1);
  }
  std::vector<Value> out;
  for (Value& item : iterate(runtime, subject)) {
    runtime.step();
    const Value looked_at = get(runtime, item);
    if ((test ? test(runtime, looked_at, rest) : looked_at.truthy()) == wanted)
      out.push_back(std::move(item));
  }
  return runtime.sequence(std::move(out), SequenceType::iterator);
}

constexpr NamedFilter kFilters[] = {
    {"count", length_filter},
    {"dictsort", dict_sorted},
    {"first", first},
    {"items", items},
    {"join", join},
    {"last", last},
    {"length", length_filter},
    {"list", to_list},
    {"map", map},
    {"max", extreme<1>},
    {"min", extreme<-1>},
    {"reject", select<false, false>},
    {"rejectattr", select<true, false>},
    {"reverse", reversed},
    {"select", select<false, true>},
    {"selectattr", select<true, true>},
    {"sort", sorted},
    {"sum", sum},
    {"unique", unique},
};

}  // namespace

FilterFunction find_list_filter(std::string_view name) {
  for (const auto& [known, function] : kFilters)
    if (known == name) return function;
  return nullptr;
}

}  // namespace qwen::jinja
