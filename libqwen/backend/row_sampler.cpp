#include "backend/row_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace qwen {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

double total_weight(std::span<const Candidate> candidates) {
  double total = 0;
  for (const Candidate& candidate : candidates) total += candidate.weight;
  return total;
}

void apply(const LogitEdit& edit, float& logit) {
  if (edit.bias != 0) logit += edit.bias;
  if (edit.repetition != 1) logit = logit < 0 ? logit * edit.repetition : logit / edit.repetition;
  logit -= edit.subtract;
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

void RowSampler::sample(std::span<float> logits, const SampleArgs& args, SampledRow& out) {
  out.outcome = SampleOutcome::token;
  out.logprob = 0;
  out.top.clear();
  if (!all_finite(logits)) {
    out.outcome = SampleOutcome::not_finite;
    return;
  }
  double normaliser = 0;
  if (args.logprobs) {
    normaliser = log_sum_exp(logits);
    own_logits_.assign(logits.begin(), logits.end());
    find_top_logprobs(logits, normaliser, static_cast<size_t>(args.top_logprobs), out.top);
  }
  if (args.forced) {
    out.id = *args.forced;
  } else {
    const Distribution candidates = distribution(logits, args);
    if (candidates.kept.empty()) {
      out.outcome = SampleOutcome::all_forbidden;
      return;
    }
    out.id = draw(candidates, args.u);
  }
  if (args.logprobs) out.logprob = static_cast<float>(own_logits_[static_cast<size_t>(out.id)] - normaliser);
}

Distribution RowSampler::distribution(std::span<float> logits, const SampleArgs& args) {
  for (const LogitEdit& edit : args.edits) apply(edit, logits[static_cast<size_t>(edit.id)]);

  candidates_.clear();
  if (args.temperature == 0) {
    const int32_t id = argmax(logits);
    candidates_.push_back({1, logits[id], id});
  } else {
    const double top = largest(logits);
    const auto add = [&](int32_t id) {
      const double weight = std::exp((logits[id] - top) / args.temperature);  // of the likeliest: 1
      candidates_.push_back({weight, logits[id], id});
    };
    if (args.top_k > 0 && args.top_k < static_cast<int64_t>(logits.size())) {
      // With every token that is as likely as the k-th, as transformers has it.
      for (const int32_t id : top_ids_.find(logits, static_cast<size_t>(args.top_k))) add(id);
    } else {
      for (size_t id = 0; id < logits.size(); ++id)
        if (logits[id] != kNever) add(static_cast<int32_t>(id));
    }
    if (args.top_p < 1) keep_top_p(args.top_p);
    if (args.min_p > 0) std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < args.min_p; });
  }
  if (!candidates_.empty() && candidates_[0].logit == kNever) candidates_.clear();
  return {candidates_, total_weight(candidates_)};
}

// The shortest head of the candidates, the likeliest first, that reaches top_p; one at least.
void RowSampler::keep_top_p(double top_p) {
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

void RowSampler::find_top_logprobs(std::span<const float> logits, double normaliser, size_t count,
                                   std::vector<TokenLogprob>& out) {
  count = std::min(count, logits.size());
  if (count == 0) return;
  const auto ids = top_ids_.find(logits, count);
  likeliest_.assign(ids.begin(), ids.end());
  // Stable: equals stay in the order of their ids.
  std::stable_sort(likeliest_.begin(), likeliest_.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  for (size_t i = 0; i < count; ++i)
    out.push_back({likeliest_[i], static_cast<float>(logits[likeliest_[i]] - normaliser)});
}

}  // namespace qwen
