#include "text/tool_calls.h"

#include <algorithm>

#include "text/json_scanner.h"
#include "text/json_text.h"

namespace qwen {
namespace {

constexpr std::string_view kCallBegin = "<tool_call>", kCallEnd = "</tool_call>";
constexpr std::string_view kFunctionBegin = "<function=", kFunctionEnd = "</function>";
constexpr std::string_view kParameterBegin = "<parameter=", kParameterEnd = "</parameter>";
constexpr std::string_view kSpace = " \t\r\n";
// What JSON has outside of strings; anything else shows at once that the block is not a call.
constexpr std::string_view kJsonOutside = "{}[],:\"+-.0123456789eE \t\r\ntruefalsn";

// The value of "arguments", compact JSON text, as an object's; nullopt if it is none. Some models write the object's
// text as a string, and no arguments as null or an empty string.
std::optional<std::string> arguments_object(std::string_view value) {
  if (value.starts_with('{')) return std::string(value);
  if (value == "null" || value == R"("")") return "{}";
  if (!value.starts_with('"')) return std::nullopt;
  std::string unescaped;
  auto inner = compact_json(JsonScanner(value, "arguments").string(unescaped));
  return inner && inner->starts_with('{') ? inner : std::nullopt;
}

// {"name": …, "arguments": …} as a call; nullopt if it is none. Other members are passed over, of repeated ones the
// last counts, without arguments there are none.
std::optional<ToolCall> call_object(std::string_view json) {
  const auto object = compact_json(json);
  if (!object) return std::nullopt;
  ToolCall call{.name = {}, .arguments = "{}"};
  JsonScanner members(*object, "tool call");
  members.expect('{', "an object");
  std::string unescaped;
  while (!members.take('}')) {
    members.take(',');
    const std::string key(members.string(unescaped));
    members.expect(':', "a colon");
    const size_t begin = members.offset();
    members.skip_value();
    const std::string_view value = std::string_view(*object).substr(begin, members.offset() - begin);
    if (key == "name") {
      if (!value.starts_with('"')) return std::nullopt;
      call.name = JsonScanner(value, "name").string(unescaped);
    } else if (key == "arguments") {
      auto arguments = arguments_object(value);
      if (!arguments) return std::nullopt;
      call.arguments = std::move(*arguments);
    }
  }
  return call.name.empty() ? std::nullopt : std::optional(std::move(call));
}

}  // namespace

ToolCallParser::Pieces ToolCallParser::push(std::string_view text) {
  buffer_.append(text);
  Pieces out;
  while (step(out)) {
  }
  drop_emitted();
  return out;
}

ToolCallParser::Pieces ToolCallParser::finish() {
  Pieces out;
  if (state_ == State::json_end) emit_call(out);
  emit_text(buffer_.size(), out);
  state_ = State::text;
  buffer_.clear();
  start_ = solid_ = at_ = 0;
  return out;
}

bool ToolCallParser::step(Pieces& out) {
  switch (state_) {
    case State::text:
      return read_text(out);
    case State::behind_call:
      return read_behind_call();
    case State::opened:
      return read_opened();
    case State::json:
      return read_json();
    case State::json_end:
      return read_json_end(out);
    case State::function_name:
      return read_function_name();
    case State::next_parameter:
      return read_next_parameter(out);
    case State::parameter_name:
      return read_parameter_name();
    case State::parameter_value:
      return read_parameter_value();
  }
  return false;
}

// Gives out text up to the beginning of a block. The white space before the block stays: it is dropped with a call, and
// text if the block turns out not to be one.
bool ToolCallParser::read_text(Pieces& out) {
  Match call = Match::no, function = Match::no;
  for (;; solid_ = ++at_) {
    const size_t tag = std::min(buffer_.find('<', at_), buffer_.size());
    const size_t last = std::string_view(buffer_).substr(at_, tag - at_).find_last_not_of(kSpace);
    if (last != std::string_view::npos) solid_ = at_ + last + 1;
    at_ = tag;
    call = match(kCallBegin);
    function = match(kFunctionBegin);
    if (call != Match::no || function != Match::no) break;
  }
  emit_text(solid_, out);
  if (call == Match::whole) {
    at_ += kCallBegin.size();
    state_ = State::opened;
  } else if (function == Match::whole) {
    name_ = at_ += kFunctionBegin.size();
    state_ = State::function_name;
  }
  return state_ != State::text;
}

bool ToolCallParser::read_behind_call() {
  skip_space();
  start_ = solid_ = at_;
  if (at_ == buffer_.size()) return false;
  if (closing_) {
    const Match end = match(kCallEnd);
    if (end == Match::partial) return false;
    closing_ = false;
    if (end == Match::whole) {
      at_ += kCallEnd.size();
      return true;
    }
  }
  state_ = State::text;
  return true;
}

bool ToolCallParser::read_opened() {
  skip_space();
  if (at_ == buffer_.size()) return false;
  if (buffer_[at_] == '{') {
    name_ = at_;
    depth_ = 0;
    in_string_ = escaped_ = false;
    state_ = State::json;
    return true;
  }
  const Match function = match(kFunctionBegin);
  if (function == Match::partial) return false;
  if (function == Match::whole) {
    name_ = at_ += kFunctionBegin.size();
    state_ = State::function_name;
  } else {
    return not_a_call();
  }
  return true;
}

// Looks for the object's end only; whether it is JSON is asked once, there.
bool ToolCallParser::read_json() {
  for (; at_ < buffer_.size(); ++at_) {
    const char c = buffer_[at_];
    if (in_string_) {
      // A raw line break: seen here, an unclosed string does not swallow the calls behind it.
      if (static_cast<unsigned char>(c) < 0x20) return not_a_call();
      if (escaped_)
        escaped_ = false;
      else if (c == '\\')
        escaped_ = true;
      else if (c == '"')
        in_string_ = false;
      continue;
    }
    if (kJsonOutside.find(c) == std::string_view::npos) return not_a_call();
    in_string_ = c == '"';
    if (c == '{' || c == '[') ++depth_;
    if ((c != '}' && c != ']') || --depth_) continue;
    ++at_;
    auto call = call_object(std::string_view(buffer_).substr(name_, at_ - name_));
    if (!call) return not_a_call();
    call_ = std::move(*call);
    state_ = State::json_end;
    return true;
  }
  return false;
}

bool ToolCallParser::read_json_end(Pieces& out) {
  skip_space();
  const Match end = match(kCallEnd);
  if (end == Match::partial) return false;
  if (end == Match::no) return not_a_call();
  at_ += kCallEnd.size();
  closing_ = false;
  emit_call(out);
  return true;
}

bool ToolCallParser::read_function_name() {
  at_ = std::min(buffer_.find_first_of("<> \t\r\n", at_), buffer_.size());
  if (at_ == buffer_.size()) return false;
  if (buffer_[at_] != '>' || at_ == name_) return not_a_call();
  call_.name = buffer_.substr(name_, at_ - name_);
  values_.clear();
  index_.clear();
  value_open_ = false;
  ++at_;
  state_ = State::next_parameter;
  return true;
}

bool ToolCallParser::read_next_parameter(Pieces& out) {
  skip_space();
  const Match parameter = match(kParameterBegin), end = match(kFunctionEnd);
  if (parameter == Match::whole) {
    name_ = at_ += kParameterBegin.size();
    state_ = State::parameter_name;
  } else if (end == Match::whole) {
    keep_value();
    call_.arguments = "{";
    for (const auto& [key, json] : values_) {
      if (call_.arguments.size() > 1) call_.arguments += ',';
      append_json_string(call_.arguments, key);
      call_.arguments += ':';
      call_.arguments += json;
    }
    call_.arguments += '}';
    at_ += kFunctionEnd.size();
    closing_ = true;
    emit_call(out);
  } else if (parameter == Match::partial || end == Match::partial) {
    return false;
  } else {
    return not_the_end_of_value();
  }
  return true;
}

bool ToolCallParser::read_parameter_name() {
  at_ = std::min(buffer_.find_first_of("<>\r\n", at_), buffer_.size());
  if (at_ == buffer_.size()) return false;
  if (buffer_[at_] != '>' || at_ == name_) return not_the_end_of_value();
  keep_value();
  key_ = buffer_.substr(name_, at_ - name_);
  value_ = ++at_;
  value_open_ = true;
  inner_ = 0;
  state_ = State::parameter_value;
  return true;
}

bool ToolCallParser::read_parameter_value() {
  for (;; ++at_) {
    at_ = std::min(buffer_.find('<', at_), buffer_.size());
    const Match end = match(kParameterEnd);
    const bool line_start = at_ == value_ || buffer_[at_ - 1] == '\n';
    const Match inner = line_start ? match(kParameterBegin) : Match::no;
    if (end == Match::whole && !inner_) {
      value_end_ = at_;
      at_ += kParameterEnd.size();
      state_ = State::next_parameter;
      return true;
    }
    if (end == Match::whole)
      --inner_;
    else if (inner == Match::whole)
      ++inner_;
    else if (end == Match::partial || inner == Match::partial)
      return false;
  }
}

// Whether `tag` stands at at_, or may do so once more text has come.
ToolCallParser::Match ToolCallParser::match(std::string_view tag) const {
  const std::string_view here = std::string_view(buffer_).substr(at_, tag.size());
  return !tag.starts_with(here) ? Match::no : here.size() < tag.size() ? Match::partial : Match::whole;
}

void ToolCallParser::skip_space() {
  at_ = std::min(buffer_.find_first_not_of(kSpace, at_), buffer_.size());
}

void ToolCallParser::emit_text(size_t end, Pieces& out) {
  if (end == start_) return;
  const std::string_view text = std::string_view(buffer_).substr(start_, end - start_);
  start_ = end;
  if (!out.empty() && std::holds_alternative<std::string>(out.back()))
    std::get<std::string>(out.back()).append(text);
  else
    out.emplace_back(std::string(text));
}

void ToolCallParser::emit_call(Pieces& out) {
  out.emplace_back(std::move(call_));
  start_ = solid_ = at_;
  state_ = State::behind_call;
}

// What has been read is text; what stands at at_ may begin a block. Returns true: as a step, there is more to do.
bool ToolCallParser::not_a_call() {
  solid_ = buffer_.find_last_not_of(kSpace, at_ - 1) + 1;
  state_ = State::text;
  return true;
}

// </parameter> with something else behind it is part of the value. Behind <function=…> there is no value.
bool ToolCallParser::not_the_end_of_value() {
  if (!value_open_) return not_a_call();
  at_ = value_end_ + kParameterEnd.size();
  state_ = State::parameter_value;
  return true;
}

void ToolCallParser::keep_value() {
  if (!value_open_) return;
  value_open_ = false;
  std::string_view value = std::string_view(buffer_).substr(value_, value_end_ - value_);
  if (value.starts_with('\n')) value.remove_prefix(1);
  if (value.ends_with('\n')) value.remove_suffix(1);
  std::string json = schemas_.argument(call_.name, key_, value);
  const auto [at, fresh] = index_.try_emplace(key_, values_.size());
  if (fresh)
    values_.emplace_back(key_, std::move(json));
  else
    values_[at->second].second = std::move(json);  // repeated: the last counts, as in a Python dict
}

// Once per push, so that many calls in one push do not move the rest of it again and again.
void ToolCallParser::drop_emitted() {
  buffer_.erase(0, start_);
  for (size_t* offset : {&solid_, &at_, &name_, &value_, &value_end_}) *offset -= std::min(*offset, start_);
  start_ = 0;
}

}  // namespace qwen
