#include "engine/runner.h"

#include <algorithm>

namespace qwen {
namespace {

std::vector<AdapterRows> rows_by_adapter(const ScheduledStep& step) {
  std::vector<AdapterRows> groups;
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    const Adapter* const adapter = step.sequences[i]->request().input().adapter.get();
    if (!adapter) continue;
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const AdapterRows& other) { return other.adapter == adapter; });
    if (group == groups.end()) group = groups.insert(group, {adapter, {}});
    const SequenceRows& rows = step.batch.sequences[i];
    for (int32_t row = 0; row < rows.row_count; ++row) group->rows.push_back(rows.first_row + row);
  }
  return groups;
}

}  // namespace

Runner::Runner(std::shared_ptr<const Model> model, std::unique_ptr<Backend> backend, CacheSizes sizes)
    : model_(std::move(model)), backend_(std::move(backend)), workspace_(backend_->create_workspace()) {
  for (const CacheGroupSpec& group : model_->cache_groups())
    caches_.push_back(backend_->create_cache(group, group.recurrent() ? sizes.states : sizes.blocks));
}

std::span<float> Runner::forward(const ScheduledStep& step) {
  workspace_->reset();
  const std::vector<AdapterRows> adapters = rows_by_adapter(step);
  Step pass{.backend = *backend_,
            .workspace = *workspace_,
            .batch = step.batch,
            .caches = caches_,
            .adapters = adapters,
            .capture_hidden = {}};
  const auto wants_hidden = [](const SequencePtr& sequence) {
    return sequence->request().input().tensors.hidden_states;
  };
  if (std::any_of(step.sequences.begin(), step.sequences.end(), wants_hidden)) {
    pass.capture_hidden = [&](int64_t index, Rows rows) {
      hidden_.resize(static_cast<size_t>(rows.rows * rows.width));
      backend_->read(rows, hidden_.data());
      for (size_t i = 0; i < step.sequences.size(); ++i) {
        if (!wants_hidden(step.sequences[i])) continue;
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
    };
  }
  const Rows logits = model_->forward(pass);
  logits_.resize(static_cast<size_t>(logits.rows * logits.width));
  if (!logits_.empty()) backend_->read(logits, logits_.data());
  return logits_;
}

}  // namespace qwen
