// What Backend::sample() is told about a row of logits, and what it answers.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace qwen {

// What a request does to one token's logit before the draw, in this order.
struct LogitEdit {
  int32_t id = 0;
  float bias = 0;        // is added; -infinity: the token cannot come
  float repetition = 1;  // multiplies a logit below 0, divides any other
  float subtract = 0;    // is subtracted
};

// Order: edits, temperature, top-k, top-p, min-p, draw.
struct SampleArgs {
  int64_t row = 0;                   // of the logits
  std::span<const LogitEdit> edits;  // ids ascending; several of one token in the order in which they apply
  double temperature = 1;            // 0: the likeliest token, the lowest id of equals
  int64_t top_k = 0;                 // with all that are as likely as the k-th; 0: all
  double top_p = 1;
  double min_p = 0;
  double u = 0;                   // in [0, 1): what is drawn
  std::optional<int32_t> forced;  // this token, whatever the logits say
  bool logprobs = false;
  int64_t top_logprobs = 0;  // at most kMostTopLogprobs, more than 0 only with logprobs
};
inline constexpr int64_t kMostTopLogprobs = 20;

// A log-probability is the log softmax of the model's own logits, before all edits and the temperature.
struct TokenLogprob {
  int32_t id;
  float logprob;
};

enum class SampleOutcome : int32_t {
  token,
  not_finite,     // the model's own logits are NaN or infinite somewhere
  all_forbidden,  // the edits have left no token
};

struct SampledRow {
  SampleOutcome outcome = SampleOutcome::token;
  int32_t id = -1;
  float logprob = 0;              // 0 unless asked for
  std::vector<TokenLogprob> top;  // top_logprobs of them, the likeliest first, the lower id of equals first
};

}  // namespace qwen
