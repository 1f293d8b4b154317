// Passes over one row of logits, [vocab_size]. A vocabulary has 150,000 tokens and every generated token pays for these,
// so none of them sorts it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace qwen {

bool all_finite(std::span<const float> logits);

float largest(std::span<const float> logits);
int32_t argmax(std::span<const float> logits);  // the lowest id of equals

double log_sum_exp(std::span<const float> logits);

// The k-th largest logit, equals counted singly; -infinity when fewer than k are above that. k > 0.
float kth_largest(std::span<const float> logits, size_t k, std::vector<float>& scratch);

}  // namespace qwen
