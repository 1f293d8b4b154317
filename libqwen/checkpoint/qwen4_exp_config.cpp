#include "checkpoint/qwen4_exp_config.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "checkpoint/json_fields.h"
#include "checkpoint/model_config.h"

namespace qwen {
namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 24;
constexpr int64_t kMaxStreams = 64;
constexpr int64_t kMaxNgramHeads = 4096;  // of all layers: each costs the search for a prime
constexpr int64_t kMaxNgramVocabulary = int64_t{1} << 30;
constexpr int64_t kMaxParts = 65536;
// The convolution's inputs are kept with the states of linear attention, which are 64 positions apart.
constexpr int64_t kMaxWindow = 63;
constexpr int64_t kCacheBlock = 32;  // backend/batch.h, asserted in backend/cpu/cpu_indexer.cpp

// Counted from 1 in the file.
std::vector<int64_t> read_ple_layers(const JsonFields& text, const ModelConfig& config) {
  const JsonValue* list = text.find("ple_layer_ids");
  if (!list) return {};
  const std::string wanted = cat("a list of layer numbers from 1 to ", config.num_hidden_layers);
  if (!list->IsArray()) text.reject("ple_layer_ids", json_value_text(*list), wanted);
  std::vector<int64_t> layers;
  for (const JsonValue& layer : list->GetArray()) {
    if (!layer.IsInt64() || layer.GetInt64() < 1 || layer.GetInt64() > config.num_hidden_layers)
      text.reject("ple_layer_ids", cat("a list with ", json_value_text(layer)), wanted);
    layers.push_back(layer.GetInt64() - 1);
    if (config.layer_kinds[static_cast<size_t>(layers.back())] != LayerKind::linear_attention)
      text.reject("ple_layer_ids", cat("a list with ", json_value_text(layer)),
                  "a list of layers that are 'linear_attention'", Status::unsupported);
  }
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  return layers;
}

void read_ngrams(const JsonFields& text, const ModelConfig& config, Qwen4ExpConfig& to) {
  to.ple_layers = read_ple_layers(text, config);
  to.ngram_size = text.integer("ngram_size", 2, 16).value_or(3);
  const int64_t most_heads =
      kMaxNgramHeads / (to.ngram_size - 1) / std::max<int64_t>(1, static_cast<int64_t>(to.ple_layers.size()));
  to.heads_per_ngram = text.integer("heads_per_ngram", 1, std::max<int64_t>(1, most_heads)).value_or(8);
  to.ple_embed_dim = text.integer("ple_embed_dim", 1, kMaxWidth).value_or(config.hidden_size);
  if (!to.ple_layers.empty() && to.ple_embed_dim % to.ngram_heads() != 0)
    text.reject("ple_embed_dim", cat(to.ple_embed_dim),
                cat("a multiple of (ngram_size - 1) x heads_per_ngram, which is ", to.ngram_heads()));
  to.ple_conv_kernel_size =
      text.integer("ple_conv_kernel_size", 1, std::min<int64_t>(16, kMaxWindow / to.ngram_size + 1))
          .value_or(4);
  to.ngram_vocab_size_base =
      text.integer("ngram_vocab_size_base", 1, kMaxNgramVocabulary).value_or(20'000'000);
  to.make_ngram_vocab_size_divisible_by =
      text.integer("make_ngram_vocab_size_divisible_by", 1, kMaxNgramVocabulary).value_or(128);
  to.seed = text.integer("seed", 0, std::numeric_limits<int64_t>::max()).value_or(1234);
  to.split_ngram_parts = text.integer("split_ngram_parts", 1, kMaxParts).value_or(512);
  const std::vector<int32_t> eos = text.token_ids("eos_token_id");
  if (!eos.empty()) {
    to.eos_token_id = eos.front();
  } else if (!to.ple_layers.empty()) {
    text.reject("eos_token_id", "missing", "a token id where ple_layer_ids names layers");
  }
}

void read_indexer(const JsonFields& text, const ModelConfig& config, IndexerShape& to) {
  static constexpr int64_t kMaxHeads = 4096, kMaxHeadDim = 1024;
  static constexpr int64_t kMaxBudget = std::numeric_limits<int32_t>::max();
  to.heads = text.required_integer("indexer_n_heads", 1, kMaxHeads);
  text.required_integer("indexer_kv_heads", 1, 1);
  to.head_dim = text.required_integer("indexer_head_dim", 1, kMaxHeadDim);
  to.rotary_dim = config.rotary_dim;
  if (to.rotary_dim > to.head_dim)
    text.reject("indexer_head_dim", cat(to.head_dim),
                cat("at least the part of a head that rotary positions turn, which is ", to.rotary_dim));
  to.ratio = text.required_integer("indexer_compress_ratio", 1, kCacheBlock);
  if (kCacheBlock % to.ratio != 0)
    text.reject("indexer_compress_ratio", cat(to.ratio), cat("a divisor of ", kCacheBlock),
                Status::unsupported);
  to.budget = text.required_integer("indexer_budget", 1, kMaxBudget);
  if (to.budget % to.ratio != 0)
    text.reject("indexer_budget", cat(to.budget),
                cat("a multiple of indexer_compress_ratio, which is ", to.ratio));
}

}  // namespace

void read_qwen4_exp(const JsonFields& text, ModelConfig& config) {
  Qwen4ExpConfig own;
  own.hc_count =
      text.integer("hc_count", 2, std::min(kMaxStreams, kMaxWidth / config.hidden_size)).value_or(4);
  own.hc_lowrank = text.integer("hc_lowrank", 1, kMaxWidth).value_or(320);
  read_ngrams(text, config, own);
  read_indexer(text, config, own.indexer);
  config.qwen4_exp = std::move(own);
}

}  // namespace qwen
