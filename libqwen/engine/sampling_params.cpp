#include "engine/sampling_params.h"

#include <algorithm>

#include "base/entropy.h"
#include "base/error.h"

namespace qwen {
namespace {

uint64_t draw_seed() {
  return entropy() & ((uint64_t{1} << 53) - 1);
}  // what the option `seed` can hold

void check_token(const char* key, int32_t id, int64_t vocab_size) {
  if (id >= vocab_size)
    fail(Status::invalid_argument, "option '", key, "' holds token ", id, "; the model's vocabulary ends at ",
         vocab_size - 1);
}

// What ends a thought that has used up its budget: the host's words, then </think> as the model writes it.
std::vector<int32_t> reasoning_end(std::string_view text, const Tokenizer* tokenizer) {
  if (!tokenizer || tokenizer->find("</think>") < 0)
    fail(Status::invalid_argument,
         "option 'reasoning_budget' needs a model that thinks: this one has no token </think>");
  return tokenizer->encode(cat(text, "</think>\n\n"));
}

}  // namespace

bool SamplingParams::ends(int32_t token) const {
  const auto has = [&](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  };
  return (!ignore_eos && has(eos_token_ids)) || has(stop_token_ids);
}

SamplingParams resolve_sampling(const Options& options, const GenerationConfig& generation,
                                int64_t vocab_size, const Tokenizer* tokenizer) {
  // do_sample = false in generation_config.json means greedy unless the host says otherwise.
  const bool greedy_by_default = generation.do_sample.has_value() && !*generation.do_sample;
  const auto number = [&](const char* key, const std::optional<double>& from_checkpoint) {
    if (const auto value = options.f64(key)) return *value;
    return from_checkpoint ? *from_checkpoint : options.f64_or_default(key);
  };
  SamplingParams params;
  params.max_tokens = options.i64("max_tokens");
  params.default_max_tokens = generation.max_new_tokens;
  params.min_tokens = options.i64_or_default("min_tokens");
  params.temperature = greedy_by_default ? options.f64("temperature").value_or(0.0)
                                         : number("temperature", generation.temperature);
  const auto top_k = options.i64("top_k");
  params.top_k = top_k ? *top_k : generation.top_k ? *generation.top_k : options.i64_or_default("top_k");
  params.top_p = number("top_p", generation.top_p);
  params.min_p = number("min_p", generation.min_p);
  params.repetition_penalty = number("repetition_penalty", generation.repetition_penalty);
  params.frequency_penalty = options.f64_or_default("frequency_penalty");
  params.presence_penalty = options.f64_or_default("presence_penalty");
  params.penalty_window = options.i64_or_default("penalty_window");
  params.logit_bias = options.bias("logit_bias");
  params.eos_token_ids = generation.eos_token_ids;
  params.stop_token_ids = options.i32_array("stop_token_ids");
  params.stop = options.str_array("stop");
  params.n = options.i64_or_default("n");
  params.prompt_logprobs = options.i64_or_default("prompt_logprobs") != 0;
  params.ignore_eos = options.i64_or_default("ignore_eos") != 0;
  params.top_logprobs = options.i64_or_default("top_logprobs");
  params.logprobs = params.top_logprobs > 0 || options.i64_or_default("logprobs") != 0;
  const auto seed = options.i64("seed");
  params.seed = seed ? static_cast<uint64_t>(*seed) : draw_seed();

  params.reasoning_budget = options.i64("reasoning_budget");
  if (params.reasoning_budget)
    params.reasoning_end_ids = reasoning_end(options.str_or_default("reasoning_end_text"), tokenizer);

  for (const std::string& stop : params.stop) {
    if (stop.empty())
      fail(Status::invalid_argument, "option 'stop' holds an empty text; it would end every answer");
  }
  if (!params.stop.empty() && !tokenizer)
    fail(Status::unsupported, "option 'stop' needs a tokenizer, and this model has none; use stop_token_ids");
  for (const auto& [id, bias] : params.logit_bias) check_token("logit_bias", id, vocab_size);
  for (const int32_t id : params.stop_token_ids) check_token("stop_token_ids", id, vocab_size);
  return params;
}

}  // namespace qwen
