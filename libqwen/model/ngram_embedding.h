// Qwen4-Exp's per-layer embeddings: what the last few tokens are, looked up by their hashes and added to the residual streams.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "model/model.h"
#include "model/ngram_hash.h"

namespace qwen {

class WeightLoader;

//   e = the rows of the n-grams that end here, of all heads          ngram_hash.h
//   k = rms_norm(e Wkey'), q = rms_norm(x)                           every stream s by itself
//   v[s] = sigmoid(root(k[s] . q[s] / sqrt(hidden))) * (e Wvalue')   root(g) = sqrt(|g|) sign(g)
//   x = x + v + silu(conv(rms_norm(v)))                              over positions ngram_size apart
struct NgramEmbedding {
  std::optional<NgramHash> hash;
  std::vector<WeightPtr> table;  // split_ngram_parts of the hash's table_rows, [rows, ple_embed_dim / heads]
  WeightPtr key_proj, value_proj;              // [n * hidden, ple_embed_dim], [hidden, ple_embed_dim]
  WeightPtr key_norm, query_norm, value_norm;  // [n * hidden]
  WeightPtr convolution;                       // [n * hidden, 1, ple_conv_kernel_size]
  int64_t group = 0;                           // the cache group of the convolution's inputs
  int64_t index_in_group = 0;

  static ConvolutionShape convolution_shape(const ModelConfig& config);
  // index: of the layers with such embeddings. prefix: "layers.7.ple."
  void declare(WeightLoader& loader, const ModelConfig& config, int64_t index, std::string_view prefix);
  // x: [rows, n * hidden]
  void forward(const Step& step, const ModelConfig& config, Rows x) const;
};

}  // namespace qwen
