// The functions a template can call by name: jinja2's, and the two that transformers adds.
#include <algorithm>
#include <ctime>

#include "text/jinja/operations.h"
#include "text/jinja/text.h"

namespace qwen::jinja {
namespace {

class Function : public Object {
 public:
  explicit Function(GlobalFunction function) : function_(function) {}
  std::string_view type_name() const override { return "function"; }
  bool callable() const override { return true; }
  Value call(Runtime& runtime, const CallArguments& arguments) override {
    return function_(runtime, arguments);
  }

 private:
  GlobalFunction function_;
};

Value range(Runtime& runtime, const CallArguments& arguments) {
  if (!arguments.named.empty()) runtime.error("range() takes no keyword arguments");
  if (arguments.positional.empty() || arguments.positional.size() > 3)
    runtime.error("range() takes 1 to 3 arguments");
  std::vector<int64_t> numbers;
  for (const Value& value : arguments.positional) numbers.push_back(integer(runtime, "range", &value, 0));
  const int64_t start = numbers.size() > 1 ? numbers[0] : 0,
                stop = numbers.size() > 1 ? numbers[1] : numbers[0];
  const int64_t stride = numbers.size() > 2 ? numbers[2] : 1;
  if (stride == 0) runtime.error("range() arg 3 must not be zero");
  const __int128 distance =
      stride > 0 ? static_cast<__int128>(stop) - start : static_cast<__int128>(start) - stop;
  const __int128 step = stride > 0 ? static_cast<__int128>(stride) : -static_cast<__int128>(stride);
  const __int128 count = distance <= 0 ? 0 : (distance + step - 1) / step;
  if (count > kMaxRange)
    runtime.error("Range too big. The sandbox blocks ranges larger than MAX_RANGE (", kMaxRange, ").");
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < static_cast<int64_t>(count); ++i)
    items.emplace_back(static_cast<int64_t>(start + static_cast<__int128>(i) * stride));
  return runtime.sequence(std::move(items), SequenceType::range);
}

// dict(mapping or pairs, name=value, ...)
std::shared_ptr<Dict> make_dict(Runtime& runtime, const CallArguments& arguments) {
  auto made = std::make_shared<Dict>();
  if (arguments.positional.size() > 1)
    runtime.error("dict expected at most 1 argument, got ", arguments.positional.size());
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (source.is_dict()) {
      runtime.build(source.dict().size() * sizeof(Dict::Item));
      *made = source.dict();
    } else {
      for (const Value& pair : iterate(runtime, source)) {
        const auto both = iterate(runtime, pair);
        if (both.size() != 2) runtime.error("dict() needs pairs of a key and a value");
        check_key(runtime, both[0]);
        made->set(both[0], both[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) made->set(Value::text(name), value);
  return made;
}

Value dict(Runtime& runtime, const CallArguments& arguments) {
  return runtime.dict(make_dict(runtime, arguments));
}

Value make_namespace(Runtime& runtime, const CallArguments& arguments) {
  auto made = std::make_shared<Namespace>();
  runtime.adopt(made);
  runtime.build(256);
  const auto attributes = make_dict(runtime, arguments);
  for (const auto& [name, value] : attributes->items())
    made->set(runtime, text(runtime, "namespace", name), value);
  return ObjectPtr(std::move(made));
}

// joiner(', ')(): nothing the first time, the separator afterwards.
class Joiner : public Object {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)) {}
  std::string_view type_name() const override { return "Joiner"; }
  bool callable() const override { return true; }
  unsigned depth() const override { return separator_.depth() + 1; }
  Value call(Runtime& runtime, const CallArguments& arguments) override {
    bind(runtime, "joiner", arguments, {});
    return std::exchange(used_, true) ? separator_ : Value::text("");
  }

 private:
  Value separator_;
  bool used_ = false;
};

Value joiner(Runtime& runtime, const CallArguments& arguments) {
  const auto bound = bind(runtime, "joiner", arguments, {"sep"});
  auto made = std::make_shared<Joiner>(bound[0] ? *bound[0] : Value::text(", "));
  if (made->depth() > kMaxValueDepth)
    runtime.unsupported("the limit of ", kMaxValueDepth, " nested values is reached");
  return ObjectPtr(std::move(made));
}

Value raise_exception(Runtime& runtime, const CallArguments& arguments) {
  runtime.error(str(runtime, *bind(runtime, "raise_exception", arguments, {"message"}, 1)[0]));
}

std::string padded(int64_t number, size_t width, char fill = '0') {
  std::string digits = cat(number);
  if (digits.size() < width) digits.insert(0, width - digits.size(), fill);
  return digits;
}

// datetime.now().strftime(format) in the C locale, whatever the host's is: a prompt must not depend on it.
Value strftime_now(Runtime& runtime, const CallArguments& arguments) {
  static constexpr std::string_view kDays[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                               "Thursday", "Friday", "Saturday"};
  static constexpr std::string_view kMonths[] = {"January",   "February", "March",    "April",
                                                 "May",       "June",     "July",     "August",
                                                 "September", "October",  "November", "December"};
  const std::string_view format =
      text(runtime, "strftime_now", *bind(runtime, "strftime_now", arguments, {"format"}, 1)[0]);
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm local{};
  localtime_r(&now.tv_sec, &local);
  const int hour12 = local.tm_hour % 12 == 0 ? 12 : local.tm_hour % 12;
  const std::string_view day = kDays[local.tm_wday], month = kMonths[local.tm_mon];
  std::string out;
  for (size_t at = 0; at < format.size(); ++at) {
    if (format[at] != '%' || at + 1 >= format.size()) {
      out += format[at];
      continue;
    }
    const bool bare = format[at + 1] == '-' && at + 2 < format.size();  // glibc's "no padding"
    at += bare ? 2 : 1;
    const auto number = [&](int64_t value, size_t width, char fill = '0') {
      out += bare ? cat(value) : padded(value, width, fill);
    };
    switch (format[at]) {
      case 'Y':
        number(local.tm_year + 1900, 1);
        break;
      case 'y':
        number(local.tm_year % 100, 2);
        break;
      case 'm':
        number(local.tm_mon + 1, 2);
        break;
      case 'd':
        number(local.tm_mday, 2);
        break;
      case 'e':
        number(local.tm_mday, 2, ' ');
        break;
      case 'H':
        number(local.tm_hour, 2);
        break;
      case 'I':
        number(hour12, 2);
        break;
      case 'M':
        number(local.tm_min, 2);
        break;
      case 'S':
        number(local.tm_sec, 2);
        break;
      case 'j':
        number(local.tm_yday + 1, 3);
        break;
      case 'f':
        number(now.tv_nsec / 1000, 6);
        break;
      case 'w':
        number(local.tm_wday, 1);
        break;
      case 'u':
        number(local.tm_wday == 0 ? 7 : local.tm_wday, 1);
        break;
      case 'p':
        out += local.tm_hour < 12 ? "AM" : "PM";
        break;
      case 'A':
        out += day;
        break;
      case 'a':
        out += day.substr(0, 3);
        break;
      case 'B':
        out += month;
        break;
      case 'b':
      case 'h':
        out += month.substr(0, 3);
        break;
      case 'F':
        out += cat(local.tm_year + 1900, '-', padded(local.tm_mon + 1, 2), '-', padded(local.tm_mday, 2));
        break;
      case 'D':
        out += cat(padded(local.tm_mon + 1, 2), '/', padded(local.tm_mday, 2), '/',
                   padded(local.tm_year % 100, 2));
        break;
      case 'T':
        out += cat(padded(local.tm_hour, 2), ':', padded(local.tm_min, 2), ':', padded(local.tm_sec, 2));
        break;
      case 'R':
        out += cat(padded(local.tm_hour, 2), ':', padded(local.tm_min, 2));
        break;
      case 'n':
        out += '\n';
        break;
      case 't':
        out += '\t';
        break;
      case '%':
        out += '%';
        break;
      default:
        runtime.unsupported("strftime_now does not support '%", format[at], "'");
    }
    if (out.size() > kMaxTextBytes)
      runtime.unsupported("the limit of ", kMaxTextBytes, " bytes of one text is reached");
  }
  return runtime.text(std::move(out));
}

Value unsupported_cycler(Runtime& runtime, const CallArguments&) {
  runtime.unsupported("the function 'cycler' is not supported");
}
Value unsupported_lipsum(Runtime& runtime, const CallArguments&) {
  runtime.unsupported("the function 'lipsum' is not supported");
}

constexpr std::pair<std::string_view, GlobalFunction> kFunctions[] = {
    {"range", range},
    {"dict", dict},
    {"namespace", make_namespace},
    {"joiner", joiner},
    {"cycler", unsupported_cycler},
    {"lipsum", unsupported_lipsum},
    {"raise_exception", raise_exception},
    {"strftime_now", strftime_now},
};

}  // namespace

std::optional<Value> Namespace::attribute(Runtime&, std::string_view name) {
  const Value* found = attributes_.find(name);
  return found ? std::optional(*found) : std::nullopt;
}

void Namespace::set(Runtime& runtime, std::string_view name, Value value) {
  if (name.starts_with('_'))  // transformers' own rule
    runtime.error("Chat templates cannot store underscore-prefixed attributes on a namespace, but got ",
                  quote(name));
  runtime.build(sizeof(Dict::Item));
  attributes_.set(Value::text(std::string(name)), std::move(value));
}

std::optional<Value> global_function(std::string_view name) {
  for (const auto& [known, function] : kFunctions)
    if (known == name) return Value(ObjectPtr(std::make_shared<Function>(function)));
  return std::nullopt;
}

}  // namespace qwen::jinja
