#include "model/model.h"

namespace qwen {

CacheReads cache_reads(const Model& model, Precision precision) {
  const int64_t element = precision == Precision::f32 ? 4 : 2;
  CacheReads reads;
  // The group of a multi-token-prediction head stands last, and a step without it does not look there.
  for (const CacheGroupSpec& group :
       model.cache_groups().first(model.cache_groups().size() - (model.has_mtp_head() ? 1 : 0))) {
    const int64_t keys_and_values = group.layers * 2 * group.kv_heads * group.head_dim * element;
    if (const auto& shape = group.gated_delta) {
      const int64_t state = shape->value_heads * shape->key_dim * shape->value_dim;
      const int64_t inputs = (shape->conv_kernel - 1) * shape->channels();
      reads.state_bytes += group.layers * (state + inputs) * static_cast<int64_t>(sizeof(float));
    } else if (const auto& convolution = group.convolution) {
      reads.state_bytes +=
          group.layers * convolution->window() * convolution->channels * static_cast<int64_t>(sizeof(float));
    } else if (const auto& indexer = group.indexer) {  // every key of its own, and what they pick
      reads.token_bytes +=
          group.layers * indexer->head_dim * static_cast<int64_t>(sizeof(float)) / indexer->ratio;
      reads.window_token_bytes += keys_and_values;
      reads.window_tokens = indexer->budget;
    } else if (group.window > 0) {
      reads.window_token_bytes += keys_and_values;
      reads.window_tokens = group.window;
    } else {
      reads.token_bytes += keys_and_values;
    }
  }
  return reads;
}

}  // namespace qwen
