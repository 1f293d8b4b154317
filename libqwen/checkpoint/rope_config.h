// Rotary position settings of a config.json. Inside checkpoint/ only.
#pragma once

#include "checkpoint/json_fields.h"
#include "checkpoint/model_config.h"

namespace qwen {

// What the family makes of the settings.
struct RopeFamily {
  bool hybrid =
      false;  // turns a part of each head, a quarter where nothing is said; the others turn all of it
  bool multimodal = false;  // may have M-RoPE, which is ordinary for text: the same position three times
};

// Sets rope_theta, rope_scaling and rotary_dim; max_position_embeddings and head_dim must be set already.
void read_rope(const JsonFields& root, const RopeFamily& family, ModelConfig& config);

}  // namespace qwen
