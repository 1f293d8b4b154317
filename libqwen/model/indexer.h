// The indexer of Qwen4-Exp's attention layers (QSA): small queries and keys that choose, row by row, which groups of
// neighbouring positions the attention itself reads.
#pragma once

#include <string_view>

#include "model/attention.h"
#include "model/model.h"

namespace qwen {

class WeightLoader;

//   q, k = h Wqk';  q = rope(rms_norm(q)) per head
//   c[b] = rope(rms_norm(mean of k over the ratio positions of group b)), rotated as its first position
//   score[b] = sum over heads of relu(q . c[b])          the budget / ratio best groups are read, and the tail behind them
struct Indexer {
  WeightPtr qk_proj;         // [(heads + 1) * head_dim, hidden]
  WeightPtr q_norm, k_norm;  // [head_dim]

  // prefix: "layers.7."
  void declare(WeightLoader& loader, const ModelConfig& config, std::string_view prefix);
  // Keeps the keys beside those of the attention, whose args these are, and returns the queries. h: [rows, hidden]
  IndexQueries forward(const Step& step, const ModelConfig& config, const AttentionArgs& attention, Rows h,
                       Rows angles) const;
};

}  // namespace qwen
