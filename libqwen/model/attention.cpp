#include "model/attention.h"

#include <array>
#include <cmath>

#include "base/error.h"
#include "model/weight_loader.h"

namespace qwen {

void Attention::declare(WeightLoader& loader, const ModelConfig& config, std::string_view prefix) {
  const int64_t hidden = config.hidden_size;
  const int64_t q_width = config.num_attention_heads * config.head_dim;
  const int64_t kv_width = config.num_key_value_heads * config.head_dim;
  const auto name = [&](std::string_view tail) { return cat(prefix, "self_attn.", tail); };
  q_proj = loader.linear(name("q_proj"), config.attention_gate ? 2 * q_width : q_width, hidden);
  k_proj = loader.linear(name("k_proj"), kv_width, hidden);
  v_proj = loader.linear(name("v_proj"), kv_width, hidden);
  o_proj = loader.linear(name("o_proj"), hidden, q_width);
  if (config.attention_bias) {
    q_proj.bias = loader.vector(name("q_proj.bias"), q_width);
    k_proj.bias = loader.vector(name("k_proj.bias"), kv_width);
    v_proj.bias = loader.vector(name("v_proj.bias"), kv_width);
  }
  if (config.query_key_norm) {
    q_norm = loader.norm(name("q_norm.weight"), config.head_dim, config.zero_centred_norms);
    k_norm = loader.norm(name("k_norm.weight"), config.head_dim, config.zero_centred_norms);
  }
}

AttentionArgs Attention::args(const ModelConfig& config, const CacheGroupSpec& spec) const {
  return {.heads = config.num_attention_heads,
          .kv_heads = config.num_key_value_heads,
          .head_dim = config.head_dim,
          .window = spec.window,
          .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim))),
          .group = group,
          .layer = index_in_group};
}

Rows Attention::input(const Step& step, const ModelConfig& config, int64_t rows) const {
  return input_rows(step, rows, config.hidden_size, {&q_proj, &k_proj, &v_proj});
}

void Attention::forward(const Step& step, const ModelConfig& config, const CacheGroupSpec& spec, Rows h,
                        Rows angles, Rows x, bool accumulate, const IndexQueries* index) const {
  const auto& [backend, workspace, batch, caches, adapters, capture_hidden] = step;
  const int64_t head_dim = config.head_dim;
  const AttentionArgs args = this->args(config, spec);

  const Rows q = workspace.rows(x.rows, args.heads * head_dim);
  const Rows k = workspace.rows(x.rows, args.kv_heads * head_dim);
  const Rows v = workspace.rows(x.rows, args.kv_heads * head_dim);
  // With a gate, q_proj gives for each head its query and then its gate.
  const Rows q_and_gate = config.attention_gate ? workspace.rows(x.rows, 2 * q.width) : q;
  project(step, h, {{q_proj, q_and_gate}, {k_proj, k}, {v_proj, v}});
  const Rows gate = config.attention_gate ? workspace.rows(x.rows, q.width) : Rows{};
  if (config.attention_gate)
    backend.split(
        q_and_gate, args.heads,
        std::array{SplitPart{.width = head_dim, .out = q}, SplitPart{.width = head_dim, .out = gate}});
  CacheStorage& cache = *caches[static_cast<size_t>(group)];
  const HeadNorms norms{.q = q_norm.get(), .k = k_norm.get(), .eps = static_cast<float>(config.rms_norm_eps)};
  backend.store_heads(cache, batch, args, norms, angles, q, k, v);
  // What o_proj reads, written by the gate or by attention itself; the indexed kind writes plain rows.
  const bool plain = index && !config.attention_gate;
  const Rows last = plain ? workspace.rows(x.rows, q.width) : input_rows(step, x.rows, q.width, {&o_proj});
  const Rows mixed = config.attention_gate ? workspace.rows(x.rows, q.width) : last;
  if (index) {
    backend.indexed_attention(cache, batch, args, index->args, index->queries, q, mixed);
  } else {
    backend.attention(cache, batch, args, q, mixed);
  }
  if (config.attention_gate) backend.sigmoid_mul(gate, mixed, last);
  project(step, last, {{.linear = o_proj, .out = x, .accumulate = accumulate}});
}

}  // namespace qwen
