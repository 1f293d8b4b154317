// CudaBackend's sampling: what the host knows of each row goes there in two arrays, and what it gets back are tokens.
#include <algorithm>
#include <cstring>

#include "backend/cuda/cuda_backend.h"
#include "base/error.h"

namespace qwen::cuda {
namespace {

// Pieces of one allocation, one behind the other; without one, how large it has to be.
class Carver {
 public:
  explicit Carver(const std::byte* memory) : begin_(reinterpret_cast<uintptr_t>(memory)) {}
  template <class T>
  T* take(int64_t count) {
    const uintptr_t piece = begin_ + used_;
    constexpr size_t kAlignment = 16;
    used_ += (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(piece);
  }
  size_t used() const { return used_; }

 private:
  uintptr_t begin_;
  size_t used_ = 0;
};

// The answers of all rows; log-probabilities of further tokens come last, so that they need not be read.
struct Answers {
  int32_t* ids;
  SampleOutcome* outcomes;
  float* logprobs;
  size_t bytes_without_top;
  int32_t* top_ids;
  float* top_logprobs;
  size_t bytes;
  Answers(const std::byte* memory, int64_t count) {
    Carver carver(memory);
    ids = carver.take<int32_t>(count);
    outcomes = carver.take<SampleOutcome>(count);
    logprobs = carver.take<float>(count);
    bytes_without_top = carver.used();
    top_ids = carver.take<int32_t>(count * kMostTopLogprobs);
    top_logprobs = carver.take<float>(count * kMostTopLogprobs);
    bytes = carver.used();
  }
};

}  // namespace

void CudaBackend::sample(Rows logits, std::span<const SampleArgs> args, std::span<SampledRow> out) {
  const int64_t vocab_size = logits.width;
  if (vocab_size > kMostVocabulary)
    fail(Status::unsupported, "a vocabulary of ", vocab_size, " tokens; on a GPU at most ", kMostVocabulary);
  to_sample_.clear();
  all_edits_.clear();
  for (const SampleArgs& each : args) {
    to_sample_.push_back({.row = each.row,
                          .first_edit = static_cast<int32_t>(all_edits_.size()),
                          .edits = static_cast<int32_t>(each.edits.size()),
                          .forced = each.forced.value_or(-1),
                          .top_k = each.top_k < vocab_size ? static_cast<int32_t>(each.top_k) : 0,
                          .top_logprobs = static_cast<int32_t>(std::min(each.top_logprobs, vocab_size)),
                          .logprobs = each.logprobs,
                          .temperature = each.temperature,
                          .top_p = each.top_p,
                          .min_p = each.min_p,
                          .u = each.u});
    all_edits_.insert(all_edits_.end(), each.edits.begin(), each.edits.end());
  }
  const auto count = static_cast<int64_t>(args.size());
  sampled_ids_ = nullptr;
  sampled_rows_ = out;
  const Answers answers(static_cast<const std::byte*>(sampled_.get(
                            device_, *stream_, Answers(nullptr, count).bytes, "the tokens of a step")),
                        count);
  sampled_ids_ = answers.ids;
  const SampleRow* const rows = put(sample_rows_, std::span<const SampleRow>(to_sample_));
  const LogitEdit* const edits = put(edits_, std::span<const LogitEdit>(all_edits_));

  // So many rows at a time as share the scratch memory.
  constexpr int64_t kAtOnce = 256;
  bool any_top_logprobs = false;
  for (int64_t first = 0; first < count; first += kAtOnce) {
    counted(Op::sample, Element::f32);
    const auto some =
        std::span<const SampleRow>(to_sample_)
            .subspan(static_cast<size_t>(first), static_cast<size_t>(std::min(kAtOnce, count - first)));
    SampleKernelArgs launch{.logits = static_cast<float*>(logits.data),
                            .vocab_size = vocab_size,
                            .rows = rows + first,
                            .count = static_cast<int64_t>(some.size()),
                            .edits = edits,
                            .scratch = {},
                            .ids = answers.ids + first,
                            .outcomes = answers.outcomes + first,
                            .logprobs = answers.logprobs + first,
                            .top_ids = answers.top_ids + first * kMostTopLogprobs,
                            .top_logprobs = answers.top_logprobs + first * kMostTopLogprobs};
    for (const SampleRow& row : some) {
      const bool drawn = row.forced < 0 && row.temperature > 0;
      launch.any_drawn |= drawn;
      launch.any_listed |= drawn && (row.top_k > 0 || row.top_p < 1);
      launch.any_top_logprobs |= row.top_logprobs > 0;
    }
    any_top_logprobs |= launch.any_top_logprobs;
    const int64_t lists = (launch.any_top_logprobs ? 2 : launch.any_listed ? 1 : 0) * launch.count;
    size_t zeros = 0;
    const auto carve = [&](std::byte* memory) {
      Carver carver(memory);
      launch.scratch.histogram = carver.take<unsigned long long>(lists * kSampleBins);
      launch.scratch.listed = carver.take<uint32_t>(lists);
      zeros = carver.used();
      launch.scratch.lists = carver.take<int32_t>(lists * kSampleListed);
      launch.scratch.pieces = carver.take<SamplePiece>(launch.count * sample_pieces(vocab_size));
      launch.scratch.originals = carver.take<float>(static_cast<int64_t>(all_edits_.size()));
      return carver.used();
    };
    carve(static_cast<std::byte*>(sampling_.get(device_, *stream_, carve(nullptr), "sampling")));
    if (zeros > 0) stream_->fill_zero(launch.scratch.histogram, zeros);
    cuda::sample(*stream_, launch);
  }

  const size_t bytes = any_top_logprobs ? answers.bytes : count > 0 ? answers.bytes_without_top : 0;
  if (bytes > answers_.size()) {
    stream_->free(answers_);
    answers_ = device_.allocate_pinned(bytes + bytes / 2, "reading tokens");
  }
  if (bytes > 0) stream_->to_host(answers_.data(), answers.ids, bytes);
  if (!answered_) answered_ = device_.create_event();
  stream_->record(*answered_);  // of a step without results too: what it failed of is its own error
}

void CudaBackend::finish_sampling() {
  stream_->synchronize(*answered_);
  const auto count = static_cast<int64_t>(sampled_rows_.size());
  const Answers read(answers_.data(), count);
  for (int64_t i = 0; i < count; ++i) {
    SampledRow& to = sampled_rows_[static_cast<size_t>(i)];
    to.outcome = read.outcomes[i];
    to.id = read.ids[i];
    to.logprob = read.logprobs[i];
    to.top.clear();
    for (int64_t t = 0; t < to_sample_[static_cast<size_t>(i)].top_logprobs; ++t)
      to.top.push_back({read.top_ids[i * kMostTopLogprobs + t], read.top_logprobs[i * kMostTopLogprobs + t]});
  }
}

}  // namespace qwen::cuda
