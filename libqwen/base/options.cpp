#include "base/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "base/error.h"

namespace qwen {
namespace {

constexpr double kMaxInt = 9007199254740992.0;  // 2^53: exact in both types
constexpr auto kEngine = OptionScope::engine;
constexpr auto kRequest = OptionScope::request;
constexpr auto kI64 = OptionType::i64;
constexpr auto kF64 = OptionType::f64;
constexpr auto kStr = OptionType::str;

constexpr OptionRow kTable[] = {
    {"device", kStr, kEngine, false, 0, 0, "auto", "auto|cpu|cuda|cuda:N", "",
     "Where the model runs. cuda: the first NVIDIA GPU; cuda:N: GPU N, counted from 0. auto: "
     "the first GPU that can run the model, if there is one, else the CPU; the log says which and why."},
    {"gpu_check", kI64, kEngine, true, 0, 1, "1", "", "",
     "1: before a process computes on a GPU for the first time, it asks it for answers that it knows, within "
     "milliseconds; where they are wrong, auto takes the CPU. 0: it does not ask."},
    {"dtype", kStr, kEngine, false, 0, 0, "bf16", "bf16|f32", "",
     "bf16: 16-bit matrices and cache. f32: weights widened, all arithmetic and the cache float32."},
    {"strict", kI64, kEngine, true, 0, 1, "1", "", "",
     "1: a result is the same to the bit whatever else is computed beside it. 0: on a GPU, in bf16, products "
     "of 64 rows and more (a prompt's, a large batch's) are NVIDIA's cuBLASLt's, if the machine has it: as "
     "exact, but not the same bits in every batch. On the CPU it changes nothing."},
    {"threads", kI64, kEngine, true, 0, 1024, "0", "", "threads",
     "Computing threads; 0: the cores this process may use."},
    {"cpu_isa", kStr, kEngine, false, 0, 0, "", "portable|avx2|avx512|amx", "",
     "Forces a CPU instruction set level; default: the best one of this machine."},
    {"load", kStr, kEngine, false, 0, 0, "mmap", "mmap|read", "",
     "mmap: map the files, they must not be truncated meanwhile. read: copy them into memory."},
    {"context_length", kI64, kEngine, true, 0, 1 << 24, "0", "", "tokens",
     "Longest prompt + answer of a request; 0: what the model allows."},
    {"kv_cache_bytes", kI64, kEngine, true, 0, kMaxInt, "0", "", "bytes",
     "Memory for keys and values, and for a hybrid's states (up to half of it); 0: room for one full context "
     "or four times 4,096 tokens, whichever is more, and for 32 states, within half of the free memory; on a "
     "GPU max_running times 4,096 tokens and twice as many states, within what is free but a sixteenth of "
     "its "
     "memory and what a step needs."},
    {"max_batch_tokens", kI64, kEngine, true, 1, 65536, "512", "", "tokens",
     "Most tokens computed in one step; a longer prompt is computed in chunks."},
    {"max_running", kI64, kEngine, true, 1, 4096, "64", "", "requests",
     "Most requests computed in one step."},
    {"max_waiting", kI64, kEngine, true, 1, 1 << 20, "65536", "", "requests",
     "Most requests that may wait; one more is refused as busy."},
    {"prefix_cache", kI64, kEngine, true, 0, 1, "1", "", "",
     "1: keys, values and states of earlier requests are kept while there is room in the cache, and used "
     "again "
     "where a prompt begins alike: memory in use grows towards kv_cache_bytes."},
    {"cuda_graphs", kI64, kEngine, true, 0, 1, "1", "", "",
     "1: a GPU's work in a step in which every sequence generates is captured, once for each size, and "
     "launched as one: with the same results, and less to do for the CPU."},
    {"cuda_step_ahead", kI64, kEngine, true, 0, 1, "1", "", "",
     "1: a GPU is given the next step before the CPU has read this one's tokens: with the same results, and "
     "without a pause between the two. Of a request that ends one token may be computed in vain."},
    {"cuda_dependent_launch", kI64, kEngine, true, 0, 1, "0", "", "",
     "1: on a GPU of compute capability 9.0 or higher a kernel begins while the one before it ends, and "
     "waits "
     "for it itself: with the same results."},
    {"mtp", kI64, kEngine, true, 0, 1, "0", "", "",
     "1: load the checkpoint's multi-token-prediction head too, for its logits."},
    {"tokenizer", kStr, kEngine, false, 0, 0, "", "", "",
     "A tokenizer.json, its folder or a GGUF file, with its chat template, instead of the model's own."},
    {"progress", OptionType::callback, kEngine, false, 0, 0, "", "", "",
     "A qwen_progress_fn, called while loading."},
    {"trace", OptionType::callback, kEngine, false, 0, 0, "", "", "",
     "A qwen_step_fn, called after every step."},

    {"max_tokens", kI64, kRequest, true, 1, 1 << 24, "", "", "tokens",
     "Most tokens to generate; default: what is left of the context."},
    {"min_tokens", kI64, kRequest, true, 0, 1 << 24, "0", "", "tokens",
     "End tokens are not chosen before this many."},
    {"temperature", kF64, kRequest, true, 0, 100, "1", "", "",
     "Divides the logits; 0: always the most likely token."},
    {"top_k", kI64, kRequest, true, 0, 1 << 24, "0", "", "tokens", "Keep the k most likely tokens; 0: all."},
    {"top_p", kF64, kRequest, true, 0, 1, "1", "", "",
     "Keep the likeliest tokens that together reach this probability."},
    {"min_p", kF64, kRequest, true, 0, 1, "0", "", "",
     "Keep tokens at least this fraction as likely as the likeliest one."},
    {"repetition_penalty", kF64, kRequest, true, 0.01, 100, "1", "", "",
     "Divides positive and multiplies negative logits of tokens in prompt and answer (transformers' "
     "formula)."},
    {"frequency_penalty", kF64, kRequest, true, -100, 100, "0", "", "",
     "Subtracted from a token's logit for each time it was generated (OpenAI's formula)."},
    {"presence_penalty", kF64, kRequest, true, -100, 100, "0", "", "",
     "Subtracted from the logit of every token generated already (OpenAI's formula)."},
    {"penalty_window", kI64, kRequest, true, 0, 1 << 24, "0", "", "tokens",
     "The penalties look at the last so many tokens only; 0: at all."},
    {"logit_bias", OptionType::bias, kRequest, true, -1e30, 1e30, "", "", "",
     "Added to the logits of these tokens."},
    {"stop_token_ids", OptionType::i32_array, kRequest, false, 0, 0, "", "", "",
     "More tokens that end the answer, besides the model's own."},
    {"stop", OptionType::str_array, kRequest, false, 0, 0, "", "", "",
     "Texts that end the answer; they and what follows are left out. Looked for in the answer, not in the "
     "thought before "
     "it, and not before min_tokens."},
    {"ignore_eos", kI64, kRequest, true, 0, 1, "0", "", "",
     "1: the model's end tokens do not end the answer."},
    {"seed", kI64, kRequest, true, 0, kMaxInt, "", "", "",
     "Makes sampling repeatable; default: drawn, and reported in the stats."},
    {"logprobs", kI64, kRequest, true, 0, 1, "0", "", "",
     "1: report the log-probability of every chosen token."},
    {"top_logprobs", kI64, kRequest, true, 0, 20, "0", "", "tokens",
     "Also report the log-probabilities of this many likeliest tokens, for every generated token; implies "
     "logprobs."},
    {"prompt_logprobs", kI64, kRequest, true, 0, 1, "0", "", "",
     "1: report the log-probability of every token of the prompt; it is then computed in full, the prefix "
     "cache aside."},
    {"priority", kI64, kRequest, true, -1000, 1000, "0", "", "",
     "Higher ones are begun first, take the place of lower ones when no other is free, and keep their cache "
     "when it is full; equal ones in the order of arrival."},
    {"timeout_ms", kI64, kRequest, true, 1, 1 << 30, "", "", "ms",
     "A request that has not ended so long after submit ends with a timeout error."},
    {"n", kI64, kRequest, true, 1, 128, "1", "", "choices",
     "Independent answers to the prompt, which is computed once."},
    {"adapter", kStr, kRequest, false, 0, 0, "", "", "",
     "The LoRA adapter that answers, by the name it was loaded under; empty: the model as it is."},
    {"reasoning_mode", kI64, kRequest, true, -1, 1, "-1", "", "",
     "Thinking before the answer, where the chat template can switch it: 0 off, 1 on, -1 as the template has "
     "it."},
    {"split_reasoning", kI64, kRequest, true, -1, 1, "-1", "", "",
     "Whether what stands between <think> and </think> is kept apart from the answer: 0 no, 1 yes, -1 where "
     "the prompt is "
     "a conversation."},
    {"reasoning_budget", kI64, kRequest, true, 0, 1 << 24, "", "", "tokens",
     "A thought that has this many tokens is ended: reasoning_end_text and the closing tag are put in its "
     "place, and the "
     "answer follows."},
    {"reasoning_end_text", kStr, kRequest, false, 0, 0,
     "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking "
     "directly now.\n",
     "", "",
     "What a thought is ended with when reasoning_budget is used up; the default is the one "
     "of Qwen3's technical report."},
};

const OptionRow& row(std::string_view key) {
  std::string keys;
  for (const OptionRow& candidate : kTable) {
    if (candidate.key == key) return candidate;
    keys += keys.empty() ? "" : ", ";
    keys += candidate.key;
  }
  fail(Status::invalid_argument, "unknown option ", quote(key), "; the options are ", keys);
}

std::string_view type_name(OptionType type) {
  switch (type) {
    case OptionType::i64:
      return "an integer";
    case OptionType::f64:
      return "a number";
    case OptionType::str:
      return "a text";
    case OptionType::i32_array:
      return "a list of token ids";
    case OptionType::str_array:
      return "a list of texts";
    case OptionType::bias:
      return "a list of token ids with biases";
    case OptionType::callback:
      return "a callback";
  }
  return "?";
}

const OptionRow& row_of_type(std::string_view key, OptionType type) {
  const OptionRow& found = row(key);
  if (found.type != type)
    fail(Status::invalid_argument, "option '", key, "' takes ", type_name(found.type), ", not ",
         type_name(type));
  return found;
}

template <class Number>
void check_bounds(const OptionRow& option, Number value, std::string_view what = "") {
  if (!option.has_bounds) return;
  // In the number's own type: as a double, 2^53 + 1 would be 2^53. NaN is inside no bounds.
  if (value >= static_cast<Number>(option.minimum) && value <= static_cast<Number>(option.maximum)) return;
  const bool integer = option.type == OptionType::i64;
  const auto bound = [&](double b) { return integer ? cat(static_cast<int64_t>(b)) : cat(b); };
  fail(Status::invalid_argument, "option '", option.key, "'", what, " is ", value, "; allowed are ",
       bound(option.minimum), " to ", bound(option.maximum));
}

// Whether a text is a prefix and a small number.
bool is_number(std::string_view text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  return !text.empty() && text.size() <= 3 && std::all_of(text.begin(), text.end(), is_digit);
}

void check_choice(const OptionRow& option, std::string_view text) {
  std::string_view rest = option.choices;
  if (rest.empty()) return;
  while (true) {
    const size_t bar = rest.find('|');
    const std::string_view choice = rest.substr(0, bar);
    if (choice == text && !choice.ends_with(":N")) return;
    if (choice.ends_with(":N") && is_number(text, choice.substr(0, choice.size() - 1))) return;
    if (bar == std::string_view::npos) break;
    rest.remove_prefix(bar + 1);
  }
  fail(Status::invalid_argument, "option '", option.key, "' is ", quote(text), "; allowed are ",
       option.choices);
}

template <class Number>
Number parse_number(const OptionRow& option, std::string_view text, std::string_view origin) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    fail(Status::invalid_argument, origin, " is ", quote(text), ", it must be ", type_name(option.type));
  return value;
}

std::string environment_name(std::string_view key) {
  std::string name = "QWEN_";
  for (const char c : key) name += static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return name;
}

std::optional<std::string> from_environment(const OptionRow& option, std::string& name) {
  if (option.scope != OptionScope::engine) return std::nullopt;
  name = environment_name(option.key);
  const char* text = std::getenv(name.c_str());
  if (!text || !*text) return std::nullopt;
  return std::string(text);
}

// Runs `check`, and says that the environment was to blame when it fails.
template <class Check>
void checked_from(const std::string& variable, Check check) {
  try {
    check();
  } catch (const Error& error) {
    fail(error.status(), "environment variable ", variable, ": ", error.message());
  }
}

}  // namespace

std::span<const OptionRow> option_table() {
  return kTable;
}

void Options::set(std::string_view key, int64_t value) {
  if (row(key).type == OptionType::f64) return set(key, static_cast<double>(value));  // temperature = 1
  check_bounds(row_of_type(key, OptionType::i64), value);
  values_.insert_or_assign(std::string(key), value);
}

void Options::set(std::string_view key, double value) {
  check_bounds(row_of_type(key, OptionType::f64), value);
  values_.insert_or_assign(std::string(key), value);
}

void Options::set(std::string_view key, std::string_view text) {
  check_choice(row_of_type(key, OptionType::str), text);
  values_.insert_or_assign(std::string(key), std::string(text));
}

void Options::set(std::string_view key, std::vector<int32_t> values) {
  row_of_type(key, OptionType::i32_array);
  for (const int32_t id : values)
    if (id < 0)
      fail(Status::invalid_argument, "option '", key, "' holds ", id, "; token ids are not negative");
  values_.insert_or_assign(std::string(key), std::move(values));
}

void Options::set(std::string_view key, std::vector<std::string> texts) {
  row_of_type(key, OptionType::str_array);
  values_.insert_or_assign(std::string(key), std::move(texts));
}

void Options::set(std::string_view key, TokenBias biases) {
  const OptionRow& option = row_of_type(key, OptionType::bias);
  for (const auto& [id, bias] : biases) {
    if (id < 0)
      fail(Status::invalid_argument, "option '", key, "' holds token ", id, "; token ids are not negative");
    check_bounds(option, bias, cat(" of token ", id));
  }
  values_.insert_or_assign(std::string(key), std::move(biases));
}

void Options::set(std::string_view key, HostCallback callback) {
  row_of_type(key, OptionType::callback);
  values_.insert_or_assign(std::string(key), std::move(callback));
}

template <class T>
const T* Options::find(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : std::get_if<T>(&found->second);
}

std::optional<int64_t> Options::i64(std::string_view key) const {
  if (const int64_t* value = find<int64_t>(key)) return *value;
  const OptionRow& option = row_of_type(key, OptionType::i64);
  std::string name;
  const auto text = from_environment(option, name);
  if (!text) return std::nullopt;
  const auto value = parse_number<int64_t>(option, *text, name);
  checked_from(name, [&] { check_bounds(option, value); });
  return value;
}

std::optional<double> Options::f64(std::string_view key) const {
  if (const double* value = find<double>(key)) return *value;
  const OptionRow& option = row_of_type(key, OptionType::f64);
  std::string name;
  const auto text = from_environment(option, name);
  if (!text) return std::nullopt;
  const auto value = parse_number<double>(option, *text, name);
  checked_from(name, [&] { check_bounds(option, value); });
  return value;
}

std::optional<std::string> Options::str(std::string_view key) const {
  if (const std::string* value = find<std::string>(key)) return *value;
  const OptionRow& option = row_of_type(key, OptionType::str);
  std::string name;
  const auto text = from_environment(option, name);
  if (text) checked_from(name, [&] { check_choice(option, *text); });
  return text;
}

std::vector<int32_t> Options::i32_array(std::string_view key) const {
  const auto* value = find<std::vector<int32_t>>(key);
  return value ? *value : std::vector<int32_t>();
}

std::vector<std::string> Options::str_array(std::string_view key) const {
  const auto* value = find<std::vector<std::string>>(key);
  return value ? *value : std::vector<std::string>();
}

TokenBias Options::bias(std::string_view key) const {
  const auto* value = find<TokenBias>(key);
  return value ? *value : TokenBias();
}

HostCallback Options::callback(std::string_view key) const {
  const auto* value = find<HostCallback>(key);
  return value ? *value : HostCallback();
}

void Options::check_scope(OptionScope scope) const {
  for (const auto& [key, value] : values_) {
    if (row(key).scope == scope) continue;
    fail(Status::invalid_argument, "option '", key, "' belongs to ",
         scope == OptionScope::engine ? "a request; give it to qwen_generate or qwen_submit"
                                      : "the engine; give it to qwen_create or qwen_model_open");
  }
}

int64_t Options::i64_or_default(std::string_view key) const {
  if (const auto value = i64(key)) return *value;
  return parse_number<int64_t>(row(key), row(key).default_text, key);
}

double Options::f64_or_default(std::string_view key) const {
  if (const auto value = f64(key)) return *value;
  return parse_number<double>(row(key), row(key).default_text, key);
}

std::string Options::str_or_default(std::string_view key) const {
  if (auto value = str(key)) return *std::move(value);
  return row(key).default_text;
}

}  // namespace qwen
