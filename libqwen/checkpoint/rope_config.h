// Rotary position settings of a config.json. Inside checkpoint/ only.
#pragma once

#include "checkpoint/json_fields.h"
#include "checkpoint/model_config.h"

namespace qwen {

// Sets rope_theta and rope_scaling; max_position_embeddings must be set already.
void read_rope(const JsonFields& root, ModelConfig& config);

}  // namespace qwen
