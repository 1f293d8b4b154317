#include "engine/sampler.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "engine/random.h"

namespace qwen {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

}  // namespace

SampleArgs sample_args(const SamplingParams& params, const SamplePlace& place, const TokenRule& rule,
                       TokenHistory& history, std::vector<LogitEdit>& edits) {
  const size_t generated = place.tokens.size() - place.prompt_size;
  history.follow(params, place.tokens, place.prompt_size);
  if (!rule.forced) {
    const auto first = static_cast<std::ptrdiff_t>(edits.size());
    if (rule.forbidden) edits.push_back({.id = *rule.forbidden, .bias = kNever});
    if (static_cast<int64_t>(generated) < params.min_tokens) {
      for (const int32_t id : params.eos_token_ids)
        if (id >= 0 && id < place.vocab_size) edits.push_back({.id = id, .bias = kNever});
      for (const int32_t id : params.stop_token_ids) edits.push_back({.id = id, .bias = kNever});
    }
    for (const auto& [id, bias] : params.logit_bias) edits.push_back({.id = id, .bias = bias});
    std::stable_sort(edits.begin() + first, edits.end(),
                     [](const LogitEdit& a, const LogitEdit& b) { return a.id < b.id; });
    const auto penalties = static_cast<std::ptrdiff_t>(edits.size());
    for (const TokenHistory::Count& count : history.counts()) {
      LogitEdit edit{.id = count.id};
      if (count.all > 0) edit.repetition = static_cast<float>(params.repetition_penalty);
      if (count.generated > 0)
        edit.subtract =
            static_cast<float>(params.presence_penalty + params.frequency_penalty * count.generated);
      edits.push_back(edit);
    }
    // Of one token the biases stay before the penalties.
    if (first < penalties)
      std::inplace_merge(edits.begin() + first, edits.begin() + penalties, edits.end(),
                         [](const LogitEdit& a, const LogitEdit& b) { return a.id < b.id; });
  }
  return {.row = 0,
          .edits = {},
          .temperature = params.temperature,
          .top_k = params.top_k,
          .top_p = params.top_p,
          .min_p = params.min_p,
          .u = uniform({params.seed, place.choice}, generated),
          .forced = rule.forced,
          .logprobs = params.logprobs,
          .top_logprobs = params.logprobs ? params.top_logprobs : 0};
}

SampledToken sampled_token(const SampledRow& row) {
  if (row.outcome == SampleOutcome::not_finite)
    fail(Status::invalid_file, "the model's logits are not finite: its weights hold NaN or infinite values");
  if (row.outcome == SampleOutcome::all_forbidden)
    fail(Status::invalid_argument, "every token is forbidden by logit_bias and min_tokens");
  return {row.id, row.logprob, row.top};
}

}  // namespace qwen
