// The sizes of a layer of linear attention by the gated delta rule.
#pragma once

#include <cstdint>

namespace qwen {

struct GatedDeltaShape {
  int64_t key_heads = 0;
  int64_t value_heads =
      0;  // a multiple of key_heads: value head h goes with key head h * key_heads / value_heads
  int64_t key_dim = 0;  // per head
  int64_t value_dim = 0;
  int64_t conv_kernel = 0;  // positions that the convolution before the rule sees, at most 16
  // GGUF files differ from the published ones:
  bool tiled_value_heads = false;  // value head h goes with key head h % key_heads
  bool stored_rates = false;       // in the place of A_log there is -exp(A_log)

  // Value head `index` of those that go with a key head.
  int64_t value_head(int64_t key_head, int64_t index) const {
    return tiled_value_heads ? index * key_heads + key_head : key_head * (value_heads / key_heads) + index;
  }

  int64_t channels() const {
    return 2 * key_heads * key_dim + value_heads * value_dim;
  }  // of q, k and v together
};

}  // namespace qwen
