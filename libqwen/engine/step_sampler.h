// What becomes of a step's logits. A sequence whose tokens are all computed gets its next one, sampled where the logits are; rows
// that a host asked for, or whose prompt's log-probabilities it did, are read. No others leave the backend's memory.
#pragma once

#include <span>
#include <vector>

#include "backend/backend.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"

namespace qwen {

class StepSampler {
 public:
  // Gives the backend the sampling of a step. logits [step.batch.logit_rows.size(), vocab_size] stay as they are until the last
  // rows_of().
  void sample(const ScheduledStep& step, Rows logits, Backend& backend);
  // Every sequence of the step gets a token, the i-th one by sample()'s i-th argument, and no rows are read: all that its successor
  // has to wait for is in the backend.
  bool only_samples() const { return only_samples_; }
  // Waits for the tokens. Throws what the step has failed of.
  void finish() { backend_->finish_sampling(); }
  // Behind finish(), of the step's sequence number i, until the next sample(): its token; null: its prompt is not complete, or it
  // wants tensors.
  const SampledRow* token_of(size_t i) const;
  // The other rows of logits that it has in the step, [rows, vocab_size]; valid until the next call.
  std::span<const float> rows_of(size_t i);

 private:
  struct Share {
    int64_t first, end;  // rows that are read
    int64_t sampled;     // index of its token, -1: none
  };

  Backend* backend_ = nullptr;
  bool only_samples_ = false;
  Rows logits_;
  std::vector<Share> shares_;  // [sequence]
  std::vector<SampleArgs> args_;
  std::vector<LogitEdit> edits_;
  std::vector<size_t> edits_end_;    // [args]
  std::vector<SampledRow> sampled_;  // [args] and more
  std::vector<float> copy_;          // of rows that were not on the host
  std::span<const float> read_;      // the rows [read_first_, read_end_)
  int64_t read_first_ = 0, read_end_ = 0;
};

}  // namespace qwen
