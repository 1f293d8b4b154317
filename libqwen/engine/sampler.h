// From a row of logits to a token. Order: min_tokens / ignore_eos, logit bias, repetition penalty, presence and frequency
// penalties, temperature, top-k, top-p, min-p, draw.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/logits.h"
#include "engine/sampling_params.h"

namespace qwen {

// A log-probability is the log softmax of the model's own logits, before biases, penalties and temperature.
struct TokenLogprob {
  int32_t id;
  float logprob;
};

struct SampledToken {
  int32_t id;
  float logprob;  // 0 unless asked for
  std::span<const TokenLogprob>
      top;  // top_logprobs of them, the likeliest first, the lower id of equals first;
            // valid until the sampler's next call
};

// A token that may be drawn. weight / Distribution::total is its probability.
struct Candidate {
  double weight;
  float logit;  // after biases and penalties
  int32_t id;
};

struct Distribution {
  std::span<const Candidate> kept;  // one at least
  double total;                     // of the weights, summed in their order
};

// The token at u in [0, 1).
int32_t draw(const Distribution& distribution, double u);

// What the text so far demands of the next token, whatever the logits say.
struct TokenRule {
  std::optional<int32_t> forced, forbidden;
};

class Sampler {
 public:
  // logits [vocab_size], overwritten. prompt and generated: the request's tokens so far. choice: 0 … n-1.
  // A pure function of its arguments; the members are scratch memory.
  SampledToken sample(std::span<float> logits, const SamplingParams& params, std::span<const int32_t> prompt,
                      std::span<const int32_t> generated, uint32_t choice, const TokenRule& rule = {});

  // What sample() draws from: everything but the draw, on finite logits. temperature 0: the likeliest token alone.
  // Valid until the sampler's next call.
  Distribution distribution(std::span<float> logits, const SamplingParams& params,
                            std::span<const int32_t> prompt, std::span<const int32_t> generated);

 private:
  void apply_penalties(std::span<float> logits, const SamplingParams& params, std::span<const int32_t> prompt,
                       std::span<const int32_t> generated);
  void keep_top_p(double top_p);
  void find_top_logprobs(std::span<const float> logits, double normaliser, size_t count);

  std::vector<Candidate> candidates_;
  std::vector<int32_t> counts_;  // [vocab_size], how often a token occurred; all 0 between uses
  std::vector<float> own_logits_;
  TopIds top_ids_;
  std::vector<int32_t> likeliest_;
  std::vector<TokenLogprob> top_logprobs_;
};

}  // namespace qwen
