#include "engine/step_sampler.h"

#include <algorithm>

namespace qwen {

void StepSampler::sample(const ScheduledStep& step, Rows logits, Backend& backend) {
  backend_ = &backend;
  logits_ = logits;
  read_first_ = read_end_ = 0;
  shares_.clear();
  args_.clear();
  edits_.clear();
  edits_end_.clear();
  const auto& logit_rows = step.batch.logit_rows;
  only_samples_ = true;
  int64_t row = 0;
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    Sequence& sequence = *step.sequences[i];
    const Request& request = sequence.request();
    const SequenceRows& rows = step.batch.sequences[i];
    const int64_t first = row;
    row = std::lower_bound(logit_rows.begin() + first, logit_rows.end(), rows.first_row + rows.row_count) -
          logit_rows.begin();
    const bool samples =
        rows.context_length + rows.row_count == sequence.size() && !request.input().tensors.any();
    shares_.push_back({first, row - samples, samples ? static_cast<int64_t>(args_.size()) : -1});
    only_samples_ &= samples && row - first == 1;
    if (!samples) continue;
    args_.push_back(sample_args(request.input().params,
                                {.tokens = sequence.tokens,
                                 .prompt_size = request.input().prompt.size(),
                                 .choice = sequence.choice(),
                                 .vocab_size = logits.width},
                                sequence.rule(), sequence.history, edits_));
    args_.back().row = row - 1;
    edits_end_.push_back(edits_.size());
  }
  for (size_t i = 0, first = 0; i < args_.size(); first = edits_end_[i++])
    args_[i].edits = std::span(edits_).subspan(first, edits_end_[i] - first);
  if (sampled_.size() < args_.size()) sampled_.resize(args_.size());
  backend.sample(logits, args_, std::span(sampled_).first(args_.size()));
}

const SampledRow* StepSampler::token_of(size_t i) const {
  return shares_[i].sampled < 0 ? nullptr : &sampled_[static_cast<size_t>(shares_[i].sampled)];
}

// With the rows of the sequences behind it, up to one that is sampled: a copy's time is that of coming and going.
std::span<const float> StepSampler::rows_of(size_t i) {
  const Share& own = shares_[i];
  if (own.first == own.end) return {};
  if (own.first < read_first_ || own.end > read_end_) {
    read_first_ = own.first;
    read_end_ = own.end;
    for (size_t next = i + 1; next < shares_.size() && shares_[next].first == read_end_; ++next)
      read_end_ = shares_[next].end;
    read_ = backend_->host(logits_.part(read_first_, read_end_ - read_first_), copy_);
  }
  const auto width = static_cast<size_t>(logits_.width);
  return read_.subspan(static_cast<size_t>(own.first - read_first_) * width,
                       static_cast<size_t>(own.end - own.first) * width);
}

}  // namespace qwen
