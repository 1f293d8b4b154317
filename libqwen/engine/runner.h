// Runs batches: the backend, its workspace and the cache memory of one engine. Used by the step thread only.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "engine/scheduler.h"
#include "model/model.h"

namespace qwen {

class Runner {
 public:
  // repeats_steps: the backend may replay what it captured of a step (Backend::run_step()). Throws Error(out_of_memory).
  Runner(std::shared_ptr<const Model> model, std::unique_ptr<Backend> backend, CacheSizes sizes,
         bool repeats_steps);

  const Backend& backend() const { return *backend_; }
  Backend& backend() { return *backend_; }

  // One forward pass. Returns the wanted rows' logits in the backend's memory, [batch.logit_rows.size(), vocab_size] (valid until
  // the next call; empty for a model without a head). Hidden states that requests want are stored in them.
  Rows forward(const ScheduledStep& step);

 private:
  void keep_hidden_states(const ScheduledStep& step, int64_t index, Rows rows);
  void predict_further(const ScheduledStep& step, Rows hidden);
  void keep_last_hidden(const ScheduledStep& step, Rows hidden);

  std::shared_ptr<const Model> model_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Workspace> workspace_;
  std::vector<std::unique_ptr<CacheStorage>> caches_;  // [cache group]
  const bool repeats_steps_;
  std::vector<float> logits_, hidden_;
};

}  // namespace qwen
