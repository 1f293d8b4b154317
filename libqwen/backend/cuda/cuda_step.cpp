// CudaBackend::run_step(). A step of hundreds of launches in which every sequence has one row differs from the next one in what StepArrays
// holds, and in nothing else: so it is captured once and then launched as one, and the model need not be walked on the CPU.
//
// The first two steps of a shape are computed as any other: memory grows to what it takes, kernels are loaded, and it is seen whether
// all that it needs of the batch is in StepArrays (repeats_); what is not, ids of n-grams or an indexer's rows, a replay would
// not renew. Behind the second one it is captured.
// Memory that is freed meanwhile, because something larger was needed, makes all graphs void: they hold addresses.
#include <utility>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/embed.h"
#include "base/error.h"
#include "base/log.h"

namespace qwen::cuda {
namespace {

// Each takes some of the GPU's memory, for every launch in it.
constexpr size_t kMostGraphs = 64;

}  // namespace

CudaBackend::Counts CudaBackend::counts() const {
  Counts now;
  for (size_t i = 0; i < now.size(); ++i) now[i] = counts_[i].load(std::memory_order_relaxed);
  return now;
}

// The front of known_steps_; the one that was not used for longest has gone for it.
CudaBackend::KnownStep& CudaBackend::known_step(const StepShape& shape) {
  for (auto step = known_steps_.begin(); step != known_steps_.end(); ++step) {
    if (step->shape != shape) continue;
    known_steps_.splice(known_steps_.begin(), known_steps_, step);
    return known_steps_.front();
  }
  if (known_steps_.size() == kMostGraphs) {
    stream_->synchronize();  // a step without results may still be under way
    known_steps_.pop_back();
  }
  return known_steps_.emplace_front(KnownStep(shape));
}

void CudaBackend::forget_graphs() {
  stream_->finish();  // what they do may be under way
  for (KnownStep& step : known_steps_) step.graph.reset();
  freed_ = stream_->freed();
  graphs_are_void_ = false;
}

// Behind the same step, which the GPU computes meanwhile: so that whatever fails here has no consequence for it.
void CudaBackend::capture(KnownStep& step, const std::function<Rows()>& ops) {
  const Counts before = counts();
  const auto take_back = [&] {  // nothing of it has run
    const Counts now = counts();
    for (size_t i = 0; i < now.size(); ++i) {
      step.counts[i] = now[i] - before[i];
      counts_[i].fetch_sub(step.counts[i], std::memory_order_relaxed);
    }
  };
  try {
    step.graph = stream_->capture([&] {
      repeats_ = true;
      step.results = ops();
      if (!repeats_) fail(Status::internal, "a step is not what the one of its shape before was");
    });
  } catch (...) {
    take_back();
    throw;
  }
  take_back();
  captures_.fetch_add(1, std::memory_order_relaxed);
}

void CudaBackend::replay(const KnownStep& step) {
  stream_->replay(*step.graph);
  for (size_t i = 0; i < step.counts.size(); ++i)
    counts_[i].fetch_add(step.counts[i], std::memory_order_relaxed);
  replays_.fetch_add(1, std::memory_order_relaxed);
}

// Of an error that has lost the GPU the next call hears again.
void CudaBackend::give_graphs_up(const Error& why) {
  log(LogLevel::warning, "GPU ", device_.info().ordinal,
      ": steps are not captured any more: ", why.message());
  graphs_work_ = false;
  forget_graphs();
}

// Nobody has seen them yet: sample() has left them on the device.
void CudaBackend::take_sampled_ids(const Batch& batch) {
  if (batch.ids_from.empty()) return;
  take_ids(*stream_,
           {.from = step_.ids_from(), .sampled = sampled_ids_, .rows = batch.rows(), .ids = step_.ids()});
  ahead_.fetch_add(1, std::memory_order_relaxed);
}

Rows CudaBackend::run_step(Workspace& workspace, const Batch& batch, bool repeatable,
                           const std::function<Rows()>& ops) {
  step_.put(device_, *stream_, batch, tilings_);
  take_sampled_ids(batch);
  const struct Forget {
    StepArrays& arrays;
    ~Forget() { arrays.forget(); }
  } forget{step_};
  if (!graphs_work_ || !repeatable || batch.token_ids.size() != batch.sequences.size()) return ops();

  if (graphs_are_void_ || freed_ != stream_->freed()) forget_graphs();
  KnownStep& step = known_step({.workspace = &workspace,
                                .rows = batch.rows(),
                                .results = static_cast<int64_t>(batch.logit_rows.size()),
                                .most_positions = step_.most_positions()});
  const Workspace::Mark start = workspace.mark();
  if (step.graph) {
    try {
      replay(step);
      workspace.rewind(step.end);
      return step.results;
    } catch (...) {
      give_graphs_up(current_error());
      return ops();
    }
  }
  repeats_ = true;
  const Rows results = ops();
  if (!repeats_ || !std::exchange(step.seen, true)) return results;
  const Workspace::Mark end = workspace.mark();
  workspace.rewind(start);
  try {
    capture(step, ops);
    step.end = end;
  } catch (...) {
    give_graphs_up(current_error());
  }
  workspace.rewind(end);
  return results;
}

}  // namespace qwen::cuda
