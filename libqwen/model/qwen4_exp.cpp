// Qwen4-Exp: a hybrid whose residual is several streams, with embeddings of n-grams and attention to what an indexer picks.
//
//   x[s] = embed_tokens[ids]                       for each of the hc_count streams s, side by side in a row
//   for each layer:
//     x = x + ngram_embedding(x, ids)              in some layers                       ngram_embedding.cpp
//     h, g = mix(x)                                                                     hyper_connection.cpp
//     y = gated_delta_net(h)                       its gate a sigmoid                   gated_delta_net.cpp
//       or attention(h), to positions that the indexer picks                            attention.cpp, indexer.cpp
//     x[s] = x[s] + g[s] y
//     h, g = mix(x);  x[s] = x[s] + g[s] moe(h)                                         mlp.cpp
//   logits = mix(x) Whead'
#include "model/qwen4_exp.h"

#include <array>
#include <optional>
#include <variant>

#include "base/error.h"
#include "model/attention.h"
#include "model/gated_delta_net.h"
#include "model/hyper_connection.h"
#include "model/indexer.h"
#include "model/mlp.h"
#include "model/ngram_embedding.h"
#include "model/weight_loader.h"

namespace qwen {
namespace {

struct IndexedAttention {
  Attention attention;
  Indexer indexer;
};

struct Layer {
  std::optional<NgramEmbedding> ngrams;
  HyperConnection mixer_connection, mlp_connection;
  std::variant<IndexedAttention, GatedDeltaNet> mixer;
  std::variant<GatedMlp, MixtureOfExperts> mlp;
};

class Qwen4Exp final : public Model {
 public:
  Qwen4Exp(const ModelConfig& config, WeightLoader& loader) {
    config_ = config;
    rope_ = make_rope_table(config);
    layers_.resize(static_cast<size_t>(config.num_hidden_layers));
    assign_cache_groups();
    declare_weights(loader);
    linears_ = loader.linears();
    parameters_ = loader.parameters();
    weight_bytes_ = loader.bytes();
    active_weights_ = loader.active(config);
  }

  bool has_head() const override { return lm_head_ != nullptr; }
  bool reads_tokens() const override { return true; }  // for ids of n-grams
  Rows forward(const Step& step) const override;

 private:
  enum Group : uint8_t { attention, linear_attention, ngrams };  // indices of cache_groups_

  void assign_cache_groups();
  void declare_weights(WeightLoader& loader);
  // x: the streams
  void forward(const Step& step, const Layer& layer, Rows angles, Rows x) const;

  RopeTable rope_;
  WeightPtr embed_tokens_, lm_head_;
  std::vector<Layer> layers_;
  HyperConnection head_connection_;
};

void Qwen4Exp::assign_cache_groups() {
  const Qwen4ExpConfig& own = *config_.qwen4_exp;
  CacheGroupSpec keys_and_values, states, inputs;
  keys_and_values.kv_heads = config_.num_key_value_heads;
  keys_and_values.head_dim = config_.head_dim;
  keys_and_values.indexer = own.indexer;
  states.gated_delta = config_.gated_delta;
  inputs.convolution = NgramEmbedding::convolution_shape(config_);
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (config_.layer_kinds[i] == LayerKind::linear_attention) {
      auto& mixer = layers_[i].mixer.emplace<GatedDeltaNet>();
      mixer.group = linear_attention;
      mixer.index_in_group = states.layers++;
    } else {
      Attention& mixer = std::get<IndexedAttention>(layers_[i].mixer).attention;
      mixer.group = attention;
      mixer.index_in_group = keys_and_values.layers++;
    }
  }
  for (const int64_t i : own.ple_layers) {
    NgramEmbedding& embedding = layers_[static_cast<size_t>(i)].ngrams.emplace();
    embedding.group = ngrams;
    embedding.index_in_group = inputs.layers++;
  }
  cache_groups_ = {keys_and_values, states};
  if (inputs.layers > 0) cache_groups_.push_back(inputs);
}

void Qwen4Exp::declare_weights(WeightLoader& loader) {
  const int64_t hidden = config_.hidden_size;
  embed_tokens_ = loader.matrix("embed_tokens.weight", config_.vocab_size, hidden);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::string prefix = cat("layers.", i, ".");
    Layer& layer = layers_[i];
    if (layer.ngrams)
      layer.ngrams->declare(loader, config_, layer.ngrams->index_in_group, cat(prefix, "ple."));
    layer.mixer_connection.declare(loader, config_, true, cat(prefix, "attn_hyper_connection."));
    if (auto* indexed = std::get_if<IndexedAttention>(&layer.mixer)) {
      indexed->attention.declare(loader, config_, prefix);
      indexed->indexer.declare(loader, config_, prefix);
    } else {
      std::get<GatedDeltaNet>(layer.mixer).declare(loader, config_, prefix);
    }
    layer.mlp_connection.declare(loader, config_, true, cat(prefix, "mlp_hyper_connection."));
    if (config_.moe->sparse_layers[i]) {
      layer.mlp.emplace<MixtureOfExperts>().declare(loader, hidden, *config_.moe, cat(prefix, "mlp."));
    } else {
      layer.mlp.emplace<GatedMlp>().declare(loader, hidden, config_.intermediate_size, cat(prefix, "mlp."));
    }
  }
  head_connection_.declare(loader, config_, false, "hyper_connection_mixer.");
  lm_head_ = config_.tie_word_embeddings ? embed_tokens_ : loader.head(config_.vocab_size, hidden);
}

void Qwen4Exp::forward(const Step& step, const Layer& layer, Rows angles, Rows x) const {
  const auto& [backend, workspace, batch, caches, adapters, capture_hidden] = step;
  const Workspace::Mark start = workspace.mark();
  if (layer.ngrams) layer.ngrams->forward(step, config_, x);
  workspace.rewind(start);
  {
    const auto [h, gate] = layer.mixer_connection.mix(step, config_, x);
    const Rows y = workspace.rows(h.rows, h.width);
    if (const auto* indexed = std::get_if<IndexedAttention>(&layer.mixer)) {
      const CacheGroupSpec& spec = cache_groups_[attention];
      const IndexQueries index =
          indexed->indexer.forward(step, config_, indexed->attention.args(config_, spec), h, angles);
      indexed->attention.forward(step, config_, spec, h, angles, y, false, &index);
    } else {
      std::get<GatedDeltaNet>(layer.mixer).forward(step, config_, h, y, false);
    }
    backend.add_to_streams(y, gate, x);
  }
  workspace.rewind(start);
  const auto [h, gate] = layer.mlp_connection.mix(step, config_, x);
  const Rows y = workspace.rows(h.rows, h.width);
  if (const auto* moe = std::get_if<MixtureOfExperts>(&layer.mlp)) {
    moe->forward(step, *config_.moe, h, y, false);
  } else {
    std::get<GatedMlp>(layer.mlp).forward(step, h, y, false);
  }
  backend.add_to_streams(y, gate, x);
  workspace.rewind(start);
}

Rows Qwen4Exp::forward(const Step& step) const {
  const auto& [backend, workspace, batch, caches, adapters, capture_hidden] = step;
  const int64_t hidden = config_.hidden_size, streams = config_.qwen4_exp->hc_count;
  const Rows x = workspace.rows(batch.rows(), streams * hidden);
  const Rows angles = workspace.rows(batch.rows(), config_.rotary_dim);
  const Workspace::Mark start = workspace.mark();
  const Rows tokens = workspace.rows(batch.rows(), hidden);
  backend.embed(*embed_tokens_, batch.token_ids, tokens);
  for (int64_t s = 0; s < streams; ++s)
    backend.split(tokens, 1, std::array{SplitPart{.width = hidden, .out = x, .column = s * hidden}});
  workspace.rewind(start);
  backend.rope_angles(rope_, batch.positions, angles);

  for (size_t i = 0; i < layers_.size(); ++i) {
    if (capture_hidden) capture_hidden(static_cast<int64_t>(i), x);
    forward(step, layers_[i], angles, x);
  }

  if (capture_hidden) capture_hidden(config_.num_hidden_layers, head_connection_.mix(step, config_, x).h);
  const auto wanted = static_cast<int64_t>(batch.logit_rows.size());
  if (wanted == 0) return {};
  const Rows last = workspace.rows(wanted, x.width);
  backend.gather(x, batch.logit_rows, last);
  const Rows h = head_connection_.mix(step, config_, last).h;
  const Rows logits = workspace.rows(wanted, config_.vocab_size);
  backend.linear(h, std::array{Projection{.weight = lm_head_.get(), .out = logits}});
  return logits;
}

}  // namespace

std::shared_ptr<const Model> make_qwen4_exp(const ModelConfig& config, const ModelParts& parts,
                                            WeightLoader& loader) {
  if (parts.mtp_head)
    fail(Status::unsupported, "option 'mtp' is 1, but the multi-token-prediction head of ",
         config.architecture, " is not supported by this version");
  return std::make_shared<Qwen4Exp>(config, loader);
}

}  // namespace qwen
