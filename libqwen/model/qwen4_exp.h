#pragma once

#include <memory>

#include "model/model.h"

namespace qwen {

class WeightLoader;

// The text side of Qwen4ExpForConditionalGeneration (Qwen3.8-Flash-Next).
std::shared_ptr<const Model> make_qwen4_exp(const ModelConfig& config, const ModelParts& parts,
                                            WeightLoader& loader);

}  // namespace qwen
