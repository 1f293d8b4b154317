// From a row of logits in the host's memory to a token: Backend::sample() of the CPU, and what a GPU's is held against.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/logits.h"
#include "backend/sampling.h"

namespace qwen {

// A token that may be drawn. weight / Distribution::total is its probability.
struct Candidate {
  double weight;
  float logit;  // after the edits
  int32_t id;
};

struct Distribution {
  std::span<const Candidate> kept;  // none: every token is forbidden
  double total;                     // of the weights, summed in their order
};

// The token at u in [0, 1).
int32_t draw(const Distribution& distribution, double u);

// A pure function of its arguments; the members are scratch memory.
class RowSampler {
 public:
  // logits [vocab_size] are edited; args.row is not looked at.
  void sample(std::span<float> logits, const SampleArgs& args, SampledRow& out);

  // What sample() draws from: everything but the draw, on finite logits. temperature 0: the likeliest token alone.
  // Valid until the next call.
  Distribution distribution(std::span<float> logits, const SampleArgs& args);

 private:
  void keep_top_p(double top_p);
  void find_top_logprobs(std::span<const float> logits, double normaliser, size_t count,
                         std::vector<TokenLogprob>& out);

  std::vector<Candidate> candidates_;
  std::vector<float> own_logits_;
  TopIds top_ids_;
  std::vector<int32_t> likeliest_;
};

}  // namespace qwen
