// CudaBackend::run_step(). A step of hundreds of launches in which every sequence has one row differs from the next one in what StepArrays
// holds, and in nothing else: so it is captured once and then launched as one, and the model need not be walked on the CPU.
//
// The first step of a shape is computed as any other: memory grows to what it takes, kernels are loaded, and it is seen whether
// all that it needs of the batch is in StepArrays (repeats_); what is not, ids of n-grams or an indexer's rows, a replay would
// not renew. The second one is captured.
// Memory that is freed meanwhile, because something larger was needed, makes all graphs void: they hold addresses.
#include "backend/cuda/cuda_backend.h"
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

void CudaBackend::forget_steps() {
  stream_->finish();  // what they do may be under way
  known_steps_.clear();
  freed_ = stream_->freed();
  graphs_are_void_ = false;
}

// Leaves nothing done or counted: that is replay()'s.
void CudaBackend::capture(KnownStep& step, Workspace& workspace, const std::function<Rows()>& ops) {
  const Counts before = counts();
  const Workspace::Mark start = workspace.mark();
  const auto take_back = [&] {
    const Counts now = counts();
    for (size_t i = 0; i < now.size(); ++i) {
      step.counts[i] = now[i] - before[i];
      counts_[i].fetch_sub(step.counts[i], std::memory_order_relaxed);
    }
    workspace.rewind(start);
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
  step.end = workspace.mark();
  take_back();
  captures_.fetch_add(1, std::memory_order_relaxed);
}

Rows CudaBackend::replay(const KnownStep& step, Workspace& workspace) {
  stream_->replay(*step.graph);
  workspace.rewind(step.end);
  for (size_t i = 0; i < step.counts.size(); ++i)
    counts_[i].fetch_add(step.counts[i], std::memory_order_relaxed);
  replays_.fetch_add(1, std::memory_order_relaxed);
  return step.results;
}

Rows CudaBackend::run_step(Workspace& workspace, const Batch& batch, bool repeatable,
                           const std::function<Rows()>& ops) {
  step_.put(device_, *stream_, batch, tilings_);
  const struct Forget {
    StepArrays& arrays;
    ~Forget() { arrays.forget(); }
  } forget{step_};
  if (!graphs_work_ || !repeatable || batch.token_ids.size() != batch.sequences.size()) return ops();

  if (graphs_are_void_ || freed_ != stream_->freed()) forget_steps();
  KnownStep& step = known_step({.workspace = &workspace,
                                .rows = batch.rows(),
                                .results = static_cast<int64_t>(batch.logit_rows.size()),
                                .most_positions = step_.most_positions()});
  if (!step.repeats) {
    repeats_ = true;
    const Rows results = ops();
    step.repeats = repeats_;
    return results;
  }
  try {
    if (!step.graph) capture(step, workspace, ops);
    return replay(step, workspace);
  } catch (...) {  // what has failed for good, the step itself will meet
    log(LogLevel::warning, "GPU ", device_.info().ordinal,
        ": steps are not captured any more: ", current_error().message());
    graphs_work_ = false;
    forget_steps();
    return ops();
  }
}

}  // namespace qwen::cuda
