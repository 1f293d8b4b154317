#include "model/indexer.h"

#include <array>

#include "base/error.h"
#include "model/weight_loader.h"

namespace qwen {

void Indexer::declare(WeightLoader& loader, const ModelConfig& config, std::string_view prefix) {
  const IndexerShape& shape = config.qwen4_exp->indexer;
  const auto name = [&](std::string_view tail) { return cat(prefix, "self_attn.indexer.", tail); };
  qk_proj =
      loader.matrix(name("index_qk_proj.weight"), (shape.heads + 1) * shape.head_dim, config.hidden_size);
  q_norm = loader.norm(name("q_layernorm.weight"), shape.head_dim, config.zero_centred_norms);
  k_norm = loader.norm(name("k_layernorm.weight"), shape.head_dim, config.zero_centred_norms);
}

IndexQueries Indexer::forward(const Step& step, const ModelConfig& config, const AttentionArgs& attention,
                              Rows h, Rows angles) const {
  Backend& backend = step.backend;
  const IndexerShape& shape = config.qwen4_exp->indexer;
  const float eps = static_cast<float>(config.rms_norm_eps);
  const auto rows = [&](int64_t width) { return step.workspace.rows(h.rows, width); };
  const Rows q = rows(shape.heads * shape.head_dim), k = rows(shape.head_dim);
  const Rows both = rows(q.width + k.width);
  backend.linear(h, std::array{Projection{.weight = qk_proj.get(), .out = both, .exact = true}});
  backend.split(both, 1,
                std::array{SplitPart{.width = q.width, .out = q}, SplitPart{.width = k.width, .out = k}});
  const Rows heads = q.reshaped(shape.head_dim);
  backend.rms_norm(heads, *q_norm, eps, heads);
  backend.rope(q, shape.head_dim, angles);
  const IndexerArgs args{.shape = shape, .key_norm = *k_norm, .eps = eps};
  CacheStorage& cache = *step.caches[static_cast<size_t>(attention.group)];
  backend.store_index_keys(cache, step.batch, attention, args, k, angles);
  return {.args = args, .queries = q};
}

}  // namespace qwen
