// The values of a chat template: Python's None, bool, int, float, str, list, tuple, dict and jinja2's
// Undefined, with Python's truthiness, equality, str(), repr() and json.dumps. All values are immutable, as
// jinja2's ImmutableSandboxedEnvironment has it; the one thing a template can change is a namespace() (an
// Object).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"

namespace qwen::jinja {

class Dict;
class Value;
class Runtime;
struct CallArguments;

// Containers nested deeper than this are refused, so that no walk over a value can exhaust the stack.
inline constexpr unsigned kMaxValueDepth = 200;

struct String {
  std::string text;     // valid UTF-8
  size_t length;        // in code points
  bool markup = false;  // went through |safe or |escape: "+" then escapes the other side, as markupsafe does
  bool ascii() const { return length == text.size(); }
};

// What a failed lookup gives: prints as nothing, is false and empty; nearly every other use is an error.
struct Undefined {
  enum class Reason { name, attribute, element, hint };
  Reason reason = Reason::hint;
  std::string what;             // the missing name or element, or the whole message
  std::string_view owner = {};  // the type whose attribute or element is missing
  std::string message() const;
};

enum class SequenceType : uint8_t { list, tuple, range, view, iterator };

struct Sequence {
  SequenceType type = SequenceType::list;
  std::vector<Value> items;
  unsigned depth = 1;
  // An iterator (what jinja2's map, select, ... return) is always true, has no length and can be walked only
  // once.
  mutable size_t consumed = 0;
};

// A value with identity: namespace, macro, loop, bound method, global function.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string_view type_name() const = 0;
  virtual bool callable() const { return false; }
  // nullopt: no such attribute
  virtual std::optional<Value> attribute(Runtime& runtime, std::string_view name);
  virtual Value call(Runtime& runtime, const CallArguments& arguments);
  // Nesting of the immutable values it holds (see Value::depth), so that a chain of objects is bounded too.
  virtual unsigned depth() const { return 0; }
  // Lets go of what it refers to: called at the end of a rendering for objects that may be part of a cycle.
  virtual void release() {}
};

struct None {
  bool operator==(const None&) const = default;
};

// An integer outside 64 bits that came from JSON: it can be printed, not calculated with.
struct BigInteger {
  std::string digits;
};

using StringPtr = std::shared_ptr<const String>;
using SequencePtr = std::shared_ptr<const Sequence>;
using DictPtr = std::shared_ptr<const Dict>;
using ObjectPtr = std::shared_ptr<Object>;

class Value {
 public:
  Value() : data_(None{}) {}
  Value(bool value) : data_(value) {}
  Value(int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(StringPtr value) : data_(std::move(value)) {}
  Value(SequencePtr value) : data_(std::move(value)) {}
  Value(DictPtr value) : data_(std::move(value)) {}
  Value(ObjectPtr value) : data_(std::move(value)) {}
  Value(const char*) = delete;  // would silently become a bool

  static Value text(std::string text, bool markup = false);
  static Value undefined(Undefined undefined);
  static Value undefined_name(std::string_view name);
  static Value big_integer(std::string digits);
  static Value sequence(std::vector<Value> items, SequenceType type = SequenceType::list);

  bool is_undefined() const { return std::holds_alternative<UndefinedPtr>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_big() const { return std::holds_alternative<BigPtr>(data_); }
  bool is_real() const { return std::holds_alternative<double>(data_); }
  bool is_integral() const { return is_int() || is_bool(); }  // what Python calculates with as an int
  bool is_number() const { return is_integral() || is_real(); }
  bool is_string() const { return std::holds_alternative<StringPtr>(data_); }
  bool is_sequence() const { return std::holds_alternative<SequencePtr>(data_); }
  bool is_sequence(SequenceType type) const { return is_sequence() && sequence().type == type; }
  bool is_dict() const { return std::holds_alternative<DictPtr>(data_); }
  bool is_object() const { return std::holds_alternative<ObjectPtr>(data_); }

  // The accessors require the matching is_...().
  const Undefined& undefined() const { return *std::get<UndefinedPtr>(data_); }
  bool boolean() const { return std::get<bool>(data_); }
  int64_t integer() const { return is_bool() ? int64_t{boolean()} : std::get<int64_t>(data_); }
  double real() const { return is_real() ? std::get<double>(data_) : static_cast<double>(integer()); }
  const String& string() const { return *std::get<StringPtr>(data_); }
  std::string_view view() const { return string().text; }
  const Sequence& sequence() const { return *std::get<SequencePtr>(data_); }
  const Dict& dict() const { return *std::get<DictPtr>(data_); }
  Object& object() const { return *std::get<ObjectPtr>(data_); }
  const std::string& big_digits() const { return std::get<BigPtr>(data_)->digits; }

  bool truthy() const;
  unsigned depth() const;                  // nesting of containers below and including this value
  std::string_view type_name() const;      // Python's: "str", "list", "NoneType", ...
  bool same_as(const Value& other) const;  // Python's `is`

 private:
  using UndefinedPtr = std::shared_ptr<const Undefined>;
  using BigPtr = std::shared_ptr<const BigInteger>;
  std::variant<None, UndefinedPtr, bool, int64_t, BigPtr, double, StringPtr, SequencePtr, DictPtr, ObjectPtr>
      data_;
};

// dict: insertion order, found by hash. Keys are scalars; 1, 1.0 and True are one key, as in Python.
class Dict {
 public:
  using Item = std::pair<Value, Value>;
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  const Value* find(const char* key) const { return find(std::string_view(key)); }
  void set(Value key, Value value);  // only while the dict is being built
  const std::vector<Item>& items() const { return items_; }
  size_t size() const { return items_.size(); }
  unsigned depth() const { return depth_; }
  void clear();

 private:
  template <class Equals>
  int64_t locate(size_t hash, const Equals& equals) const;
  void grow();
  std::vector<Item> items_;
  std::vector<uint32_t> slots_;  // open addressing over items_, index + 1; empty while there are few items
  unsigned depth_ = 1;
};

// Scalars only (a Dict's keys): Python's == without recursion, and a hash that agrees with it.
bool scalar_key(const Value& value);
bool scalar_equal(const Value& left, const Value& right);

// Python's == on any two values; every compared element is a step of the runtime's budget.
bool equal(Runtime& runtime, const Value& left, const Value& right);
// Python's <: negative, 0, positive; an error for types without an order. The operator's text is for that
// error.
int compare(Runtime& runtime, const Value& left, const Value& right, std::string_view operation);

// str(), repr(): appended to `out`, whose growth is checked against the runtime's limits.
void append_str(Runtime& runtime, const Value& value, std::string& out);
void append_repr(Runtime& runtime, const Value& value, std::string& out);
std::string str(Runtime& runtime, const Value& value);
std::string real_repr(double value);  // Python's float.__repr__

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
void append_json(Runtime& runtime, const Value& value, const JsonStyle& style, std::string& out);

// JSON text -> value: objects keep the order of their keys, numbers stay int or float as written.
// `what` names the text in the error (invalid_argument, line and byte).
Value from_json(std::string_view json, std::string_view what);

}  // namespace qwen::jinja
