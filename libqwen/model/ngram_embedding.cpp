#include "model/ngram_embedding.h"

#include <array>

#include "base/error.h"
#include "model/weight_loader.h"

namespace qwen {

ConvolutionShape NgramEmbedding::convolution_shape(const ModelConfig& config) {
  const Qwen4ExpConfig& own = *config.qwen4_exp;
  return {.channels = own.hc_count * config.hidden_size,
          .kernel = own.ple_conv_kernel_size,
          .dilation = own.ngram_size};
}

void NgramEmbedding::declare(WeightLoader& loader, const ModelConfig& config, int64_t index,
                             std::string_view prefix) {
  const Qwen4ExpConfig& own = *config.qwen4_exp;
  const int64_t width = own.hc_count * config.hidden_size;
  const auto name = [&](std::string_view tail) { return cat(prefix, tail); };
  hash.emplace(config, index);
  loader.expect_integers(name("ple_embedding.ngram_heads_vocab_sizes"), hash->vocab_sizes);
  loader.expect_integers(name("ple_embedding.ngram_heads_offsets"), hash->offsets);
  loader.expect_integers(name("ple_embedding.layer_multipliers"), hash->multipliers);
  if (hash->table_rows % own.split_ngram_parts != 0)
    fail(Status::unsupported, "config.json: the n-gram table of ", prefix, " has ", hash->table_rows,
         " rows, which split_ngram_parts (", own.split_ngram_parts, ") does not divide");
  const int64_t rows = hash->table_rows / own.split_ngram_parts;
  for (int64_t part = 0; part < own.split_ngram_parts; ++part)
    table.push_back(loader.matrix(cat(prefix, "ple_embedding.ngram_embedding.shard_", part, ".weight"), rows,
                                  own.ple_embed_dim / own.ngram_heads()));
  key_proj = loader.matrix(name("key_proj.weight"), width, own.ple_embed_dim);
  value_proj = loader.matrix(name("value_proj.weight"), config.hidden_size, own.ple_embed_dim);
  key_norm = loader.norm(name("norm_key.weight"), width, config.zero_centred_norms);
  query_norm = loader.norm(name("norm_query.weight"), width, config.zero_centred_norms);
  value_norm = loader.norm(name("norm_conv.weight"), width, config.zero_centred_norms);
  convolution = loader.convolution(name("conv1d.weight"), width, own.ple_conv_kernel_size);
}

void NgramEmbedding::forward(const Step& step, const ModelConfig& config, Rows x) const {
  Backend& backend = step.backend;
  const int64_t hidden = config.hidden_size;
  const auto rows = [&](int64_t width) { return step.workspace.rows(x.rows, width); };
  const auto norm = [&](Rows from, const WeightPtr& weight, Rows to) {  // of every stream
    backend.rms_norm(from.reshaped(hidden), *weight, static_cast<float>(config.rms_norm_eps),
                     to.reshaped(hidden));
  };
  const Rows embeddings = rows(config.qwen4_exp->ple_embed_dim);
  backend.embed_ngrams({.numbers = hash->numbers(), .shards = table}, step.batch, embeddings);
  const Rows key = rows(x.width), query = rows(x.width), value = rows(hidden), gated = rows(x.width);
  backend.linear(embeddings, std::array{Projection{.weight = key_proj.get(), .out = key},
                                        Projection{.weight = value_proj.get(), .out = value}});
  norm(key, key_norm, key);
  norm(x, query_norm, query);
  backend.gate_streams(key, query, value, gated);
  const Rows normed = key, convolved = query;  // the memory of what is not needed any more
  norm(gated, value_norm, normed);
  const ConvolutionArgs args{.shape = convolution_shape(config), .group = group, .layer = index_in_group};
  backend.convolution(*step.caches[static_cast<size_t>(group)], step.batch, args, normed, *convolution,
                      convolved);
  backend.add(gated, nullptr, x);
  backend.add(convolved, nullptr, x);
}

}  // namespace qwen
