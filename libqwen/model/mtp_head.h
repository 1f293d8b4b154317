// The multi-token-prediction head of the hybrids: one more decoder layer that, from the final hidden state at a position and
// the token behind it, guesses the token after that. Its keys and values are a cache group of their own.
#pragma once

#include <span>

#include "model/attention.h"
#include "model/mlp.h"
#include "model/model.h"

namespace qwen {

class WeightLoader;

//   x = [rms_norm(embed_tokens[next]), rms_norm(hidden)] Wfc'
//   x = x + attention(rms_norm(x));  x = x + mlp(rms_norm(x))
//   logits = rms_norm(x) Whead'                                    the decoder's own head
struct MtpHead {
  WeightPtr embedding_norm, hidden_norm;  // [hidden]
  WeightPtr fc;                           // [hidden, 2 * hidden]
  WeightPtr layer_norm, norm;             // [hidden]
  Attention attention;
  MlpBlock mlp;

  void declare(WeightLoader& loader, const ModelConfig& config);
  // next and hidden: [rows, hidden]; angles: [rows, rotary_dim]. Returns the output of the last norm.
  Rows forward(const Step& step, const ModelConfig& config, const CacheGroupSpec& spec, Rows next,
               Rows hidden, Rows angles) const;
};

}  // namespace qwen
