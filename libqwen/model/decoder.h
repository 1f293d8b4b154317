#pragma once

#include <memory>

#include "model/model.h"

namespace qwen {

class WeightLoader;

// Qwen2ForCausalLM (Qwen1.5, Qwen2, Qwen2.5), Qwen3ForCausalLM, Qwen2MoeForCausalLM and Qwen3MoeForCausalLM.
std::shared_ptr<const Model> make_decoder(const ModelConfig& config, WeightLoader& loader);

}  // namespace qwen
