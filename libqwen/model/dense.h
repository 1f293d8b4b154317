#pragma once

#include <memory>

#include "model/model.h"

namespace qwen {

class WeightLoader;

// Qwen2ForCausalLM (Qwen1.5, Qwen2, Qwen2.5) and Qwen3ForCausalLM.
std::shared_ptr<const Model> make_dense_model(const ModelConfig& config, WeightLoader& loader);

}  // namespace qwen
