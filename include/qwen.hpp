/*
 * qwen.hpp - libqwen for C++17 and later.                              libqwen, Apache-2.0
 *
 * qwen.h with objects that clean up after themselves, exceptions and ranges: header-only, over qwen.h and the standard
 * library. A first program:
 *
 *     qwen::Engine engine("path/to/Qwen3-0.6B");
 *     for (const qwen::Event& event : engine.stream(qwen::Prompt::from_messages({{"user", "Hello!"}})))
 *         std::cout << event.text() << std::flush;
 *
 * What a function means, its units and shapes, the option keys and the status codes stand in qwen.h; the constants are the
 * ones from there. Rules that hold for everything here:
 *
 *   Errors    A call that fails throws qwen::Error: its code() is a QWEN_ERR_…, its what() names the file, key or value.
 *             Destructors and what is marked noexcept do not throw. With -fno-exceptions use qwen.h itself.
 *   Owners    Options, Tokenizer, Model, Prompt, Inputs, Request, Queue, Tensors and Engine own one handle each; they can be moved,
 *             not copied. After that the old one is empty: destroy it or assign to it, most other calls on it throw
 *             QWEN_ERR_INVALID_ARGUMENT. get() lends the handle to the functions of qwen.h that have no twin here.
 *   Values    Result, Choice, ToolCall, Stats, ModelInfo and EngineStats own what they hold. Span, std::string_view, Event
 *             and Tensor are borrowed; their comments say for how long.
 *   Threads   const member functions may be called by many threads at once; so may all of Engine's, and Request::cancel.
 *             Everything else: one thread at a time.
 *   Lifetime  In any order. An Engine keeps its model; prompts and options are copied where they are used; requests under
 *             way when their engine goes end with QWEN_ERR_CLOSED.
 */
#ifndef QWEN_HPP
#define QWEN_HPP

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "qwen.h"

namespace qwen {

static_assert(QWEN_ABI_VERSION >= 1, "qwen.hpp needs the qwen.h that lies beside it");

/* ------------------------------------------------------------------ errors, versions, timeouts */

class Error : public std::runtime_error {
 public:
  Error(int32_t code, const std::string& message) : std::runtime_error(message), code_(code) {}
  /* QWEN_ERR_… */
  int32_t code() const noexcept { return code_; }
  /* "QWEN_ERR_NOT_FOUND"; static memory. */
  const char* status_name() const noexcept { return qwen_status_name(code_); }

 private:
  int32_t code_;
};

/* Throws QWEN_ERR_UNSUPPORTED when the library that was loaded is older than the header this was compiled with. Worth a
 * call at the start of a program that does not bring its own libqwen. */
inline void check_abi_version() {
  if (qwen_abi_version() >= uint32_t{QWEN_ABI_VERSION}) return;
  throw Error(QWEN_ERR_UNSUPPORTED, "libqwen " + std::string(qwen_version()) + " is older than this program: its ABI is " +
                                        std::to_string(qwen_abi_version()) + ", needed is " +
                                        std::to_string(int{QWEN_ABI_VERSION}));
}

/* As a timeout: wait until something happens. */
inline constexpr std::chrono::milliseconds forever{-1};

namespace detail {

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* handle) const noexcept { Free(handle); }
};
template <class T, auto Free>
using Handle = std::unique_ptr<T, Deleter<Free>>;

/* Calls a function of qwen.h with the place for its error added. Returns QWEN_OK or one of Expected, throws on any other. */
template <int32_t... Expected, class Function, class... Arguments>
int32_t call(Function function, Arguments... arguments) {
  qwen_error* raw = nullptr;
  const int32_t status = function(arguments..., &raw);
  const Handle<qwen_error, qwen_error_free> error(raw);
  if (status != QWEN_OK && ((status != Expected) && ...)) throw Error(status, qwen_error_message(raw));
  return status;
}

/* The same for a function that makes a handle and one that fills a struct. */
template <class Owner, class Function, class... Arguments>
Owner make(Function function, Arguments... arguments) {
  typename Owner::pointer made = nullptr;
  call(function, arguments..., &made);
  return Owner(made);
}
template <class Struct>
Struct sized() noexcept {
  Struct empty{};
  empty.struct_size = static_cast<uint32_t>(sizeof empty);
  return empty;
}
template <class Struct, class Function, class... Arguments>
Struct read(Function function, Arguments... arguments) {
  auto filled = sized<Struct>();
  call(function, arguments..., &filled);
  return filled;
}

/* And for one that fills a text or a list whose size is known only afterwards. */
template <class Container, class Function, class... Arguments>
Container collect(size_t guess, Function function, Arguments... arguments) {
  Container out;
  for (size_t needed = guess;;) {
    out.resize(needed);
    call(function, arguments..., out.data(), out.size(), &needed);
    const bool whole = needed <= out.size();
    out.resize(needed);
    if (whole) return out;
  }
}

/* A qwen_progress_fn whose user is the host's function. */
inline int32_t progress(double fraction, void* user) noexcept {
  try {
    return (*static_cast<const std::function<bool(double)>*>(user))(fraction) ? 0 : 1;
  } catch (...) {
    return 1;
  }
}

}  // namespace detail

/* A borrowed row of values: std::span for C++17 (in C++20 it turns into one). As a parameter it takes a std::vector, a
 * std::array, or anything else with data() and size(). */
template <class T>
class Span {
 public:
  constexpr Span() noexcept = default;
  constexpr Span(T* data, size_t size) noexcept : data_(data), size_(data ? size : 0) {}
  template <class Row, class = std::enable_if_t<std::is_convertible_v<decltype(std::declval<Row&>().data()), T*>>>
  constexpr Span(Row&& row) noexcept : Span(row.data(), row.size()) {}

  constexpr T* data() const noexcept { return data_; }
  constexpr size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T* begin() const noexcept { return data_; }
  constexpr T* end() const noexcept { return data_ + size_; }
  constexpr T& operator[](size_t index) const noexcept { return data_[index]; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

/* ------------------------------------------------------------------ options
 *
 * Engine options or sampling parameters by key. One in which nothing was set costs nothing and means all defaults.
 *
 *     qwen::Options options;
 *     options.set("max_tokens", 200).set("temperature", 0.7).set("stop", {"\n\n", "User:"});
 *
 * Values are copied. An unknown key, or a value of another type or out of bounds, throws QWEN_ERR_INVALID_ARGUMENT; what was
 * set before stays. */

class Options {
 public:
  /* Integers, bool (0 / 1) and floating-point numbers. */
  template <class Number, class = std::enable_if_t<std::is_arithmetic_v<Number>>>
  Options& set(const std::string& key, Number value) {
    if constexpr (std::is_integral_v<Number>) return apply(qwen_options_set_i64, key, static_cast<int64_t>(value));
    else return apply(qwen_options_set_f64, key, static_cast<double>(value));
  }
  Options& set(const std::string& key, std::string_view text) {
    return apply(qwen_options_set_str, key, text.data(), text.size());
  }
  /* Lists: of token ids, of texts, and of pairs of token id and bias. */
  Options& set(const std::string& key, Span<const int32_t> ids) {
    return apply(qwen_options_set_i32_array, key, ids.data(), ids.size());
  }
  Options& set(const std::string& key, const std::vector<std::string>& texts) {
    std::vector<const char*> pointers;
    std::vector<size_t> lengths;
    for (const std::string& text : texts) {
      pointers.push_back(text.data());
      lengths.push_back(text.size());
    }
    return apply(qwen_options_set_str_array, key, pointers.data(), lengths.data(), texts.size());
  }
  Options& set(const std::string& key, const std::vector<std::pair<int32_t, float>>& biases) {
    std::vector<int32_t> ids;
    std::vector<float> values;
    for (const auto& [id, bias] : biases) {
      ids.push_back(id);
      values.push_back(bias);
    }
    return apply(qwen_options_set_bias, key, ids.data(), values.data(), ids.size());
  }
  /* The same lists in braces. */
  Options& set(const std::string& key, std::initializer_list<int32_t> ids) {
    return set(key, Span<const int32_t>(ids.begin(), ids.size()));
  }
  Options& set(const std::string& key, std::initializer_list<const char*> texts) {
    return set(key, std::vector<std::string>(texts.begin(), texts.end()));
  }
  Options& set(const std::string& key, std::initializer_list<std::pair<int32_t, float>> biases) {
    return set(key, std::vector<std::pair<int32_t, float>>(biases));
  }
  /* on_progress(fraction) is called while a model loads, 0…1, and returns whether to go on. False, or an exception, which
   * goes no further, ends loading with QWEN_ERR_CANCELLED. It lives as long as these options and what was made with them. */
  Options& set_progress(std::function<bool(double fraction)> on_progress) {
    return apply_callback("progress", reinterpret_cast<qwen_callback_fn>(detail::progress), std::move(on_progress));
  }
  /* on_step is called after every step of the engine, on the engine's own thread, which waits for it: it must not call the
   * engine, and must not throw, which would end the program. Lives as on_progress does. */
  Options& set_trace(std::function<void(const qwen_step& step)> on_step) {
    using Function = std::function<void(const qwen_step&)>;
    const qwen_step_fn border = [](const qwen_step* step, void* user) noexcept { (*static_cast<Function*>(user))(*step); };
    return apply_callback("trace", reinterpret_cast<qwen_callback_fn>(border), std::move(on_step));
  }

  /* NULL while nothing was set. */
  const qwen_options* get() const noexcept { return handle_.get(); }

 private:
  using Handle = detail::Handle<qwen_options, qwen_options_free>;
  template <class Function, class... Arguments>
  Options& apply(Function function, const std::string& key, Arguments... value) {
    if (!handle_) handle_ = detail::make<Handle>(qwen_options_new);
    detail::call(function, handle_.get(), key.c_str(), value...);
    return *this;
  }
  template <class Function>
  Options& apply_callback(const std::string& key, qwen_callback_fn border, Function callback) {
    const qwen_destroy_fn destroy = [](void* user) noexcept { delete static_cast<Function*>(user); };
    auto user = std::make_unique<Function>(std::move(callback));
    apply(qwen_options_set_callback, key, border, static_cast<void*>(user.get()), destroy);
    static_cast<void>(user.release()); /* the library destroys it from here on */
    return *this;
  }
  Handle handle_;
};

/* ------------------------------------------------------------------ model
 *
 * One reference to the weights, tokenizer and template of a checkpoint, which are immutable and live until the last Model,
 * Tokenizer or Engine that came from it has gone. */

/* The fields of qwen_model_info. */
struct ModelInfo {
  int32_t vocab_size{}, hidden_size{}, num_hidden_layers{}, num_attention_heads{}, num_key_value_heads{}, head_dim{};
  bool has_tokenizer{}, has_chat_template{};
  int64_t context_length{}, parameters{}, weight_bytes{};
  std::string architecture, path;
};

class Tokenizer;

class Model {
 public:
  /* Opens a folder as published, or a .gguf file. Options: device, dtype, load, progress. */
  explicit Model(const std::string& path, const Options& options = {})
      : handle_(detail::make<Handle>(qwen_model_open, path.c_str(), options.get())) {}
  /* Takes over a reference that came from qwen.h, for example from qwen_model_from_weights. */
  explicit Model(qwen_model* owned) noexcept : handle_(owned) {}

  ModelInfo info() const {
    const auto raw = detail::read<qwen_model_info>(qwen_model_info_get, get());
    return {raw.vocab_size, raw.hidden_size, raw.num_hidden_layers, raw.num_attention_heads, raw.num_key_value_heads,
            raw.head_dim, raw.has_tokenizer != 0, raw.has_chat_template != 0, raw.context_length, raw.parameters,
            raw.weight_bytes, raw.architecture, raw.path};
  }
  /* The checkpoint's own; QWEN_ERR_NOT_FOUND when there is none. */
  inline Tokenizer tokenizer() const;

  qwen_model* get() const noexcept { return handle_.get(); }

 private:
  using Handle = detail::Handle<qwen_model, qwen_model_free>;
  Handle handle_;
};

namespace detail {

/* One more reference. qwen.h lends models as const, yet takes references back as non-const. */
inline Model share(const qwen_model* model) noexcept {
  qwen_model_retain(model);
  return Model(const_cast<qwen_model*>(model));
}

}  // namespace detail

/* ------------------------------------------------------------------ tokenizer */

class Tokenizer {
 public:
  /* path: a tokenizer.json, a folder that holds one, or a .gguf file. Weights are not needed. */
  explicit Tokenizer(const std::string& path) : handle_(detail::make<Handle>(qwen_tokenizer_open, path.c_str())) {}

  /* Text to token ids. flags: QWEN_ENCODE_…, such as QWEN_ENCODE_PLAIN for text that is not to be trusted. */
  std::vector<int32_t> encode(std::string_view text, uint32_t flags = 0) const {
    return detail::collect<std::vector<int32_t>>(text.size(), qwen_tokenizer_encode, get(), text.data(), text.size(), flags);
  }
  /* Token ids to text. flags: QWEN_DECODE_… */
  std::string decode(Span<const int32_t> ids, uint32_t flags = 0) const {
    return detail::collect<std::string>(8 * ids.size(), qwen_tokenizer_decode, get(), ids.data(), ids.size(), flags);
  }
  /* Highest token id + 1. */
  int32_t size() const noexcept { return qwen_tokenizer_size(get()); }
  /* The id of a special or added token by its exact text. */
  std::optional<int32_t> token_id(std::string_view text) const noexcept {
    const int32_t id = qwen_tokenizer_token_id(get(), text.data(), text.size());
    return id < 0 ? std::nullopt : std::optional<int32_t>(id);
  }

  const qwen_tokenizer* get() const noexcept { return handle_ ? handle_.get() : qwen_model_tokenizer(model_.get()); }

 private:
  friend class Model;
  explicit Tokenizer(Model model) noexcept : model_(std::move(model)) {}

  using Handle = detail::Handle<qwen_tokenizer, qwen_tokenizer_free>;
  Handle handle_;
  Model model_{nullptr}; /* instead of a handle: the model whose tokenizer this is */
};

inline Tokenizer Model::tokenizer() const {
  if (!qwen_model_tokenizer(get())) throw Error(QWEN_ERR_NOT_FOUND, "this model has no tokenizer");
  return Tokenizer(detail::share(get()));
}

/* ------------------------------------------------------------------ prompt
 *
 * Either messages, which the checkpoint's chat template renders, or text and tokens, which go in as they are; the two do not
 * mix (QWEN_ERR_INVALID_ARGUMENT). Everything is copied. A prompt serves any number of requests. */

struct Message {
  std::string role; /* "system", "user", "assistant" or "tool" */
  std::string content;
};

class Prompt {
 public:
  Prompt() : handle_(detail::make<Handle>(qwen_prompt_new)) {}
  static Prompt from_text(std::string_view text) { return std::move(Prompt().text(text)); }
  static Prompt from_tokens(Span<const int32_t> ids) { return std::move(Prompt().tokens(ids)); }
  static Prompt from_messages(const std::vector<Message>& messages) {
    Prompt prompt;
    for (const Message& message : messages) prompt.message(message.role, message.content);
    return prompt;
  }

  Prompt& text(std::string_view text) { return add(qwen_prompt_add_text, text.data(), text.size()); }
  Prompt& tokens(Span<const int32_t> ids) { return add(qwen_prompt_add_tokens, ids.data(), ids.size()); }
  Prompt& message(const std::string& role, std::string_view content) {
    return add(qwen_prompt_add_message, role.c_str(), content.data(), content.size());
  }
  /* A message as a JSON object or several as an array, in the form of OpenAI's chat interface: tool calls, thoughts, … */
  Prompt& messages_json(std::string_view json) { return add(qwen_prompt_add_message_json, json.data(), json.size()); }
  /* The tools the model may call, a JSON array. Replaces what was set before. */
  Prompt& tools(std::string_view json) { return add(qwen_prompt_set_tools, json.data(), json.size()); }
  /* Further variables of the chat template, a JSON object such as {"enable_thinking": false}. */
  Prompt& variables(std::string_view json) { return add(qwen_prompt_set_variables, json.data(), json.size()); }

  /* The text, and the token ids, that the model would be given. Of the options only reasoning_mode matters. */
  std::string render(const Model& model, const Options& options = {}) const {
    return detail::collect<std::string>(1024, qwen_prompt_render, get(), model.get(), options.get());
  }
  std::vector<int32_t> encode(const Model& model, const Options& options = {}) const {
    return detail::collect<std::vector<int32_t>>(1024, qwen_prompt_encode, get(), model.get(), options.get());
  }

  qwen_prompt* get() const noexcept { return handle_.get(); }

 private:
  template <class Function, class... Arguments>
  Prompt& add(Function function, Arguments... part) {
    detail::call(function, get(), part...);
    return *this;
  }
  using Handle = detail::Handle<qwen_prompt, qwen_prompt_free>;
  Handle handle_;
};

/* ------------------------------------------------------------------ events
 *
 * One step of a request. What it points to is borrowed: until the next event is taken from the same Request or Queue or, in a
 * callback, until that returns. std::string(event.text()) stays. */

class Event {
 public:
  Event() noexcept = default;
  /* The struct of an older library ends before this program's does. */
  explicit Event(const qwen_event& event) noexcept {
    std::memcpy(&raw_, &event, event.struct_size < sizeof raw_ ? event.struct_size : sizeof raw_);
  }

  /* QWEN_EVENT_TEXT, _TOOL_CALL, _FINISHED or _DONE. */
  int32_t type() const noexcept { return raw_.type; }
  /* The last event of its request. */
  bool done() const noexcept { return raw_.type == QWEN_EVENT_DONE; }
  int32_t choice() const noexcept { return raw_.choice; }
  /* The number given to Engine::submit. */
  uint64_t tag() const noexcept { return raw_.tag; }

  /* TEXT: whole code points; may be empty, and is in every other event. */
  std::string_view text() const noexcept { return view(raw_.text, raw_.text_length); }
  /* The text is a thought, not the answer. */
  bool is_reasoning() const noexcept { return raw_.channel == QWEN_CHANNEL_REASONING; }
  Span<const int32_t> token_ids() const noexcept { return {raw_.token_ids, raw_.token_count}; }
  /* One per token; empty unless the option logprobs asks for them. */
  Span<const float> logprobs() const noexcept { return {raw_.logprobs, raw_.token_count}; }
  /* [token_ids().size(), top_count()], likeliest first; empty unless the option top_logprobs asks for them. */
  Span<const int32_t> top_token_ids() const noexcept { return {raw_.top_token_ids, raw_.token_count * raw_.top_count}; }
  Span<const float> top_logprobs() const noexcept { return {raw_.top_logprobs, raw_.token_count * raw_.top_count}; }
  size_t top_count() const noexcept { return raw_.top_count; }

  /* TOOL_CALL: arguments is the text of a JSON object. */
  std::string_view tool_name() const noexcept { return view(raw_.tool_name, raw_.tool_name_length); }
  std::string_view tool_arguments() const noexcept { return view(raw_.tool_arguments, raw_.tool_arguments_length); }

  /* FINISHED: QWEN_FINISH_… */
  int32_t finish_reason() const noexcept { return raw_.finish_reason; }
  /* DONE: QWEN_OK, or why the request failed, and the message to it. */
  int32_t status() const noexcept { return raw_.status; }
  std::string_view message() const noexcept { return raw_.message ? raw_.message : ""; }

  const qwen_event& get() const noexcept { return raw_; }

 private:
  static std::string_view view(const char* text, size_t length) noexcept {
    return text ? std::string_view(text, length) : std::string_view();
  }
  qwen_event raw_ = detail::sized<qwen_event>();
};

/* ------------------------------------------------------------------ results */

struct ToolCall {
  std::string name;
  std::string arguments; /* the text of a JSON object */
};

struct Choice {
  int32_t finish_reason = QWEN_FINISH_NONE;
  std::string text;
  std::string reasoning;                /* what the model thought first */
  std::vector<int32_t> token_ids;       /* every generated token, the end token included */
  std::vector<float> logprobs;          /* empty unless asked for */
  std::vector<ToolCall> tool_calls;     /* in the order they came */
  std::optional<std::string> stop_text; /* which of the texts in the option stop ended the answer */
  std::vector<int32_t> top_token_ids;   /* [token_ids.size(), top_count], empty unless asked for */
  std::vector<float> top_logprobs;
  size_t top_count = 0;
};

/* Tokens and seconds; holds nothing but numbers. */
using Stats = qwen_stats;

struct Result {
  std::vector<Choice> choices;
  Stats stats = detail::sized<Stats>();
  std::vector<float> prompt_logprobs; /* one per token of the prompt, the first is 0; empty unless asked for */

  /* The answer, for the usual case of one choice. std::out_of_range when there is none. */
  const std::string& text() const { return choices.at(0).text; }
};

namespace detail {

template <class T>
std::vector<T> copy(const T* values, size_t count) {
  return values ? std::vector<T>(values, values + count) : std::vector<T>();
}

inline Result copy(const qwen_result* from) {
  Result result;
  for (size_t index = 0; index < qwen_result_choice_count(from); ++index) {
    const auto raw = read<qwen_choice>(qwen_result_choice_get, from, index);
    Choice& choice = result.choices.emplace_back();
    choice.finish_reason = raw.finish_reason;
    choice.text.assign(raw.text, raw.text_length);
    choice.reasoning.assign(raw.reasoning, raw.reasoning_length);
    choice.token_ids = copy(raw.token_ids, raw.token_count);
    choice.logprobs = copy(raw.logprobs, raw.token_count);
    for (size_t i = 0; i < raw.tool_call_count; ++i) {
      const auto tool = read<qwen_tool_call>(qwen_result_tool_call_get, from, index, i);
      choice.tool_calls.push_back({{tool.name, tool.name_length}, {tool.arguments, tool.arguments_length}});
    }
    if (raw.stop_text) choice.stop_text.emplace(raw.stop_text, raw.stop_text_length);
    choice.top_token_ids = copy(raw.top_token_ids, raw.token_count * raw.top_count);
    choice.top_logprobs = copy(raw.top_logprobs, raw.token_count * raw.top_count);
    choice.top_count = raw.top_count;
  }
  result.stats = read<qwen_stats>(qwen_result_stats_get, from);
  const float* logprobs = nullptr;
  size_t count = 0;
  call(qwen_result_prompt_logprobs_get, from, &logprobs, &count);
  result.prompt_logprobs = copy(logprobs, count);
  return result;
}
template <class Function, class... Arguments>
Result result_of(Function function, Arguments... arguments) {
  return copy(make<Handle<qwen_result, qwen_result_free>>(function, arguments...).get());
}

}  // namespace detail

/* ------------------------------------------------------------------ request
 *
 * One generation under way. Destroying it cancels it: a loop that is left early, by break, return or exception, leaves
 * nothing running. As a range it is single-pass; begin() takes the next event. The loop ends after the DONE event of a
 * request that ended well. For any other, a cancelled one too, its Error is thrown instead of handing DONE out. */

class Request {
 public:
  class Iterator;

  /* Waits for the next event. Null: none came in time or, when done(), there are no more. Throws as said above, and
   * QWEN_ERR_INVALID_ARGUMENT when the events go to a queue. */
  const Event* next(std::chrono::milliseconds timeout = forever) {
    auto raw = detail::sized<qwen_event>();
    if (done_ || detail::call<QWEN_ERR_TIMEOUT>(qwen_request_next, get(), int64_t{timeout.count()}, &raw) != QWEN_OK)
      return nullptr;
    current_ = Event(raw);
    done_ = current_.done();
    if (done_ && raw.status != QWEN_OK) throw Error(raw.status, std::string(current_.message()));
    return &current_;
  }
  /* next() or a loop has taken the DONE event. */
  bool done() const noexcept { return done_; }

  inline Iterator begin();
  inline Iterator end() const noexcept;

  /* Any thread, at any time, any number of times; takes effect within one step. */
  void cancel() noexcept { qwen_request_cancel(get()); }
  /* Ends it well, with what it has. Any thread. */
  void stop() noexcept { qwen_request_stop(get()); }
  /* What there is so far, of a failed or cancelled request too; complete once the DONE event is out. */
  Result result() const { return detail::result_of(qwen_request_result, get()); }

  qwen_request* get() const noexcept { return handle_.get(); }

 private:
  friend class Engine;
  using Handle = detail::Handle<qwen_request, qwen_request_free>;
  explicit Request(Handle handle) noexcept : handle_(std::move(handle)) {}

  Handle handle_;
  Event current_;
  bool done_ = false;
};

/* An input iterator: ++ waits for the next event, which takes the place of the last. Moving the request invalidates it. */
class Request::Iterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = Event;
  using difference_type = std::ptrdiff_t;
  using pointer = const Event*;
  using reference = const Event&;

  Iterator() noexcept = default;
  explicit Iterator(Request& request) : request_(&request), event_(request.next()) {}
  reference operator*() const noexcept { return *event_; }
  pointer operator->() const noexcept { return event_; }
  Iterator& operator++() {
    event_ = request_->next();
    return *this;
  }
  void operator++(int) { ++*this; }

  friend bool operator==(const Iterator& left, const Iterator& right) noexcept { return left.event_ == right.event_; }
  friend bool operator!=(const Iterator& left, const Iterator& right) noexcept { return left.event_ != right.event_; }

 private:
  Request* request_ = nullptr;
  const Event* event_ = nullptr;
};

inline Request::Iterator Request::begin() { return Iterator(*this); }
inline Request::Iterator Request::end() const noexcept { return {}; }

/* ------------------------------------------------------------------ queue
 *
 * Where the events of many requests meet, told apart by their tags: one thread serves any number of them. Destroying it drops
 * the events and cancels nothing. */

class Queue {
 public:
  Queue() : handle_(detail::make<Handle>(qwen_queue_new)) {}

  /* Polls readable while events wait, for poll, epoll and event loops, which then call next with a timeout of 0. Neither
   * read from it nor close it. -1: the system has none left. */
  int fd() const noexcept { return qwen_queue_fd(get()); }
  /* Takes what has come, waiting up to timeout for the first event; empty: nothing came. The events are borrowed until the
   * next call. Nothing is thrown for a request that failed: the status() of its DONE event says so. */
  Span<const Event> next(std::chrono::milliseconds timeout = forever) {
    batch_.clear();
    size_t count = 0;
    /* The library times out early when all that came were events of requests that have been destroyed. */
    while (detail::call<QWEN_ERR_TIMEOUT>(qwen_queue_next, get(), int64_t{timeout.count()}, &count) != QWEN_OK)
      if (timeout >= timeout.zero()) return {};
    for (size_t i = 0; i < count; ++i)
      batch_.emplace_back(detail::read<qwen_event>(qwen_queue_event, get(), i));
    return batch_;
  }

  qwen_queue* get() const noexcept { return handle_.get(); }

 private:
  using Handle = detail::Handle<qwen_queue, qwen_queue_free>;
  Handle handle_;
  std::vector<Event> batch_;
};

/* ------------------------------------------------------------------ tensors */

/* Row-major float32 values, borrowed from their Tensors. */
class Tensor {
 public:
  explicit Tensor(const qwen_tensor& tensor) : raw_(tensor) {
    if (raw_.dtype != QWEN_DTYPE_F32) throw Error(QWEN_ERR_UNSUPPORTED, "qwen::Tensor reads float32 only");
  }
  /* Outermost dimension first; lives as long as this object. */
  Span<const int64_t> shape() const noexcept { return {raw_.shape, static_cast<size_t>(raw_.dimensions)}; }
  Span<const float> values() const noexcept { return {static_cast<const float*>(raw_.data), raw_.bytes / sizeof(float)}; }
  /* One row of the innermost dimension. std::out_of_range past the last one. */
  Span<const float> row(size_t index) const {
    const size_t width = shape().empty() ? 1 : static_cast<size_t>(shape()[shape().size() - 1]);
    if (width == 0 || index >= values().size() / width) throw std::out_of_range("qwen::Tensor::row");
    return {values().data() + index * width, width};
  }
  const qwen_tensor& get() const noexcept { return raw_; }

 private:
  qwen_tensor raw_;
};

/* What Engine::forward, embed and rerank return. */
class Tensors {
 public:
  /* name: "logits" [rows, vocab_size], "hidden.0" (embeddings) … "hidden.L" (after the final norm) [rows, hidden_size].
   * QWEN_ERR_NOT_FOUND for what was not asked for. */
  Tensor at(size_t sequence, const std::string& name = "logits") const {
    return Tensor(detail::read<qwen_tensor>(qwen_tensors_get, get(), sequence, name.c_str()));
  }
  /* prompt_tokens and cached_tokens; the rest is 0. */
  Stats stats() const { return detail::read<qwen_stats>(qwen_tensors_stats_get, get()); }
  const qwen_tensors* get() const noexcept { return handle_.get(); }

 private:
  friend class Engine;
  using Handle = detail::Handle<qwen_tensors, qwen_tensors_free>;
  explicit Tensors(Handle handle) noexcept : handle_(std::move(handle)) {}
  Handle handle_;
};

/* ------------------------------------------------------------------ texts to embed or to judge */

class Inputs {
 public:
  /* flags: QWEN_INPUTS_… */
  explicit Inputs(const std::vector<std::string>& texts = {}, uint32_t flags = 0)
      : handle_(detail::make<Handle>(qwen_inputs_new, flags)) {
    for (const std::string& each : texts) text(each);
  }
  Inputs& text(std::string_view text) { return add(qwen_inputs_add_text, text.data(), text.size()); }
  Inputs& tokens(Span<const int32_t> ids) { return add(qwen_inputs_add_tokens, ids.data(), ids.size()); }
  /* What the search is for; with one, what Engine::embed is given are queries. The first form: the usual sentence. */
  Inputs& instruction() { return add(qwen_inputs_set_instruction, nullptr, size_t{0}); }
  Inputs& instruction(std::string_view text) {
    return add(qwen_inputs_set_instruction, text.data() ? text.data() : "", text.size());
  }
  /* The token ids the model would be given of one input: by Engine::embed, or by Engine::rerank with this query. */
  std::vector<int32_t> encode(const Model& model, size_t index, const std::optional<std::string>& query = {}) const {
    return detail::collect<std::vector<int32_t>>(512, qwen_inputs_encode, get(), index, query ? query->data() : nullptr,
                                                 query ? query->size() : 0, model.get());
  }
  const qwen_inputs* get() const noexcept { return handle_.get(); }

 private:
  template <class Function, class... Arguments>
  Inputs& add(Function function, Arguments... part) {
    detail::call(function, handle_.get(), part...);
    return *this;
  }
  using Handle = detail::Handle<qwen_inputs, qwen_inputs_free>;
  Handle handle_;
};

/* ------------------------------------------------------------------ engine
 *
 * Computes the requests of any number of threads together. Every member function may be called by any thread; move or destroy
 * an engine when no other call on it is to come (calls that wait inside it return). */

/* What a callback may answer. */
enum class Flow : int32_t {
  go_on = 0,
  stop = 1,  /* end the answer here and keep what there is */
  cancel = 2 /* give it up: QWEN_ERR_CANCELLED */
};

/* The fields of qwen_engine_stats. */
struct EngineStats {
  int32_t threads{};
  int64_t running{}, waiting{}, finished{}, steps{}, prompt_tokens{}, generated_tokens{};
  int64_t cache_blocks_total{}, cache_blocks_used{}, cache_block_tokens{}, cache_bytes{};
  std::string backend;
  int64_t cached_tokens{};
};

class Engine {
 public:
  /* Opens a model folder or .gguf file and an engine on it. */
  explicit Engine(const std::string& path, const Options& options = {})
      : handle_(detail::make<Handle>(qwen_create, path.c_str(), options.get())) {}
  /* An engine on a model that is open already. */
  explicit Engine(const Model& model, const Options& options = {})
      : handle_(detail::make<Handle>(qwen_engine_new, model.get(), options.get())) {}

  /* Generates and blocks until done. */
  Result generate(const Prompt& prompt, const Options& options = {}) {
    return detail::result_of(qwen_generate, get(), prompt.get(), options.get(), nullptr, nullptr);
  }
  /* The same with on_event(const Event&), called on this thread for every event; it returns nothing or a Flow. An exception
   * it throws cancels the request and comes out of here unchanged. */
  template <class Callback>
  Result generate(const Prompt& prompt, const Options& options, Callback&& on_event) {
    Border<std::remove_reference_t<Callback>> border{on_event, nullptr};
    try {
      return detail::result_of(qwen_generate, get(), prompt.get(), options.get(), &border.call, &border);
    } catch (const Error&) {
      if (border.thrown) std::rethrow_exception(border.thrown);
      throw;
    }
  }
  /* One question; returns the answer without the thoughts. */
  std::string chat(std::string_view question, const Options& options = {}) {
    return generate(Prompt().message("user", question), options).text();
  }

  /* Starts generating and returns at once; the events are taken from the request. */
  [[nodiscard]] Request stream(const Prompt& prompt, const Options& options = {}) {
    return start(prompt, options, nullptr, 0);
  }
  /* The same, but the events go to the queue, each with the tag. Keep the request: destroying it cancels it. */
  [[nodiscard]] Request submit(Queue& queue, uint64_t tag, const Prompt& prompt, const Options& options = {}) {
    return start(prompt, options, queue.get(), tag);
  }

  /* One forward pass over token lists; blocks until done. outputs: QWEN_OUTPUT_… or-ed. first_rows: for each list the first
   * token whose rows are wanted; empty: all. std::invalid_argument when it is neither empty nor one per list. */
  Tensors forward(const std::vector<std::vector<int32_t>>& sequences, uint32_t outputs = QWEN_OUTPUT_LOGITS,
                  const Options& options = {}, const std::vector<size_t>& first_rows = {}) {
    if (!first_rows.empty() && first_rows.size() != sequences.size())
      throw std::invalid_argument("qwen::Engine::forward: first_rows must be empty or one per sequence");
    std::vector<int32_t> ids;
    std::vector<size_t> counts;
    for (const std::vector<int32_t>& sequence : sequences) {
      ids.insert(ids.end(), sequence.begin(), sequence.end());
      counts.push_back(sequence.size());
    }
    return Tensors(detail::make<Tensors::Handle>(qwen_forward, get(), ids.data(), counts.data(),
                                                 first_rows.empty() ? nullptr : first_rows.data(), counts.size(),
                                                 outputs, options.get()));
  }

  /* LoRA adapters: requests name theirs by the option "adapter". path: a folder as PEFT saves it. */
  void load_adapter(const std::string& path, const std::string& name) {
    detail::call(qwen_engine_load_adapter, get(), path.c_str(), name.c_str());
  }
  /* Requests that have it go on with it. QWEN_ERR_INVALID_ARGUMENT when there is none of this name. */
  void unload_adapter(const std::string& name) { detail::call(qwen_engine_unload_adapter, get(), name.c_str()); }

  /* "embeddings" [inputs, dimensions] of sequence 0, rows of length 1; dimensions 0: all there are. Blocks until done; of the
   * options adapter, priority and timeout_ms matter. on_progress(fraction) returns whether to go on; false, or an exception, which goes
   * no further, ends the call with QWEN_ERR_CANCELLED. */
  Tensors embed(const Inputs& inputs, int64_t dimensions = 0, const Options& options = {},
                std::function<bool(double fraction)> on_progress = {}) {
    return Tensors(detail::make<Tensors::Handle>(qwen_embed, get(), inputs.get(), dimensions, options.get(),
                                                 on_progress ? &detail::progress : nullptr, &on_progress));
  }
  /* "scores" [documents] of sequence 0: for each the probability that it answers the query. The rest as in embed. */
  Tensors rerank(std::string_view query, const Inputs& documents, const Options& options = {},
                 std::function<bool(double fraction)> on_progress = {}) {
    return Tensors(detail::make<Tensors::Handle>(qwen_rerank, get(), query.data(), query.size(), documents.get(),
                                                 options.get(), on_progress ? &detail::progress : nullptr, &on_progress));
  }

  /* For a graceful end: new requests are refused with QWEN_ERR_CLOSED from now on; waits for those in flight. False: some
   * still run; call again, or destroy the engine. */
  bool drain(std::chrono::milliseconds timeout = forever) {
    return detail::call<QWEN_ERR_TIMEOUT>(qwen_engine_drain, get(), int64_t{timeout.count()}) == QWEN_OK;
  }

  /* One more reference to the engine's model. */
  Model model() const noexcept { return detail::share(qwen_engine_model(get())); }
  EngineStats stats() const {
    const auto raw = detail::read<qwen_engine_stats>(qwen_engine_stats_get, get());
    return {raw.threads, raw.running, raw.waiting, raw.finished, raw.steps, raw.prompt_tokens, raw.generated_tokens,
            raw.cache_blocks_total, raw.cache_blocks_used, raw.cache_block_tokens, raw.cache_bytes, raw.backend,
            raw.cached_tokens};
  }

  qwen_engine* get() const noexcept { return handle_.get(); }

 private:
  using Handle = detail::Handle<qwen_engine, qwen_destroy>;

  /* Between the library, which calls a C function, and the host's callback: exceptions go no further than this. */
  template <class Callback>
  struct Border {
    Callback& on_event;
    std::exception_ptr thrown;

    static int32_t call(const qwen_event* event, void* user) noexcept {
      using Returned = std::invoke_result_t<Callback&, const Event&>;
      static_assert(std::is_void_v<Returned> || std::is_same_v<Returned, Flow>, "on_event returns nothing or a qwen::Flow");
      Border& self = *static_cast<Border*>(user);
      try {
        if constexpr (std::is_same_v<Returned, Flow>) return static_cast<int32_t>(std::invoke(self.on_event, Event(*event)));
        std::invoke(self.on_event, Event(*event));
        return 0;
      } catch (...) {
        self.thrown = std::current_exception();
        return -1;
      }
    }
  };

  Request start(const Prompt& prompt, const Options& options, qwen_queue* queue, uint64_t tag) {
    return Request(detail::make<Request::Handle>(qwen_submit, get(), prompt.get(), options.get(), queue, tag));
  }

  Handle handle_;
};

}  // namespace qwen

#endif /* QWEN_HPP */
