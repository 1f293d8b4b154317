#include "engine/scheduler.h"

#include <algorithm>
#include <new>

namespace qwen {
namespace {

// Of the blocks before position `next`, the first one that a row at `next` sees: itself and window - 1 positions before it.
int64_t first_block_seen(const CacheGroupSpec& group, int64_t next) {
  return group.window == 0 ? 0 : std::max<int64_t>(0, next - group.window + 1) / kCacheBlock;
}

int64_t priority(const SequencePtr& sequence) {
  return sequence->request().input().priority;
}

// A row of logits for every row of a batch is a lot of memory: 0.6 MB each for a vocabulary of 150,000.
constexpr int64_t kMostLogitRows = 64;

// Of the sequence's tokens, the first one whose row of logits is wanted.
int64_t first_logits(const Sequence& sequence) {
  const WantedTensors& wanted = sequence.request().input().tensors;
  if (wanted.any()) return wanted.logits ? wanted.first_row : sequence.size();
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

bool Scheduler::Before::operator()(const SequencePtr& a, const SequencePtr& b) const {
  const int64_t left = priority(a), right = priority(b);
  return left != right ? left > right : a->arrival < b->arrival;
}

Scheduler::Scheduler(std::span<const CacheGroupSpec> groups, int64_t blocks, SchedulerLimits limits)
    : groups_(groups.begin(), groups.end()), limits_(limits) {
  for (size_t group = 0; group < groups_.size(); ++group) pools_.emplace_back(blocks);
}

int64_t Scheduler::blocks_total() const {
  int64_t total = 0;
  for (const BlockPool& pool : pools_) total += pool.total();
  return total;
}

int64_t Scheduler::blocks_used() const {
  int64_t used = 0;
  for (const BlockPool& pool : pools_) used += pool.total() - pool.available();
  return used;
}

void Scheduler::add(const std::shared_ptr<Request>& request) {
  Line choices;
  for (const auto& sequence : request->sequences) {
    sequence->arrival = arrivals_++;
    choices.insert(SequencePtr(request, sequence.get()));
  }
  waiting_.merge(choices);
  ++waiting_requests_;
}

void Scheduler::move(const SequencePtr& sequence, Line& from, Line& to) noexcept {
  if (sequence->choice() == 0) waiting_requests_ += (&to == &waiting_) - (&from == &waiting_);
  to.insert(from.extract(sequence));
}

void Scheduler::sweep() {
  const auto now = Clock::now();
  const auto end_if_wanted = [now](const SequencePtr& sequence) {
    Request& request = sequence->request();
    if (request.timed_out(now))
      request.fail(Status::timeout,
                   cat("the request has not ended within its timeout_ms of ", *request.input().timeout_ms));
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
    release(*sequence);
    move(sequence, line, ended_);
    ++finished_;
  }
}

ScheduledStep Scheduler::schedule() {
  Plan plan{.shares = {}, .rows_left = limits_.max_batch_tokens, .logits_left = kMostLogitRows};
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
  std::vector<SequencePtr> generating, prompts;
  for (const SequencePtr& sequence : running_)
    (sequence->size() - sequence->computed == 1 ? generating : prompts).push_back(sequence);
  // Those that generate come first: one row each, so that a long prompt never holds up a running answer.
  for (const SequencePtr& sequence : generating) go_on(sequence);
  // Then prompts, begun or not, as their turn is: what is urgent does not wait for somebody's long prompt to end.
  size_t prompt = 0;
  for (auto next = waiting_.begin(); plan.rows_left > 0;) {
    while (next != waiting_.end() && waits_for_first_choice(**next)) ++next;
    const bool may_begin = next != waiting_.end() && (!lacking || Before()(*next, lacking));
    if (may_begin && (prompt == prompts.size() || Before()(*next, prompts[prompt]))) {
      const SequencePtr sequence = *next++;
      if (!begin(sequence, plan)) lacking = sequence;
    } else if (prompt < prompts.size()) {
      go_on(prompts[prompt++]);
    } else {
      break;
    }
  }
  ScheduledStep step;
  for (const Share& share : plan.shares) add_rows(step, share);
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
  while (!reserve(*sequence, sequence->computed + rows))
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
  release(*last);
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
    release(*sequence);
    move(sequence, running_, waiting_);
    return false;
  }
  plan_rows(plan, sequence, rows);
  // What was generated before a preemption is in `cached` too, but is no prompt.
  cached_tokens_ += std::min(cached, static_cast<int64_t>(sequence->request().input().prompt.size()));
  sequence->request().mark_started(cached);
  return true;
}

// Shares the blocks of the longest head that the cache still holds and that leaves a row to compute, and goes on in the
// block that an ended sequence left unfinished behind it.
void Scheduler::adopt_prefix(Sequence& sequence) {
  if (!limits_.prefix_cache) return;
  const WantedTensors& wanted = sequence.request().input().tensors;
  if (sequence.wants_prompt_logprobs()) return;
  const int64_t most = wanted.any() ? wanted.first_row : sequence.size() - 1;
  int64_t blocks = most / kCacheBlock;
  std::vector<std::vector<int32_t>> found(groups_.size());  // [group][block]
  std::vector<std::vector<int64_t>> run(groups_.size());    // how many in a row have been found up to here
  for (size_t group = 0; group < groups_.size(); ++group) {
    for (int64_t block = 0; block < blocks; ++block) {
      const int32_t id = pools_[group].find(sequence.key(block));
      if (id < 0 && groups_[group].window == 0) blocks = block;
      found[group].push_back(id);
      run[group].push_back(id < 0 ? 0 : (block > 0 ? run[group].back() : 0) + 1);
    }
  }
  const auto complete = [&](int64_t count) {
    for (size_t group = 0; group < groups_.size(); ++group) {
      const int64_t needed = count - first_block_seen(groups_[group], count * kCacheBlock);
      if (run[group][static_cast<size_t>(count - 1)] < needed) return false;
    }
    return true;
  };
  while (blocks > 0 && !complete(blocks)) --blocks;
  std::vector<std::vector<int32_t>> tables(groups_.size());
  for (auto& table : tables) {
    table.reserve(static_cast<size_t>(blocks) + 1);
    table.assign(static_cast<size_t>(blocks), -1);
  }
  sequence.block_tables = std::move(tables);  // nothing below allocates
  for (size_t group = 0; group < groups_.size(); ++group) {
    auto& table = sequence.block_tables[group];
    for (int64_t block = first_block_seen(groups_[group], blocks * kCacheBlock); block < blocks; ++block) {
      const int32_t id = found[group][static_cast<size_t>(block)];
      pools_[group].share(id);
      table[static_cast<size_t>(block)] = id;
    }
  }
  sequence.computed = blocks * kCacheBlock;
  sequence.named_blocks = blocks;
  for (int64_t rows = std::min(most - sequence.computed, kCacheBlock - 1); rows > 0; --rows) {
    const BlockKey key = sequence.key_of_part(rows);
    if (!std::all_of(pools_.begin(), pools_.end(),
                     [&](const BlockPool& pool) { return pool.find(key) >= 0; }))
      continue;
    for (size_t group = 0; group < groups_.size(); ++group) {
      const int32_t id = pools_[group].find(key);
      pools_[group].take_over(id);
      sequence.block_tables[group].push_back(id);
    }
    sequence.computed += rows;
    return;
  }
}

void Scheduler::add_rows(ScheduledStep& step, const Share& share) const {
  const SequencePtr& sequence = share.sequence;
  Batch& batch = step.batch;
  SequenceRows layout{.first_row = static_cast<int32_t>(batch.rows()),
                      .row_count = static_cast<int32_t>(share.rows),
                      .context_length = static_cast<int32_t>(sequence->computed),
                      .block_tables = {sequence->block_tables.begin(), sequence->block_tables.end()}};
  for (int64_t i = 0; i < share.rows; ++i) {
    const int64_t index = sequence->computed + i;
    const auto position = static_cast<int32_t>(index);
    if (index >= first_logits(*sequence)) batch.logit_rows.push_back(static_cast<int32_t>(batch.rows()));
    batch.token_ids.push_back(sequence->tokens[static_cast<size_t>(index)]);
    batch.positions.push_back({position, position, position});
    batch.adapter_ids.push_back(0);
  }
  batch.sequences.push_back(std::move(layout));
  step.sequences.push_back(sequence);
}

void Scheduler::commit(const ScheduledStep& step) {
  try {
    if (limits_.prefix_cache)
      for (const auto& sequence : step.sequences) name_full_blocks(*sequence);
  } catch (const std::bad_alloc&) {
    // A name is only worth a computation: those that are missing come with the next step.
  }
  drop_finished(running_);
  for (const auto& sequence : step.sequences)
    if (!sequence->is_finished()) free_behind_window(*sequence);
}

void Scheduler::abandon(const ScheduledStep& step, const Error& failure) noexcept {
  const auto fail = [&](const SequencePtr& sequence) {
    sequence->request().fail(failure.status(), failure.message());
  };
  if (step.empty()) {
    std::for_each(running_.begin(), running_.end(), fail);
  } else {
    std::for_each(step.sequences.begin(), step.sequences.end(), fail);
  }
}

void Scheduler::finish_all(Status status, const std::string& message) {
  for (Line* line : {&running_, &waiting_}) {
    for (const auto& sequence : *line) {
      sequence->request().fail(status, message);
      sequence->finish(FinishReason::error);
    }
    drop_finished(*line);
  }
}

// Blocks for the first `positions` positions in every group, or none at all.
bool Scheduler::reserve(Sequence& sequence, int64_t positions) {
  const int64_t wanted = (positions + kCacheBlock - 1) / kCacheBlock;
  sequence.block_tables.resize(groups_.size());
  for (size_t group = 0; group < groups_.size(); ++group) {
    const auto have = static_cast<int64_t>(sequence.block_tables[group].size());
    if (wanted - have > pools_[group].available()) return false;
  }
  for (auto& table : sequence.block_tables) table.reserve(static_cast<size_t>(wanted));
  for (size_t group = 0; group < groups_.size(); ++group) {
    auto& table = sequence.block_tables[group];
    while (static_cast<int64_t>(table.size()) < wanted) table.push_back(pools_[group].take());
  }
  return true;
}

// The last blocks first: what is given back first is forgotten first, and a head is worth more than its tail.
void Scheduler::release(Sequence& sequence) noexcept {
  const int64_t part = sequence.computed - sequence.named_blocks * kCacheBlock;
  if (limits_.prefix_cache && part > 0 && part < kCacheBlock) {
    const BlockKey key = sequence.key_of_part(part);
    for (size_t group = 0; group < groups_.size(); ++group)
      pools_[group].name(sequence.block_tables[group][static_cast<size_t>(sequence.named_blocks)], key);
  }
  for (size_t group = 0; group < sequence.block_tables.size(); ++group) {
    const auto& table = sequence.block_tables[group];
    for (auto block = table.rbegin(); block != table.rend(); ++block)
      if (*block >= 0) pools_[group].give_back(*block);
  }
  sequence.block_tables.clear();
  sequence.computed = 0;
  sequence.named_blocks = 0;
}

void Scheduler::name_full_blocks(Sequence& sequence) {
  for (; (sequence.named_blocks + 1) * kCacheBlock <= sequence.computed; ++sequence.named_blocks) {
    const BlockKey& key = sequence.key(sequence.named_blocks);
    for (size_t group = 0; group < groups_.size(); ++group) {
      const int32_t id = sequence.block_tables[group][static_cast<size_t>(sequence.named_blocks)];
      if (id >= 0) pools_[group].name(id, key);
    }
  }
}

void Scheduler::free_behind_window(Sequence& sequence) {
  for (size_t group = 0; group < groups_.size(); ++group) {
    auto& table = sequence.block_tables[group];
    for (int64_t block = first_block_seen(groups_[group], sequence.computed); block-- > 0;) {
      int32_t& id = table[static_cast<size_t>(block)];
      if (id < 0) break;  // so are all before it
      pools_[group].give_back(id);
      id = -1;
    }
  }
}

}  // namespace qwen
