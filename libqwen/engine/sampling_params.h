// The sampling parameters of one request, resolved: the host's options over the checkpoint's generation_config.json over
// the table's defaults.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/options.h"
#include "checkpoint/model_config.h"
#include "text/tokenizer.h"

namespace qwen {

struct SamplingParams {
  std::optional<int64_t> max_tokens;  // absent: default_max_tokens, as far as the context goes
  std::optional<int64_t>
      default_max_tokens;  // the checkpoint's max_new_tokens; absent: what is left of the context
  int64_t min_tokens = 0;
  double temperature = 1;
  int64_t top_k = 0;
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;
  double frequency_penalty = 0;
  double presence_penalty = 0;
  int64_t penalty_window = 0;
  TokenBias logit_bias;
  std::vector<int32_t> eos_token_ids;   // the model's own; not in effect with ignore_eos
  std::vector<int32_t> stop_token_ids;  // the host's
  std::vector<std::string> stop;        // texts that end the answer
  bool ignore_eos = false;
  bool logprobs = false;
  int64_t top_logprobs = 0;  // of so many likeliest tokens too; more than 0 only with logprobs
  bool prompt_logprobs = false;
  uint64_t seed = 0;
  int64_t n = 1;                            // choices
  std::optional<int64_t> reasoning_budget;  // tokens of thought, then reasoning_end_ids are forced
  std::vector<int32_t> reasoning_end_ids;   // </think> among them

  bool ends(int32_t token) const;
};

// Draws a seed when none is given. tokenizer: nullptr for none. Throws Error: invalid_argument (a token id that is outside
// the vocabulary, an empty stop text, a budget for a model that does not think), unsupported (stop texts without a tokenizer).
SamplingParams resolve_sampling(const Options& options, const GenerationConfig& generation,
                                int64_t vocab_size, const Tokenizer* tokenizer = nullptr);

}  // namespace qwen
