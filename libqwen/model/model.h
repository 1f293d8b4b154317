// A model: configuration and weights, immutable once loaded, and the forward pass over them.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/model_config.h"
#include "checkpoint/tensor.h"
#include "model/adapter.h"

namespace qwen {

// One forward pass: what it runs on and what it reads and writes besides the weights.
struct Step {
  Backend& backend;
  Workspace& workspace;
  const Batch& batch;
  std::span<const std::unique_ptr<CacheStorage>> caches;  // [cache group]
  std::span<const AdapterRows> adapters;                  // of the rows that use one
  // When set, called with hidden.i for i = 0 … num_hidden_layers: the embeddings, the output of each layer but the last,
  // and the output of the final norm, each ModelConfig::hidden_width(i) wide. The rows are valid during the call.
  std::function<void(int64_t index, Rows hidden)> capture_hidden;
};

// What a token is multiplied with: all weights but tables of embeddings (a head that is one counts) and the experts that it
// does not choose.
struct ActiveWeights {
  int64_t parameters = 0;
  int64_t bytes = 0;         // as stored
  int64_t expert_bytes = 0;  // of these, the chosen experts'
};

class Model {
 public:
  virtual ~Model() = default;

  const ModelConfig& config() const { return config_; }
  std::span<const CacheGroupSpec> cache_groups() const { return cache_groups_; }
  std::span<const LinearShape> linears() const { return linears_; }  // what adapters may change
  int64_t parameters() const { return parameters_; }
  size_t weight_bytes() const { return weight_bytes_; }
  const ActiveWeights& active_weights() const { return active_weights_; }
  // false: an embedding model without lm_head; forward() then returns no logits.
  virtual bool has_head() const = 0;

  virtual bool has_mtp_head() const { return false; }
  // forward() reads SequenceRows::tokens on the host, up to the step's own.
  virtual bool reads_tokens() const { return false; }

  // Runs all rows of the batch. Returns the logits [batch.logit_rows.size(), vocab_size]; they are valid until the
  // workspace is reset.
  virtual Rows forward(const Step& step) const = 0;
  // The multi-token-prediction head: rows of the batch whose next tokens are next_ids [rows] and whose output of the final
  // norm was `hidden` [rows, hidden_size]. Row by row, the logits are of the token after the next one. As forward() returns
  // them; precondition: has_mtp_head().
  virtual Rows forward_mtp(const Step& step, std::span<const int32_t> next_ids, Rows hidden) const;

 protected:
  ModelConfig config_;
  std::vector<CacheGroupSpec> cache_groups_;
  std::vector<LinearShape> linears_;
  int64_t parameters_ = 0;
  size_t weight_bytes_ = 0;
  ActiveWeights active_weights_;
};

// What a step reads of a sequence besides the weights, all layers of the decoder together.
struct CacheReads {
  int64_t token_bytes = 0;         // of every token before, in layers that see all of them
  int64_t window_token_bytes = 0;  // likewise, in layers that see at most window_tokens of them
  int64_t window_tokens = 0;
  int64_t state_bytes = 0;  // of linear attention and convolutions
};
CacheReads cache_reads(const Model& model, Precision precision);

// What of a checkpoint is loaded besides the decoder.
struct ModelParts {
  bool mtp_head = false;
};

// Checks every tensor that config implies, then loads them through `backend`. progress(fraction 0…1) may throw to stop.
// before_reading is called in between: all tensors are known to be there, and none has been touched.
// Throws Error naming the tensor or, for an architecture that is not supported, its name.
std::shared_ptr<const Model> load_model(const ModelConfig& config, const ModelParts& parts,
                                        const TensorSource& tensors, Backend& backend,
                                        const std::function<void(double)>& progress = nullptr,
                                        const std::function<void()>& before_reading = nullptr);

// Rotation frequencies of config.json's rope_theta and rope_scaling, as transformers computes them.
RopeTable make_rope_table(const ModelConfig& config);

}  // namespace qwen
