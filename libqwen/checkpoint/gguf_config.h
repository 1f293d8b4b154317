// What the metadata of a GGUF file says about the model (the keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
#pragma once

#include "checkpoint/gguf.h"
#include "checkpoint/model_config.h"

namespace qwen {

// Architectures qwen2, qwen3, qwen2moe, qwen3moe, qwen3next, qwen35 and qwen35moe. The values pass the checks of config.json; errors name the keys of the
// file. Throws Error: invalid_file, unsupported (an architecture, by name).
ModelConfig gguf_model_config(const GgufFile& file);

// Stop tokens: eos, eot and eom of the metadata and, as the format's own tools do, <|im_end|> and <|endoftext|> wherever
// they are control tokens. Sampling parameters: general.sampling.*, which newer files have.
GenerationConfig gguf_generation_config(const GgufFile& file);

}  // namespace qwen
