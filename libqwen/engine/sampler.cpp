#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "engine/random.h"

namespace qwen {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// The last `window` tokens, all of them for 0.
std::span<const int32_t> last(std::span<const int32_t> tokens, int64_t window) {
  const auto size = static_cast<int64_t>(tokens.size());
  return window > 0 && window < size ? tokens.last(static_cast<size_t>(window)) : tokens;
}

double total_weight(std::span<const Candidate> candidates) {
  double total = 0;
  for (const Candidate& candidate : candidates) total += candidate.weight;
  return total;
}

}  // namespace

int32_t draw(const Distribution& distribution, double u) {
  const double target = u * distribution.total;
  double sum = 0;
  for (const Candidate& candidate : distribution.kept) {
    sum += candidate.weight;
    if (target < sum) return candidate.id;
  }
  return distribution.kept.back().id;  // not reached: u < 1, and total is this very sum
}

SampledToken Sampler::sample(std::span<float> logits, const SamplingParams& params,
                             std::span<const int32_t> prompt, std::span<const int32_t> generated,
                             uint32_t choice, const TokenRule& rule) {
  if (!all_finite(logits))
    fail(Status::invalid_file, "the model's logits are not finite: its weights hold NaN or infinite values");
  double normaliser = 0;
  top_logprobs_.clear();
  if (params.logprobs) {
    normaliser = log_sum_exp(logits);
    own_logits_.assign(logits.begin(), logits.end());
    find_top_logprobs(logits, normaliser, static_cast<size_t>(params.top_logprobs));
  }
  if (rule.forbidden) logits[static_cast<size_t>(*rule.forbidden)] = kNever;
  const int32_t id = rule.forced ? *rule.forced
                                 : draw(distribution(logits, params, prompt, generated),
                                        uniform({params.seed, choice}, generated.size()));
  return {id, params.logprobs ? static_cast<float>(own_logits_[id] - normaliser) : 0.0f, top_logprobs_};
}

Distribution Sampler::distribution(std::span<float> logits, const SamplingParams& params,
                                   std::span<const int32_t> prompt, std::span<const int32_t> generated) {
  if (static_cast<int64_t>(generated.size()) < params.min_tokens) {
    for (const int32_t id : params.eos_token_ids)
      if (id >= 0 && id < static_cast<int64_t>(logits.size())) logits[id] = kNever;
    for (const int32_t id : params.stop_token_ids) logits[id] = kNever;
  }
  for (const auto& [id, bias] : params.logit_bias) logits[id] += bias;
  apply_penalties(logits, params, prompt, generated);

  candidates_.clear();
  if (params.temperature == 0) {
    const int32_t id = argmax(logits);
    candidates_.push_back({1, logits[id], id});
  } else {
    const double top = largest(logits);
    const auto add = [&](int32_t id) {
      const double weight = std::exp((logits[id] - top) / params.temperature);  // of the likeliest: 1
      candidates_.push_back({weight, logits[id], id});
    };
    if (params.top_k > 0 && params.top_k < static_cast<int64_t>(logits.size())) {
      // With every token that is as likely as the k-th, as transformers has it.
      for (const int32_t id : top_ids_.find(logits, static_cast<size_t>(params.top_k))) add(id);
    } else {
      for (size_t id = 0; id < logits.size(); ++id)
        if (logits[id] != kNever) add(static_cast<int32_t>(id));
    }
    if (params.top_p < 1) keep_top_p(params.top_p);
    if (params.min_p > 0)
      std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < params.min_p; });
  }
  if (candidates_.empty() || candidates_[0].logit == kNever)
    fail(Status::invalid_argument, "every token is forbidden by logit_bias and min_tokens");
  return {candidates_, total_weight(candidates_)};
}

// The shortest head of the candidates, the likeliest first, that reaches top_p; one at least.
void Sampler::keep_top_p(double top_p) {
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;  // a total order: the result is unique
  };
  const double total = total_weight(candidates_), wanted = top_p * total;
  // Even together, tokens less likely than this are less than what may be cut off: most of a vocabulary is. Halved, so that
  // rounding cannot matter.
  const double negligible = 0.5 * (1 - top_p) * total / static_cast<double>(candidates_.size());
  std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < negligible; });
  std::sort(candidates_.begin(), candidates_.end(), likelier);
  double head = 0;
  size_t kept = 0;
  while (kept < candidates_.size() && (kept == 0 || head < wanted)) head += candidates_[kept++].weight;
  candidates_.resize(kept);
}

void Sampler::apply_penalties(std::span<float> logits, const SamplingParams& params,
                              std::span<const int32_t> prompt, std::span<const int32_t> generated) {
  const auto recent = last(generated, params.penalty_window);
  counts_.resize(logits.size());  // zeros, as every use leaves it
  if (params.repetition_penalty != 1) {
    // transformers' RepetitionPenaltyLogitsProcessor: every token that occurred, once.
    const int64_t room = params.penalty_window - static_cast<int64_t>(recent.size());
    const auto early =
        params.penalty_window == 0 ? prompt : prompt.last(std::min(static_cast<size_t>(room), prompt.size()));
    const auto penalty = static_cast<float>(params.repetition_penalty);
    for (const auto tokens : {early, recent})
      for (const int32_t id : tokens)
        if (counts_[id]++ == 0) logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
    for (const auto tokens : {early, recent})
      for (const int32_t id : tokens) counts_[id] = 0;
  }
  if (params.presence_penalty != 0 || params.frequency_penalty != 0) {
    for (const int32_t id : recent) ++counts_[id];
    for (const int32_t id : recent) {
      if (counts_[id] == 0) continue;
      logits[id] -= static_cast<float>(params.presence_penalty + params.frequency_penalty * counts_[id]);
      counts_[id] = 0;
    }
  }
}

void Sampler::find_top_logprobs(std::span<const float> logits, double normaliser, size_t count) {
  count = std::min(count, logits.size());
  if (count == 0) return;
  const auto ids = top_ids_.find(logits, count);
  likeliest_.assign(ids.begin(), ids.end());
  // Stable: equals stay in the order of their ids.
  std::stable_sort(likeliest_.begin(), likeliest_.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  for (size_t i = 0; i < count; ++i)
    top_logprobs_.push_back({likeliest_[i], static_cast<float>(logits[likeliest_[i]] - normaliser)});
}

}  // namespace qwen
