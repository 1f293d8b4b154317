// One row of logits and a request's tokens so far to its next token, as the engine does it on the CPU, for tests.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/row_sampler.h"
#include "engine/sampler.h"

namespace qwen::test {

// A pure function of its arguments; the members are scratch memory.
class Sampler {
 public:
  // logits [vocab_size], overwritten. prompt and generated: the request's tokens so far. top: valid until the next call.
  SampledToken sample(std::span<float> logits, const SamplingParams& params, std::span<const int32_t> prompt,
                      std::span<const int32_t> generated, uint32_t choice, const TokenRule& rule = {}) {
    rows_.sample(logits, arguments(logits, params, prompt, generated, choice, rule), row_);
    return sampled_token(row_);
  }

  // What sample() draws from: see RowSampler.
  Distribution distribution(std::span<float> logits, const SamplingParams& params,
                            std::span<const int32_t> prompt, std::span<const int32_t> generated) {
    const Distribution kept = rows_.distribution(logits, arguments(logits, params, prompt, generated, 0, {}));
    if (kept.kept.empty()) sampled_token({.outcome = SampleOutcome::all_forbidden, .top = {}});
    return kept;
  }

 private:
  SampleArgs arguments(std::span<float> logits, const SamplingParams& params, std::span<const int32_t> prompt,
                       std::span<const int32_t> generated, uint32_t choice, const TokenRule& rule) {
    tokens_.assign(prompt.begin(), prompt.end());
    tokens_.insert(tokens_.end(), generated.begin(), generated.end());
    edits_.clear();
    TokenHistory history;
    SampleArgs args = sample_args(params,
                                  {.tokens = tokens_,
                                   .prompt_size = prompt.size(),
                                   .choice = choice,
                                   .vocab_size = static_cast<int64_t>(logits.size())},
                                  rule, history, edits_);
    args.edits = edits_;
    return args;
  }

  RowSampler rows_;
  std::vector<int32_t> tokens_;
  std::vector<LogitEdit> edits_;
  SampledRow row_;
};

}  // namespace qwen::test
