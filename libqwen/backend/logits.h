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

// The ids of the k largest logits and of all that equal the k-th, ascending; none at -infinity. k > 0.
class TopIds {
 public:
  std::span<const int32_t> find(std::span<const float> logits, size_t k);  // valid until the next call

 private:
  std::vector<float> columns_, sorted_columns_;
  std::vector<int32_t> ids_;
};

}  // namespace qwen
