#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "engine/random.h"

namespace qwen {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

int32_t argmax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) -
                              logits.begin());  // the lowest id of equals
}

double log_sum_exp(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum);
}

// A sum of x - x is 0, or NaN as soon as one of them is infinite or NaN: no branch per element.
bool all_finite(std::span<const float> logits) {
  float sum = 0;
  for (const float logit : logits) sum += logit - logit;
  return sum == 0;
}

// The last `window` tokens, all of them for 0.
std::span<const int32_t> last(std::span<const int32_t> tokens, int64_t window) {
  const auto size = static_cast<int64_t>(tokens.size());
  return window > 0 && window < size ? tokens.last(static_cast<size_t>(window)) : tokens;
}

}  // namespace

SampledToken Sampler::sample(std::span<float> logits, const SamplingParams& params,
                             std::span<const int32_t> prompt, std::span<const int32_t> generated,
                             uint32_t choice) {
  if (!all_finite(logits))
    fail(Status::invalid_file, "the model's logits are not finite: its weights hold NaN or infinite values");
  double normaliser = 0;
  if (params.logprobs) {
    normaliser = log_sum_exp(logits);
    own_logits_.assign(logits.begin(), logits.end());
  }

  if (static_cast<int64_t>(generated.size()) < params.min_tokens) {
    for (const int32_t id : params.eos_token_ids)
      if (id >= 0 && id < static_cast<int64_t>(logits.size())) logits[id] = kNever;
    for (const int32_t id : params.stop_token_ids) logits[id] = kNever;
  }
  for (const auto& [id, bias] : params.logit_bias) logits[id] += bias;
  apply_penalties(logits, params, prompt, generated);

  const int32_t id =
      params.temperature == 0 ? argmax(logits) : draw(logits, params, generated.size(), choice);
  return {id, params.logprobs ? static_cast<float>(own_logits_[id] - normaliser) : 0.0f};
}

void Sampler::apply_penalties(std::span<float> logits, const SamplingParams& params,
                              std::span<const int32_t> prompt, std::span<const int32_t> generated) {
  const auto recent = last(generated, params.penalty_window);
  if (params.repetition_penalty != 1) {
    // transformers' RepetitionPenaltyLogitsProcessor: every token that occurred, once.
    sorted_.assign(recent.begin(), recent.end());
    const int64_t room = params.penalty_window - static_cast<int64_t>(recent.size());
    if (params.penalty_window == 0 || room > 0) {
      const auto early = last(prompt, params.penalty_window == 0 ? 0 : room);
      sorted_.insert(sorted_.end(), early.begin(), early.end());
    }
    std::sort(sorted_.begin(), sorted_.end());
    sorted_.erase(std::unique(sorted_.begin(), sorted_.end()), sorted_.end());
    const auto penalty = static_cast<float>(params.repetition_penalty);
    for (const int32_t id : sorted_)
      logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
  }
  if (params.presence_penalty != 0 || params.frequency_penalty != 0) {
    sorted_.assign(recent.begin(), recent.end());
    std::sort(sorted_.begin(), sorted_.end());
    for (size_t i = 0; i < sorted_.size();) {
      size_t end = i;
      while (end < sorted_.size() && sorted_[end] == sorted_[i]) ++end;
      logits[sorted_[i]] -= static_cast<float>(params.presence_penalty +
                                               params.frequency_penalty * static_cast<double>(end - i));
      i = end;
    }
  }
}

int32_t Sampler::draw(std::span<const float> logits, const SamplingParams& params, uint64_t index,
                      uint32_t choice) {
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;  // a total order: the result is unique
  };
  candidates_.clear();
  for (size_t id = 0; id < logits.size(); ++id)
    if (logits[id] > kNever) candidates_.push_back({logits[id], static_cast<int32_t>(id)});
  if (candidates_.empty())
    fail(Status::invalid_argument, "every token is forbidden by logit_bias and min_tokens");

  const bool truncates = params.top_p < 1 || params.min_p > 0;
  size_t kept = candidates_.size();
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < kept) {
    kept = static_cast<size_t>(params.top_k);
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<int64_t>(kept) - 1,
                     candidates_.end(), likelier);
    candidates_.resize(kept);
  }
  if (truncates || kept < logits.size()) std::sort(candidates_.begin(), candidates_.end(), likelier);

  // Probabilities at the given temperature, up to their common factor.
  double top = candidates_[0].logit;
  if (!truncates)
    for (const Candidate& candidate : candidates_) top = std::max<double>(top, candidate.logit);
  weights_.resize(kept);
  double total = 0;
  for (size_t i = 0; i < kept; ++i)
    total += weights_[i] = std::exp((candidates_[i].logit - top) / params.temperature);

  if (params.top_p < 1) {
    // The shortest head of the sorted list that reaches top_p, one token at least.
    double head = 0;
    size_t n = 0;
    while (n < kept && (n == 0 || head < params.top_p * total)) head += weights_[n++];
    kept = n;
    total = head;
  }
  if (params.min_p > 0) {
    while (kept > 1 && weights_[kept - 1] < params.min_p * weights_[0]) total -= weights_[--kept];
  }

  const double target = uniform({params.seed, choice}, index) * total;
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) {
    sum += weights_[i];
    if (target < sum) return candidates_[i].id;
  }
  return candidates_[kept - 1].id;  // rounding left the target at the very end
}

}  // namespace qwen
