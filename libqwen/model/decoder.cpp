// The decoders of Qwen1.5, Qwen2, Qwen2.5 (biases on q, k, v) and Qwen3 (RMSNorm on each head's q and k instead), dense or
// with mixtures of experts; and the hybrids, Qwen3-Next and Qwen3.5, most of whose layers have linear attention.
//
//   x   = embed_tokens[ids]
//   for each layer:
//     h = rms_norm(x);  q, k, v = h Wq' (+bq), h Wk' (+bk), h Wv' (+bv)               attention.cpp
//     q, k = rope(norm(q)), rope(norm(k))            norm: Qwen3 on, per head
//     x = x + attention(q, k, v) Wo'                 grouped queries; causal; layers may see a sliding window, or be gated
//       or x = x + gated_delta_net(h)                hybrids                           gated_delta_net.cpp
//     h = rms_norm(x);  x = x + mlp(h)               (silu(h Wgate') * (h Wup')) Wdown', or a mixture: mlp.cpp
//   logits = rms_norm(x) Whead'                      Whead = embed_tokens when tied
#include "model/decoder.h"

#include <array>
#include <optional>
#include <variant>

#include "base/error.h"
#include "model/attention.h"
#include "model/gated_delta_net.h"
#include "model/mlp.h"
#include "model/mtp_head.h"
#include "model/weight_loader.h"

namespace qwen {
namespace {

struct Layer {
  WeightPtr norm;  // [hidden]
  std::variant<Attention, GatedDeltaNet> mixer;
  MlpBlock mlp;
};

class Decoder final : public Model {
 public:
  Decoder(const ModelConfig& config, const ModelParts& parts, WeightLoader& loader) {
    config_ = config;
    rope_ = make_rope_table(config);
    if (parts.mtp_head) mtp_head_.emplace();
    assign_cache_groups();
    declare_weights(loader);
    linears_ = loader.linears();
    parameters_ = loader.parameters();
    weight_bytes_ = loader.bytes();
    active_weights_ = loader.active(config);
  }

  bool has_head() const override { return lm_head_ != nullptr; }
  bool has_mtp_head() const override { return mtp_head_.has_value(); }
  Rows forward(const Step& step) const override;
  Rows forward_mtp(const Step& step, std::span<const int32_t> next_ids, Rows hidden) const override;

 private:
  Rows angles(const Step& step) const;
  Rows head(const Step& step, Rows normed) const;

  void assign_cache_groups();
  void declare_weights(WeightLoader& loader);

  RopeTable rope_;
  WeightPtr embed_tokens_, norm_, lm_head_;
  std::vector<Layer> layers_;
  std::optional<MtpHead> mtp_head_;
};

// Layers of one kind share a block table: full attention keeps everything, a sliding window can free what has left it,
// linear attention keeps states.
void Decoder::assign_cache_groups() {
  layers_.resize(static_cast<size_t>(config_.num_hidden_layers));
  for (const LayerKind kind :
       {LayerKind::full_attention, LayerKind::sliding_attention, LayerKind::linear_attention}) {
    CacheGroupSpec group;
    if (kind == LayerKind::linear_attention) {
      group.gated_delta = config_.gated_delta;
    } else {
      group.kv_heads = config_.num_key_value_heads;
      group.head_dim = config_.head_dim;
      group.window = kind == LayerKind::sliding_attention ? config_.sliding_window : 0;
    }
    for (size_t i = 0; i < layers_.size(); ++i) {
      if (config_.layer_kinds[i] != kind) continue;
      if (kind == LayerKind::linear_attention) layers_[i].mixer.emplace<GatedDeltaNet>();
      std::visit(
          [&](auto& mixer) {
            mixer.group = static_cast<int64_t>(cache_groups_.size());
            mixer.index_in_group = group.layers++;
          },
          layers_[i].mixer);
    }
    if (group.layers > 0) cache_groups_.push_back(group);
  }
  if (!mtp_head_) return;
  mtp_head_->attention.group = static_cast<int64_t>(cache_groups_.size());
  CacheGroupSpec group;
  group.layers = 1;
  group.kv_heads = config_.num_key_value_heads;
  group.head_dim = config_.head_dim;
  cache_groups_.push_back(group);
}

void Decoder::declare_weights(WeightLoader& loader) {
  embed_tokens_ = loader.matrix("embed_tokens.weight", config_.vocab_size, config_.hidden_size);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::string prefix = cat("layers.", i, ".");
    layers_[i].norm =
        loader.norm(cat(prefix, "input_layernorm.weight"), config_.hidden_size, config_.zero_centred_norms);
    std::visit([&](auto& mixer) { mixer.declare(loader, config_, prefix); }, layers_[i].mixer);
    layers_[i].mlp.declare(loader, config_, config_.moe && config_.moe->sparse_layers[i], prefix);
  }
  norm_ = loader.norm("norm.weight", config_.hidden_size, config_.zero_centred_norms);
  // A tied model's file may hold an lm_head.weight all the same (Qwen3-0.6B does): a copy, not read. A bare decoder
  // (Qwen3-Embedding) has none and gives hidden states only.
  if (config_.tie_word_embeddings) {
    lm_head_ = embed_tokens_;
  } else if (loader.has_head() || loader.has_prefix()) {
    lm_head_ = loader.head(config_.vocab_size, config_.hidden_size);
  }
  if (mtp_head_) mtp_head_->declare(loader, config_);
}

// cos…, sin… of each row's rotation
Rows Decoder::angles(const Step& step) const {
  const Rows angles = step.workspace.rows(step.batch.rows(), config_.rotary_dim);
  step.backend.rope_angles(rope_, step.batch.positions, angles);
  return angles;
}

Rows Decoder::head(const Step& step, Rows normed) const {
  const Rows logits = step.workspace.rows(normed.rows, config_.vocab_size);
  step.backend.linear(normed, std::array{Projection{.weight = lm_head_.get(), .out = logits}});
  return logits;
}

Rows Decoder::forward(const Step& step) const {
  const auto& [backend, workspace, batch, caches, adapters, capture_hidden] = step;
  const float eps = static_cast<float>(config_.rms_norm_eps);

  const Rows x = workspace.rows(batch.rows(), config_.hidden_size);  // the residual stream
  backend.embed(*embed_tokens_, batch.token_ids, x);
  const Rows angles = this->angles(step);

  const Workspace::Mark layer_start = workspace.mark();
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (capture_hidden) capture_hidden(static_cast<int64_t>(i), x);
    const Rows h =
        std::visit([&](const auto& mixer) { return mixer.input(step, config_, x.rows); }, layers_[i].mixer);
    backend.rms_norm(x, *layers_[i].norm, eps, h);
    if (const auto* attention = std::get_if<Attention>(&layers_[i].mixer)) {
      attention->forward(step, config_, cache_groups_[static_cast<size_t>(attention->group)], h, angles, x);
    } else {
      std::get<GatedDeltaNet>(layers_[i].mixer).forward(step, config_, h, x);
    }
    layers_[i].mlp.forward(step, config_, x);
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
  return head(step, last);
}

Rows Decoder::forward_mtp(const Step& step, std::span<const int32_t> next_ids, Rows hidden) const {
  const Rows next = step.workspace.rows(hidden.rows, config_.hidden_size);
  step.backend.embed(*embed_tokens_, next_ids, next);
  const auto& spec = cache_groups_[static_cast<size_t>(mtp_head_->attention.group)];
  const Rows out = mtp_head_->forward(step, config_, spec, next, hidden, angles(step));
  const auto wanted = static_cast<int64_t>(step.batch.logit_rows.size());
  if (wanted == 0) return {};
  const Rows last = step.workspace.rows(wanted, config_.hidden_size);
  step.backend.gather(out, step.batch.logit_rows, last);
  return head(step, last);
}

}  // namespace

std::shared_ptr<const Model> make_decoder(const ModelConfig& config, const ModelParts& parts,
                                          WeightLoader& loader) {
  return std::make_shared<Decoder>(config, parts, loader);
}

}  // namespace qwen
