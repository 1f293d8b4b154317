#include "engine/scheduler.h"

#include <algorithm>
#include <atomic>
#include <new>

#include "model/adapter.h"

namespace qwen {
namespace {

int64_t priority(const SequencePtr& sequence) {
  return sequence->request().input().priority;
}

// A row of logits for every row of a batch is a lot of memory: 0.6 MB each for a vocabulary of 150,000.
constexpr int64_t kMostLogitRows = 64;

// Of the sequence's tokens, the first one whose row of logits is wanted.
int64_t first_logits(const Sequence& sequence) {
  const WantedTensors& wanted = sequence.request().input().tensors;
  if (wanted.any()) return wanted.logits || wanted.mtp_logits ? wanted.first_row : sequence.size();
  return sequence.wants_prompt_logprobs() ? 0 : sequence.size() - 1;
}

// Of the next `rows` rows, how many give logits besides the one that is sampled.
int64_t more_logits(const Sequence& sequence, int64_t rows) {
  const int64_t end = std::min(sequence.computed + rows, sequence.size() - 1);
  return std::max<int64_t>(0, end - std::max(sequence.computed, first_logits(sequence)));
}

int64_t rows_wanted(const Sequence& sequence, int64_t rows_left, int64_t logits_left) {
  const int64_t rows = std::min(sequence.size() - sequence.computed, rows_left);
  if (more_logits(sequence, rows) <= logits_left) return rows;
  return std::max<int64_t>(0, first_logits(sequence) - sequence.computed) + logits_left;
}

// Further choices wait until the first one has computed the prompt: then it comes from the cache.
bool waits_for_first_choice(const Sequence& sequence) {
  const Sequence& first = *sequence.request().sequences[0];
  return sequence.choice() > 0 && first.generated().empty() && !first.is_finished();
}

}  // namespace

void ScheduledStep::clear() {
  batch.token_ids.clear();
  batch.positions.clear();
  batch.adapter_ids.clear();
  batch.sequences.clear();
  batch.logit_rows.clear();
  batch.ids_from.clear();
  sequences.clear();
  generate_rows = 0;
}

bool Scheduler::Before::operator()(const SequencePtr& a, const SequencePtr& b) const {
  const int64_t left = priority(a), right = priority(b);
  return left != right ? left > right : a->arrival < b->arrival;
}

Scheduler::Scheduler(std::span<const CacheGroupSpec> groups, CacheSizes sizes, SchedulerLimits limits)
    : cache_(groups, sizes, limits.prefix_cache), limits_(limits) {}

Scheduler::Line Scheduler::choices_of(const std::shared_ptr<Request>& request) {
  static std::atomic<uint64_t> arrivals{0};
  Line choices;
  for (const auto& sequence : request->sequences) {
    sequence->arrival = arrivals.fetch_add(1, std::memory_order_relaxed);
    choices.insert(SequencePtr(request, sequence.get()));
  }
  return choices;
}

void Scheduler::add(Line choices) noexcept {
  for (const SequencePtr& sequence : choices) waiting_requests_ += sequence->choice() == 0;
  waiting_.merge(choices);
}

void Scheduler::move(const SequencePtr& sequence, Line& from, Line& to) noexcept {
  if (sequence->choice() == 0) waiting_requests_ += (&to == &waiting_) - (&from == &waiting_);
  to.insert(from.extract(sequence));
}

void Scheduler::sweep() noexcept {
  const auto now = Clock::now();
  const auto end_if_wanted = [now](const SequencePtr& sequence) {
    Request& request = sequence->request();
    if (request.timed_out(now)) request.fail(Status::timeout, request.late());
    if (request.failed()) {
      sequence->finish(FinishReason::error);
    } else if (request.cancel_wanted()) {
      for (const auto& choice : request.sequences) choice->finish(FinishReason::cancelled);
      request.fail(Status::cancelled, "the request was cancelled");
    } else if (request.stop_wanted()) {
      sequence->finish(FinishReason::stop);
    }
  };
  std::for_each(waiting_.begin(), waiting_.end(), end_if_wanted);
  std::for_each(running_.begin(), running_.end(), end_if_wanted);
  drop_finished(waiting_);
  drop_finished(running_);
}

void Scheduler::drop_finished(Line& line) noexcept {
  for (auto next = line.begin(); next != line.end();) {
    const SequencePtr sequence = *next++;
    if (!sequence->is_finished()) continue;
    cache_.release(*sequence);
    move(sequence, line, ended_);
    ++finished_;
  }
}

ScheduledStep Scheduler::schedule(ScheduledStep step) {
  step.clear();
  plan_.shares.clear();
  generating_.clear();
  prompts_.clear();
  Plan& plan = plan_;
  plan.rows_left = limits_.max_batch_tokens;
  plan.logits_left = kMostLogitRows;
  SequencePtr lacking;  // the first one that lacks blocks: nobody whose turn is later may begin
  const auto go_on = [&](const SequencePtr& sequence) {
    if (!running_.contains(sequence)) return;  // preempted just now
    const int64_t rows = rows_wanted(*sequence, plan.rows_left, plan.logits_left);
    if (rows == 0) return;
    if (make_room(sequence, rows, false, plan)) {
      plan_rows(plan, sequence, rows);
    } else if (!lacking || Before()(sequence, lacking)) {
      lacking = sequence;
    }
  };
  for (const SequencePtr& sequence : running_)
    (sequence->size() - sequence->computed == 1 ? generating_ : prompts_).push_back(sequence);
  // Those that generate come first: one row each, so that a long prompt never holds up a running answer.
  for (const SequencePtr& sequence : generating_) go_on(sequence);
  // Then prompts, begun or not, as their turn is: what is urgent does not wait for somebody's long prompt to end.
  size_t prompt = 0;
  for (auto next = waiting_.begin(); plan.rows_left > 0;) {
    while (next != waiting_.end() && waits_for_first_choice(**next)) ++next;
    const bool may_begin = next != waiting_.end() && (!lacking || Before()(*next, lacking));
    if (may_begin && (prompt == prompts_.size() || Before()(*next, prompts_[prompt]))) {
      const SequencePtr sequence = *next++;
      if (!begin(sequence, plan)) lacking = sequence;
    } else if (prompt < prompts_.size()) {
      go_on(prompts_[prompt++]);
    } else {
      break;
    }
  }
  for (const Share& share : plan.shares) add_rows(step, share, share.sequence->computed, -1);
  // Nobody is kept alive from here.
  plan.shares.clear();
  generating_.clear();
  prompts_.clear();
  return step;
}

void Scheduler::plan_rows(Plan& plan, const SequencePtr& sequence, int64_t rows) const {
  plan.shares.push_back({sequence, rows});
  plan.rows_left -= rows;
  plan.logits_left -= more_logits(*sequence, rows);
}

// Blocks for the next `rows` rows of a running sequence. When the cache is full, whoever comes last gives its own back; who
// only begins takes them from lower priorities alone. false: even so there is no room.
bool Scheduler::make_room(const SequencePtr& sequence, int64_t rows, bool begins, Plan& plan) {
  while (!cache_.reserve(*sequence, sequence->computed + rows))
    if (!preempt_last(sequence, begins, plan)) return false;
  return true;
}

// Whoever comes last waits again, and is computed again later, to the same bits. false: it is no later than `sequence`, or,
// where that only begins, of the same priority.
bool Scheduler::preempt_last(const SequencePtr& sequence, bool begins, Plan& plan) {
  const SequencePtr last = *running_.rbegin();
  if (last == sequence || (begins && priority(last) == priority(sequence))) return false;
  const auto share = std::find_if(plan.shares.begin(), plan.shares.end(),
                                  [&](const Share& planned) { return planned.sequence == last; });
  if (share != plan.shares.end()) {
    plan.rows_left += share->rows;
    plan.logits_left += more_logits(*last, share->rows);
    plan.shares.erase(share);
  }
  cache_.release(*last);
  move(last, running_, waiting_);
  ++preempted_;
  return true;
}

// A waiting sequence gets a place among those that run, and cache blocks for as many rows as the plan allows; false: there is
// no room yet.
bool Scheduler::begin(const SequencePtr& sequence, Plan& plan) {
  move(sequence, waiting_, running_);
  const bool has_place = running() <= limits_.max_running || preempt_last(sequence, true, plan);
  if (has_place) adopt_prefix(*sequence);
  const int64_t cached = sequence->computed;
  const int64_t rows = rows_wanted(*sequence, plan.rows_left, plan.logits_left);
  if (!has_place || rows == 0 || !make_room(sequence, rows, true, plan)) {
    cache_.release(*sequence);
    move(sequence, running_, waiting_);
    return false;
  }
  plan_rows(plan, sequence, rows);
  // What was generated before a preemption is in `cached` too, but is no prompt.
  cached_tokens_ += std::min(cached, static_cast<int64_t>(sequence->request().input().prompt.size()));
  sequence->request().mark_started(cached);
  return true;
}

// At least one row is left to compute, and all rows that tensors are wanted of.
void Scheduler::adopt_prefix(Sequence& sequence) {
  const WantedTensors& wanted = sequence.request().input().tensors;
  // The MTP head's keys and values are written only where its logits are wanted.
  if (sequence.wants_prompt_logprobs() || wanted.mtp_logits) return;
  cache_.adopt_prefix(sequence, wanted.any() ? wanted.first_row : sequence.size() - 1);
}

// from: of a row that is not known yet, for Batch::ids_from.
void Scheduler::add_rows(ScheduledStep& step, const Share& share, int64_t computed, int32_t from) const {
  const SequencePtr& sequence = share.sequence;
  const auto& adapter = sequence->request().input().adapter;
  Batch& batch = step.batch;
  SequenceRows layout{.first_row = static_cast<int32_t>(batch.rows()),
                      .row_count = static_cast<int32_t>(share.rows),
                      .context_length = static_cast<int32_t>(computed),
                      .block_tables = sequence->block_tables,
                      .state_slot = sequence->state_slot,
                      .tokens = sequence->tokens};
  for (int64_t i = 0; i < share.rows; ++i) {
    const int64_t index = computed + i;
    const auto position = static_cast<int32_t>(index);
    if (index >= first_logits(*sequence)) batch.logit_rows.push_back(static_cast<int32_t>(batch.rows()));
    batch.token_ids.push_back(from < 0 ? sequence->tokens[static_cast<size_t>(index)] : 0);
    if (from >= 0) batch.ids_from.push_back(from);
    batch.positions.push_back({position, position, position});
    batch.adapter_ids.push_back(adapter ? adapter->id : 0);
  }
  batch.sequences.push_back(std::move(layout));
  step.generate_rows += from >= 0 || (sequence->size() - computed == 1 && !sequence->generated().empty());
  step.sequences.push_back(sequence);
}

bool Scheduler::others_may_begin() const {
  return !waiting_.empty() &&
         (running() < limits_.max_running || priority(*waiting_.begin()) > priority(*running_.rbegin()));
}

ScheduledStep Scheduler::schedule_ahead(const ScheduledStep& last, ScheduledStep step) {
  step.clear();
  if (others_may_begin()) return step;
  int64_t met = 0;  // of those that run
  for (size_t i = 0; i < last.sequences.size(); ++i) {
    const SequencePtr& sequence = last.sequences[i];
    if (sequence->is_finished()) continue;
    ++met;
    const bool ends =
        static_cast<int64_t>(sequence->generated().size()) + 1 >= sequence->request().max_tokens;
    if (ends && waiting_.empty()) continue;
    const int64_t computed = last.batch.sequences[i].context_length + last.batch.sequences[i].row_count;
    if (ends || !cache_.reserve(*sequence, computed + 1)) {  // its place is wanted, or there is none
      step.clear();
      return step;
    }
    add_rows(step, {sequence, 1}, computed, static_cast<int32_t>(i));
  }
  if (met < running()) step.clear();
  return step;
}

void Scheduler::commit(const ScheduledStep& step) {
  try {
    for (const auto& sequence : step.sequences) cache_.name(*sequence);
  } catch (const std::bad_alloc&) {
    // A name is only worth a computation: those that are missing come with the next step.
  }
  drop_finished(running_);
  for (const auto& sequence : step.sequences)
    if (!sequence->is_finished()) cache_.trim(*sequence);
}

void Scheduler::abandon(const ScheduledStep& step, const Error& failure) noexcept {
  const auto fail = [&](const SequencePtr& sequence) {
    sequence->request().fail(failure.status(), failure.message());
  };
  if (!step.empty()) {
    std::for_each(step.sequences.begin(), step.sequences.end(), fail);
  } else if (!running_.empty()) {
    std::for_each(running_.begin(), running_.end(), fail);
  } else if (!waiting_.empty()) {
    fail(*waiting_.begin());  // or it would be tried again and again
  }
}

void Scheduler::finish_all(Status status, std::string_view message) noexcept {
  for (Line* line : {&running_, &waiting_}) {
    for (const auto& sequence : *line) {
      sequence->request().fail(status, message);
      sequence->finish(FinishReason::error);
    }
    drop_finished(*line);
  }
}

}  // namespace qwen
