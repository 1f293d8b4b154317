#include "engine/runner.h"

#include <algorithm>

namespace qwen {
namespace {

bool wants_hidden_states(const SequencePtr& sequence) {
  return sequence->request().input().tensors.hidden_states;
}

bool wants_last_hidden(const SequencePtr& sequence) {
  return sequence->request().input().tensors.last_hidden;
}

}  // namespace

Runner::Runner(std::shared_ptr<const Model> model, std::unique_ptr<Backend> backend, int64_t cache_blocks)
    : model_(std::move(model)), backend_(std::move(backend)), workspace_(backend_->create_workspace()) {
  for (const CacheGroupSpec& group : model_->cache_groups())
    caches_.push_back(backend_->create_cache(group, cache_blocks));
}

std::span<float> Runner::forward(const ScheduledStep& step) {
  workspace_->reset();
  Step pass{.backend = *backend_,
            .workspace = *workspace_,
            .batch = step.batch,
            .caches = caches_,
            .capture_hidden = {}};
  const bool all_states = std::any_of(step.sequences.begin(), step.sequences.end(), wants_hidden_states);
  const bool last_rows = std::any_of(step.sequences.begin(), step.sequences.end(), wants_last_hidden);
  if (all_states || last_rows) {
    pass.capture_hidden = [&](int64_t index, Rows rows) {
      if (all_states) store_hidden_states(step, index, rows);
      if (last_rows && index == model_->config().num_hidden_layers) store_last_hidden(step, rows);
    };
  }
  const Rows logits = model_->forward(pass);
  logits_.resize(static_cast<size_t>(logits.rows * logits.width));
  if (!logits_.empty()) backend_->read(logits, logits_.data());
  return logits_;
}

void Runner::store_hidden_states(const ScheduledStep& step, int64_t index, Rows rows) {
  hidden_.resize(static_cast<size_t>(rows.rows * rows.width));
  backend_->read(rows, hidden_.data());
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    if (!wants_hidden_states(step.sequences[i])) continue;
    Request& request = step.sequences[i]->request();
    const SequenceRows& sequence = step.batch.sequences[i];
    const int64_t first_wanted = request.input().tensors.first_row;
    const int64_t skipped = std::max<int64_t>(0, first_wanted - sequence.context_length);
    if (skipped >= sequence.row_count) continue;
    std::vector<float>& state = request.hidden_states[static_cast<size_t>(index)];
    // Placed by position: a request that was preempted computes its rows again.
    std::copy_n(hidden_.data() + (sequence.first_row + skipped) * rows.width,
                (sequence.row_count - skipped) * rows.width,
                state.data() + (sequence.context_length + skipped - first_wanted) * rows.width);
  }
}

// Of the prompts that this step completes; only their rows leave the backend's memory.
void Runner::store_last_hidden(const ScheduledStep& step, Rows rows) {
  std::vector<int32_t> last;
  std::vector<Request*> requests;
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    const SequenceRows& sequence = step.batch.sequences[i];
    if (!wants_last_hidden(step.sequences[i]) ||
        sequence.context_length + sequence.row_count < step.sequences[i]->size())
      continue;
    last.push_back(sequence.first_row + sequence.row_count - 1);
    requests.push_back(&step.sequences[i]->request());
  }
  if (last.empty()) return;
  const Rows gathered = workspace_->rows(static_cast<int64_t>(last.size()), rows.width);
  backend_->gather(rows, last, gathered);
  hidden_.resize(static_cast<size_t>(gathered.rows * gathered.width));
  backend_->read(gathered, hidden_.data());
  for (size_t i = 0; i < requests.size(); ++i)
    std::copy_n(hidden_.data() + static_cast<int64_t>(i) * rows.width, rows.width,
                requests[i]->last_hidden.data());
}

}  // namespace qwen
