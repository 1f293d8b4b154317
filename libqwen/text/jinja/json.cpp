// JSON in (RapidJSON's reader, our values) and out (Python's json.dumps).
#include <rapidjson/error/en.h>
#include <rapidjson/memorystream.h>
#include <rapidjson/reader.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/json.h"
#include "text/jinja/runtime.h"
#include "text/jinja/text.h"

namespace qwen::jinja {
namespace {

// Numbers arrive as written, so that 1 stays an int, 1.0 a float, and an integer of any length is kept.
constexpr unsigned kParseFlags = rapidjson::kParseValidateEncodingFlag | rapidjson::kParseIterativeFlag |
                                 rapidjson::kParseNumbersAsStringsFlag;

Value number(std::string_view text) {
  if (text.find_first_of(".eE") == std::string_view::npos) {
    int64_t integer = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), integer);
    if (parsed.ec == std::errc()) return integer;
    return Value::big_integer(std::string(text));
  }
  double real = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), real);
  // RapidJSON has refused what is too big, so that this is what is too small.
  if (parsed.ec == std::errc::result_out_of_range) real = text.starts_with('-') ? -0.0 : 0.0;
  return real;
}

// RapidJSON calls one member function per event; `false` stops it.
class Builder {
 public:
  bool Null() { return add(Value()); }
  bool Bool(bool value) { return add(value); }
  bool RawNumber(const char* text, rapidjson::SizeType size, bool) { return add(number({text, size})); }
  bool Int(int value) { return add(int64_t{value}); }
  bool Uint(unsigned value) { return add(int64_t{value}); }
  bool Int64(int64_t value) { return add(value); }
  bool Uint64(uint64_t value) { return add(Value::big_integer(cat(value))); }
  bool Double(double value) { return add(value); }
  bool String(const char* text, rapidjson::SizeType size, bool) {
    return add(Value::text(std::string(text, size)));
  }
  bool StartObject() { return open(true); }
  bool Key(const char* text, rapidjson::SizeType size, bool) {
    open_.back().key = Value::text(std::string(text, size));
    return true;
  }
  bool EndObject(rapidjson::SizeType) {
    Value made = DictPtr(std::move(open_.back().dict));
    open_.pop_back();
    return add(std::move(made));
  }
  bool StartArray() { return open(false); }
  bool EndArray(rapidjson::SizeType) {
    Value made = Value::sequence(std::move(open_.back().items));
    open_.pop_back();
    return add(std::move(made));
  }
  Value take() { return std::move(result_); }

 private:
  struct Open {
    std::shared_ptr<Dict> dict;
    std::vector<Value> items;
    Value key;
  };
  bool open(bool object) {
    // Half of the limit: a template wraps what it gets in lists of its own.
    if (open_.size() >= kMaxValueDepth / 2) return false;
    open_.push_back({object ? std::make_shared<Dict>() : nullptr, {}, {}});
    return true;
  }
  bool add(Value value) {
    if (open_.empty()) {
      result_ = std::move(value);
    } else if (open_.back().dict) {
      open_.back().dict->set(std::move(open_.back().key),
                             std::move(value));  // a repeated key: the last one counts
    } else {
      open_.back().items.push_back(std::move(value));
    }
    return true;
  }
  std::vector<Open> open_;
  Value result_;
};

void append_json_string(std::string_view text, bool ensure_ascii, std::string& out) {
  static constexpr char kHex[] = "0123456789abcdef";
  const auto unicode_escape = [&](unsigned unit) {
    out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) out += kHex[(unit >> shift) & 15];
  };
  out += '"';
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (static_cast<unsigned char>(c) >= 0x80) {
      const size_t start = at;
      const char32_t code = next_code_point(text, at);
      if (!ensure_ascii) {
        out.append(text.substr(start, at - start));
      } else if (code < 0x10000) {
        unicode_escape(code);
      } else {
        unicode_escape(0xD800 + ((code - 0x10000) >> 10));
        unicode_escape(0xDC00 + ((code - 0x10000) & 0x3FF));
      }
      continue;
    }
    ++at;
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\b':
        out += "\\b";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || (ensure_ascii && c == 0x7F)) {
          unicode_escape(static_cast<unsigned char>(c));
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

std::string scalar_json(Runtime& runtime, const Value& value) {
  if (value.is_none()) return "null";
  if (value.is_bool()) return value.boolean() ? "true" : "false";
  if (value.is_real() && std::isnan(value.real())) return "NaN";
  if (value.is_real() && std::isinf(value.real())) return value.real() < 0 ? "-Infinity" : "Infinity";
  if (value.is_number() || value.is_big()) return str(runtime, value);
  runtime.error("Object of type ", value.type_name(), " is not JSON serializable");
}

class Writer {
 public:
  Writer(Runtime& runtime, const JsonStyle& style, std::string& out)
      : runtime_(runtime), style_(style), out_(out) {}

  void write(const Value& value, size_t level) {
    runtime_.step();
    if (value.is_string()) return write_string(value.view());
    if (value.is_dict()) {
      std::vector<Dict::Item> sorted;
      if (style_.sort_keys) {
        sorted = value.dict().items();
        std::stable_sort(sorted.begin(), sorted.end(), [&](const Dict::Item& a, const Dict::Item& b) {
          return compare(runtime_, a.first, b.first, "<") < 0;
        });
      }
      const auto& items = style_.sort_keys ? sorted : value.dict().items();
      list('{', '}', items.size(), level, [&](size_t i) {
        const Value& key = items[i].first;
        write_string(key.is_string() ? std::string(key.view()) : scalar_json(runtime_, key));
        runtime_.append(out_, style_.key_separator);
        write(items[i].second, level + 1);
      });
    } else if (value.is_sequence(SequenceType::list) || value.is_sequence(SequenceType::tuple)) {
      const auto& items = value.sequence().items;
      list('[', ']', items.size(), level, [&](size_t i) { write(items[i], level + 1); });
    } else {
      runtime_.append(out_, scalar_json(runtime_, value));
    }
  }

 private:
  template <class Item>
  void list(char open, char close, size_t count, size_t level, const Item& item) {
    out_ += open;
    for (size_t i = 0; i < count; ++i) {
      if (i) runtime_.append(out_, style_.item_separator);
      line(level + 1);
      item(i);
    }
    if (count) line(level);
    out_ += close;
  }
  void line(size_t level) {
    if (!style_.indent) return;
    runtime_.append(out_, "\n");
    for (size_t i = 0; i < level; ++i) runtime_.append(out_, *style_.indent);
  }
  void write_string(std::string_view text) {
    runtime_.grow(out_, text.size() + 2);
    append_json_string(text, style_.ensure_ascii, out_);
  }
  Runtime& runtime_;
  const JsonStyle& style_;
  std::string& out_;
};

}  // namespace

void append_json(Runtime& runtime, const Value& value, const JsonStyle& style, std::string& out) {
  Writer(runtime, style, out).write(value, 0);
}

Value from_json(std::string_view json, std::string_view what) {
  Builder builder;
  rapidjson::MemoryStream bytes(json.data(), json.size());
  rapidjson::EncodedInputStream<rapidjson::UTF8<>, rapidjson::MemoryStream> stream(bytes);
  JsonReader reader;
  const auto result = reader.Parse<kParseFlags>(stream, builder);
  if (result.IsError()) {
    const size_t offset = std::min(result.Offset(), json.size());
    const size_t line = 1 + static_cast<size_t>(std::count(
                                json.begin(), json.begin() + static_cast<ptrdiff_t>(offset), '\n'));
    if (result.Code() == rapidjson::kParseErrorTermination)
      fail(Status::invalid_argument, what, ": line ", line, ", byte ", offset, ": more than ",
           kMaxValueDepth / 2, " nested arrays and objects");
    fail(Status::invalid_argument, what, ": not valid JSON at line ", line, ", byte ", offset, ": ",
         rapidjson::GetParseError_En(result.Code()));
  }
  return builder.take();
}

}  // namespace qwen::jinja
