// The tensors of a GGUF file under the names that Qwen publishes them under.
#pragma once

#include <memory>

#include "checkpoint/gguf.h"
#include "checkpoint/model_config.h"

namespace qwen {

// "blk.7.attn_q.weight" becomes "model.layers.7.self_attn.q_proj.weight", and so on. A stack of experts [experts, out, in]
// becomes one matrix for each expert: a slice of it, as contiguous as the stack. Throws Error(unsupported) naming a
// tensor that is none of a Qwen decoder's: a model computed without it would be another one.
// config: of the same file. What lies behind a hybrid's last layer is its multi-token-prediction head: "mtp.…".
std::shared_ptr<const TensorSource> make_gguf_tensor_source(std::shared_ptr<const GgufFile> file,
                                                            const ModelConfig& config);

}  // namespace qwen
