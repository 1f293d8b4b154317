#include "engine/runner.h"

#include <algorithm>
#include <utility>

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

const WantedTensors& wanted(const SequencePtr& sequence) {
  return sequence->request().input().tensors;
}

template <class Wants>
bool any_of(const ScheduledStep& step, const Wants& wants) {
  return std::any_of(step.sequences.begin(), step.sequences.end(),
                     [&](const SequencePtr& sequence) { return wants(wanted(sequence)); });
}

}  // namespace

Runner::Runner(std::shared_ptr<const Model> model, std::unique_ptr<Backend> backend, CacheSizes sizes,
               bool repeats_steps)
    : model_(std::move(model)),
      backend_(std::move(backend)),
      workspace_(backend_->create_workspace()),
      repeats_steps_(repeats_steps) {
  for (const CacheGroupSpec& group : model_->cache_groups())
    caches_.push_back(backend_->create_cache(group, group.recurrent() ? sizes.states : sizes.blocks));
}

// Of the sequences that want them. Placed by position: a request that was preempted computes its rows again.
void Runner::keep_hidden_states(const ScheduledStep& step, int64_t index, Rows rows) {
  const std::span<const float> hidden = backend_->host(rows, hidden_);
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    if (!wanted(step.sequences[i]).hidden_states) continue;
    const SequenceRows& sequence = step.batch.sequences[i];
    const int64_t first_wanted = wanted(step.sequences[i]).first_row;
    const int64_t skipped = std::max<int64_t>(0, first_wanted - sequence.context_length);
    if (skipped >= sequence.row_count) continue;
    std::vector<float>& state = step.sequences[i]->request().hidden_states[static_cast<size_t>(index)];
    std::copy_n(hidden.data() + (sequence.first_row + skipped) * rows.width,
                (sequence.row_count - skipped) * rows.width,
                state.data() + (sequence.context_length + skipped - first_wanted) * rows.width);
  }
}

// The multi-token-prediction head, over those rows of the step whose sequences want it and whose next token is known.
// hidden: the output of the final norm, all rows.
void Runner::predict_further(const ScheduledStep& step, Rows hidden) {
  struct Target {
    std::vector<float>* logits;
    int64_t index;
  };
  Batch batch;
  std::vector<int32_t> rows, next_ids;
  std::vector<Target> targets;  // [batch.logit_rows]
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    if (!wanted(step.sequences[i]).mtp_logits) continue;
    const Sequence& sequence = *step.sequences[i];
    const int64_t first_wanted = wanted(step.sequences[i]).first_row;
    SequenceRows own = step.batch.sequences[i];
    const int32_t first_row = std::exchange(own.first_row, static_cast<int32_t>(batch.rows()));
    own.row_count =
        static_cast<int32_t>(std::min<int64_t>(own.row_count, sequence.size() - 1 - own.context_length));
    if (own.row_count <= 0) continue;
    for (int32_t r = 0; r < own.row_count; ++r) {
      const int64_t position = own.context_length + r;
      if (position >= first_wanted) {
        batch.logit_rows.push_back(static_cast<int32_t>(batch.rows()));
        targets.push_back({&step.sequences[i]->request().mtp_logits, position - first_wanted});
      }
      const auto row = static_cast<size_t>(first_row + r);
      rows.push_back(first_row + r);
      next_ids.push_back(sequence.tokens[static_cast<size_t>(position) + 1]);
      batch.token_ids.push_back(step.batch.token_ids[row]);
      batch.positions.push_back(step.batch.positions[row]);
      batch.adapter_ids.push_back(step.batch.adapter_ids[row]);
    }
    batch.sequences.push_back(std::move(own));
  }
  if (rows.empty()) return;
  const Rows own_hidden = workspace_->rows(batch.rows(), hidden.width);
  backend_->gather(hidden, rows, own_hidden);
  const Step pass{.backend = *backend_,
                  .workspace = *workspace_,
                  .batch = batch,
                  .caches = caches_,
                  .adapters = {},  // they know nothing of the head
                  .capture_hidden = {}};
  const Rows logits = model_->forward_mtp(pass, next_ids, own_hidden);
  const std::span<const float> values = backend_->host(logits, logits_);
  for (size_t i = 0; i < targets.size(); ++i)
    std::copy_n(values.data() + static_cast<int64_t>(i) * logits.width, logits.width,
                targets[i].logits->data() + targets[i].index * logits.width);
}

Rows Runner::forward(const ScheduledStep& step) {
  workspace_->reset();
  const std::vector<AdapterRows> adapters = rows_by_adapter(step);
  Step pass{.backend = *backend_,
            .workspace = *workspace_,
            .batch = step.batch,
            .caches = caches_,
            .adapters = adapters,
            .capture_hidden = {}};
  const bool hidden_states = any_of(step, [](const WantedTensors& tensors) { return tensors.hidden_states; });
  const bool mtp_logits = any_of(step, [](const WantedTensors& tensors) { return tensors.mtp_logits; });
  const bool last_hidden = any_of(step, [](const WantedTensors& tensors) { return tensors.last_hidden; });
  if (hidden_states || mtp_logits || last_hidden) {
    pass.capture_hidden = [&](int64_t index, Rows rows) {
      if (hidden_states) keep_hidden_states(step, index, rows);
      if (last_hidden && index == model_->config().num_hidden_layers) keep_last_hidden(step, rows);
      if (mtp_logits && index == model_->config().num_hidden_layers) predict_further(step, rows);
    };
  }
  const bool repeatable = repeats_steps_ && adapters.empty() && !pass.capture_hidden;
  return backend_->run_step(*workspace_, step.batch, repeatable, [&] { return model_->forward(pass); });
}

// Of the prompts that this step completes; only their rows leave the backend's memory.
void Runner::keep_last_hidden(const ScheduledStep& step, Rows hidden) {
  std::vector<int32_t> last;
  std::vector<Request*> requests;
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    const SequenceRows& sequence = step.batch.sequences[i];
    if (!wanted(step.sequences[i]).last_hidden ||
        sequence.context_length + sequence.row_count < step.sequences[i]->size())
      continue;
    last.push_back(sequence.first_row + sequence.row_count - 1);
    requests.push_back(&step.sequences[i]->request());
  }
  if (last.empty()) return;
  const Rows gathered = workspace_->rows(static_cast<int64_t>(last.size()), hidden.width);
  backend_->gather(hidden, last, gathered);
  const std::span<const float> values = backend_->host(gathered, hidden_);
  for (size_t i = 0; i < requests.size(); ++i)
    std::copy_n(values.data() + static_cast<int64_t>(i) * hidden.width, hidden.width,
                requests[i]->last_hidden.data());
}

}  // namespace qwen
