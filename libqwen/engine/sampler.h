// From a row of logits to a token. Order: min_tokens / ignore_eos, logit bias, repetition penalty, presence and frequency
// penalties, temperature, top-k, top-p, min-p, draw.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sampling_params.h"

namespace qwen {

struct SampledToken {
  int32_t id;
  float logprob;  // log softmax of the model's own logits at id; 0 unless asked for
};

class Sampler {
 public:
  // logits [vocab_size], overwritten. prompt and generated: the request's tokens so far. choice: 0 … n-1.
  // A pure function of its arguments; the members are scratch memory.
  SampledToken sample(std::span<float> logits, const SamplingParams& params, std::span<const int32_t> prompt,
                      std::span<const int32_t> generated, uint32_t choice);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  void apply_penalties(std::span<float> logits, const SamplingParams& params, std::span<const int32_t> prompt,
                       std::span<const int32_t> generated);
  int32_t draw(std::span<const float> logits, const SamplingParams& params, uint64_t index, uint32_t choice);

  std::vector<Candidate> candidates_;
  std::vector<double> weights_;
  std::vector<int32_t> sorted_;
  std::vector<float> own_logits_;
};

}  // namespace qwen
