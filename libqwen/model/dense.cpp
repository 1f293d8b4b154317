// The dense decoders: Qwen1.5, Qwen2, Qwen2.5 (biases on q, k, v) and Qwen3 (RMSNorm on each head's q and k
// instead).
//
//   x   = embed_tokens[ids]
//   for each layer:
//     h = rms_norm(x);  q, k, v = h Wq' (+bq), h Wk' (+bk), h Wv' (+bv)
//     q, k = rope(norm(q)), rope(norm(k))            norm: Qwen3 only, per head
//     x = x + attention(q, k, v) Wo'                 grouped queries; causal; layers may see a sliding window
//     h = rms_norm(x);  x = x + (silu(h Wgate') * (h Wup')) Wdown'
//   logits = rms_norm(x) Whead'                      Whead = embed_tokens when tied
#include "model/dense.h"

#include <array>
#include <cmath>

#include "base/error.h"
#include "model/weight_loader.h"

namespace qwen {
namespace {

struct DenseLayer {
  WeightPtr input_layernorm, post_attention_layernorm;  // [hidden]
  WeightPtr q_proj, k_proj, v_proj, o_proj;
  WeightPtr q_bias, k_bias, v_bias;  // null where config.attention_bias is false
  WeightPtr q_norm, k_norm;          // [head_dim], null where config.query_key_norm is false
  WeightPtr gate_proj, up_proj, down_proj;
  int64_t group = 0;  // which cache group the layer belongs to
  int64_t index_in_group = 0;
};

class DenseModel final : public Model {
 public:
  DenseModel(const ModelConfig& config, WeightLoader& loader) {
    config_ = config;
    rope_ = make_rope_table(config);
    assign_cache_groups();
    declare_weights(loader);
    parameters_ = loader.parameters();
    weight_bytes_ = loader.bytes();
  }

  bool has_head() const override { return lm_head_ != nullptr; }
  Rows forward(const Step& step) const override;

 private:
  void assign_cache_groups();
  void declare_weights(WeightLoader& loader);
  void attention_block(const Step& step, const DenseLayer& layer, Rows x, Rows angles) const;
  void mlp_block(const Step& step, const DenseLayer& layer, Rows x) const;

  RopeTable rope_;
  WeightPtr embed_tokens_, norm_, lm_head_;
  std::vector<DenseLayer> layers_;
};

// Layers of one kind share a block table: full attention keeps everything, a sliding window can free what has
// left it.
void DenseModel::assign_cache_groups() {
  layers_.resize(static_cast<size_t>(config_.num_hidden_layers));
  for (const LayerKind kind : {LayerKind::full_attention, LayerKind::sliding_attention}) {
    CacheGroupSpec group{.layers = 0,
                         .kv_heads = config_.num_key_value_heads,
                         .head_dim = config_.head_dim,
                         .window = kind == LayerKind::sliding_attention ? config_.sliding_window : 0};
    for (size_t i = 0; i < layers_.size(); ++i) {
      if (config_.layer_kinds[i] != kind) continue;
      layers_[i].group = static_cast<int64_t>(cache_groups_.size());
      layers_[i].index_in_group = group.layers++;
    }
    if (group.layers > 0) cache_groups_.push_back(group);
  }
}

void DenseModel::declare_weights(WeightLoader& loader) {
  const int64_t hidden = config_.hidden_size;
  const int64_t q_width = config_.num_attention_heads * config_.head_dim;
  const int64_t kv_width = config_.num_key_value_heads * config_.head_dim;
  embed_tokens_ = loader.matrix("embed_tokens.weight", config_.vocab_size, hidden);
  for (size_t i = 0; i < layers_.size(); ++i) {
    DenseLayer& layer = layers_[i];
    const auto name = [&](std::string_view tail) { return cat("layers.", i, ".", tail); };
    layer.input_layernorm = loader.vector(name("input_layernorm.weight"), hidden);
    layer.q_proj = loader.matrix(name("self_attn.q_proj.weight"), q_width, hidden);
    layer.k_proj = loader.matrix(name("self_attn.k_proj.weight"), kv_width, hidden);
    layer.v_proj = loader.matrix(name("self_attn.v_proj.weight"), kv_width, hidden);
    layer.o_proj = loader.matrix(name("self_attn.o_proj.weight"), hidden, q_width);
    if (config_.attention_bias) {
      layer.q_bias = loader.vector(name("self_attn.q_proj.bias"), q_width);
      layer.k_bias = loader.vector(name("self_attn.k_proj.bias"), kv_width);
      layer.v_bias = loader.vector(name("self_attn.v_proj.bias"), kv_width);
    }
    if (config_.query_key_norm) {
      layer.q_norm = loader.vector(name("self_attn.q_norm.weight"), config_.head_dim);
      layer.k_norm = loader.vector(name("self_attn.k_norm.weight"), config_.head_dim);
    }
    layer.post_attention_layernorm = loader.vector(name("post_attention_layernorm.weight"), hidden);
    layer.gate_proj = loader.matrix(name("mlp.gate_proj.weight"), config_.intermediate_size, hidden);
    layer.up_proj = loader.matrix(name("mlp.up_proj.weight"), config_.intermediate_size, hidden);
    layer.down_proj = loader.matrix(name("mlp.down_proj.weight"), hidden, config_.intermediate_size);
  }
  norm_ = loader.vector("norm.weight", hidden);
  // A tied model's file may hold an lm_head.weight all the same (Qwen3-0.6B does): a copy, not read. A bare
  // decoder (Qwen3-Embedding) has none and gives hidden states only.
  if (config_.tie_word_embeddings) {
    lm_head_ = embed_tokens_;
  } else if (loader.has_head() || loader.has_prefix()) {
    lm_head_ = loader.head(config_.vocab_size, hidden);
  }
}

Rows DenseModel::forward(const Step& step) const {
  const auto& [backend, workspace, batch, caches, capture_hidden] = step;
  const float eps = static_cast<float>(config_.rms_norm_eps);

  const Rows x = workspace.rows(batch.rows(), config_.hidden_size);  // the residual stream
  backend.embed(*embed_tokens_, batch.token_ids, x);
  const Rows angles = workspace.rows(batch.rows(), config_.head_dim);  // cos…, sin… of each row's rotation
  backend.rope_angles(rope_, batch.positions, angles);

  const Workspace::Mark layer_start = workspace.mark();
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (capture_hidden) capture_hidden(static_cast<int64_t>(i), x);
    attention_block(step, layers_[i], x, angles);
    mlp_block(step, layers_[i], x);
    workspace.rewind(layer_start);  // every layer uses the same, cache-warm memory
  }

  if (capture_hidden) {
    const Rows normed = workspace.rows(batch.rows(), config_.hidden_size);
    backend.rms_norm(x, *norm_, eps, normed);
    capture_hidden(config_.num_hidden_layers, normed);
  }
  const auto wanted = static_cast<int64_t>(batch.logit_rows.size());
  if (wanted == 0 || !lm_head_) return {};
  const Rows last = workspace.rows(wanted, config_.hidden_size);
  backend.gather(x, batch.logit_rows, last);
  backend.rms_norm(last, *norm_, eps, last);
  const Rows logits = workspace.rows(wanted, config_.vocab_size);
  backend.linear(last, std::array{Projection{.weight = lm_head_.get(), .out = logits}});
  return logits;
}

void DenseModel::attention_block(const Step& step, const DenseLayer& layer, Rows x, Rows angles) const {
  const auto& [backend, workspace, batch, caches, capture_hidden] = step;
  const float eps = static_cast<float>(config_.rms_norm_eps);
  const int64_t head_dim = config_.head_dim;
  const AttentionArgs args{.heads = config_.num_attention_heads,
                           .kv_heads = config_.num_key_value_heads,
                           .head_dim = head_dim,
                           .window = cache_groups_[layer.group].window,
                           .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim))),
                           .group = layer.group,
                           .layer = layer.index_in_group};

  const Rows h = workspace.rows(x.rows, config_.hidden_size);
  const Rows q = workspace.rows(x.rows, args.heads * head_dim);
  const Rows k = workspace.rows(x.rows, args.kv_heads * head_dim);
  const Rows v = workspace.rows(x.rows, args.kv_heads * head_dim);
  backend.rms_norm(x, *layer.input_layernorm, eps, h);
  backend.linear(h,
                 std::array{Projection{.weight = layer.q_proj.get(), .bias = layer.q_bias.get(), .out = q},
                            Projection{.weight = layer.k_proj.get(), .bias = layer.k_bias.get(), .out = k},
                            Projection{.weight = layer.v_proj.get(), .bias = layer.v_bias.get(), .out = v}});
  if (config_.query_key_norm) {
    const Rows q_heads = q.reshaped(head_dim), k_heads = k.reshaped(head_dim);
    backend.rms_norm(q_heads, *layer.q_norm, eps, q_heads);
    backend.rms_norm(k_heads, *layer.k_norm, eps, k_heads);
  }
  backend.rope(q, head_dim, angles);
  backend.rope(k, head_dim, angles);
  CacheStorage& cache = *caches[layer.group];
  backend.store_kv(cache, batch, args, k, v);
  const Rows mixed = workspace.rows(x.rows, args.heads * head_dim);
  backend.attention(cache, batch, args, q, mixed);
  backend.linear(mixed, std::array{Projection{.weight = layer.o_proj.get(), .out = x, .accumulate = true}});
}

void DenseModel::mlp_block(const Step& step, const DenseLayer& layer, Rows x) const {
  Backend& backend = step.backend;
  const Rows h = step.workspace.rows(x.rows, config_.hidden_size);
  const Rows gate = step.workspace.rows(x.rows, config_.intermediate_size);
  const Rows up = step.workspace.rows(x.rows, config_.intermediate_size);
  backend.rms_norm(x, *layer.post_attention_layernorm, static_cast<float>(config_.rms_norm_eps), h);
  backend.linear(h, std::array{Projection{.weight = layer.gate_proj.get(), .out = gate},
                               Projection{.weight = layer.up_proj.get(), .out = up}});
  backend.silu_mul(gate, up, gate);
  backend.linear(gate, std::array{Projection{.weight = layer.down_proj.get(), .out = x, .accumulate = true}});
}

}  // namespace

std::shared_ptr<const Model> make_dense_model(const ModelConfig& config, WeightLoader& loader) {
  return std::make_shared<DenseModel>(config, loader);
}

}  // namespace qwen
