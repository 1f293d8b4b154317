#include "engine/runner.h"

#include <algorithm>

namespace qwen {

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
  const auto wants_hidden = [](const std::shared_ptr<Request>& r) {
    return r->input().tensors.hidden_states;
  };
  if (std::any_of(step.requests.begin(), step.requests.end(), wants_hidden)) {
    pass.capture_hidden = [&](int64_t index, Rows rows) {
      hidden_.resize(static_cast<size_t>(rows.rows * rows.width));
      backend_->read(rows, hidden_.data());
      for (size_t i = 0; i < step.requests.size(); ++i) {
        if (!wants_hidden(step.requests[i])) continue;
        auto& states = step.requests[i]->hidden_states;
        if (static_cast<int64_t>(states.size()) <= index) states.resize(static_cast<size_t>(index) + 1);
        const SequenceRows& sequence = step.batch.sequences[i];
        const float* begin = hidden_.data() + sequence.first_row * rows.width;
        states[static_cast<size_t>(index)].insert(states[static_cast<size_t>(index)].end(), begin,
                                                  begin + sequence.row_count * rows.width);
      }
    };
  }
  const Rows logits = model_->forward(pass);
  logits_.resize(static_cast<size_t>(logits.rows * logits.width));
  if (!logits_.empty()) backend_->read(logits, logits_.data());
  return logits_;
}

}  // namespace qwen
