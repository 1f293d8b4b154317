#pragma once

#include <memory>

#include "model/model.h"

namespace qwen {

class WeightLoader;

// Every text model that checkpoint/model_config.cpp knows, and the text side of every multimodal one.
std::shared_ptr<const Model> make_decoder(const ModelConfig& config, const ModelParts& parts,
                                          WeightLoader& loader);

}  // namespace qwen
