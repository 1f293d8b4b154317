// From a request's parameters and its tokens so far to its next token. What depends on them becomes a few edits of the logits:
// min_tokens / ignore_eos, logit bias, repetition penalty, presence and frequency penalties; the rest is Backend::sample().
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/sampling.h"
#include "engine/sampling_params.h"
#include "engine/token_history.h"

namespace qwen {

struct SampledToken {
  int32_t id;
  float logprob;                      // 0 unless asked for
  std::span<const TokenLogprob> top;  // valid as long as what it was sampled into
};

// What the text so far demands of the next token, whatever the logits say.
struct TokenRule {
  std::optional<int32_t> forced, forbidden;
};

// Where the next token of a request stands.
struct SamplePlace {
  std::span<const int32_t> tokens;  // the request's so far: prompt, then what was generated
  size_t prompt_size = 0;
  uint32_t choice = 0;  // 0 … n-1
  int64_t vocab_size = 0;
};

// The arguments of Backend::sample(), but for the row. history: the request's own. The edits are appended to `edits`; who has all
// of them gives the arguments their span.
SampleArgs sample_args(const SamplingParams& params, const SamplePlace& place, const TokenRule& rule,
                       TokenHistory& history, std::vector<LogitEdit>& edits);

// The token, or Error: invalid_file (logits that are not finite), invalid_argument (every token is forbidden).
SampledToken sampled_token(const SampledRow& row);

}  // namespace qwen
