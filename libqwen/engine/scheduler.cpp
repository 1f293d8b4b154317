#include "engine/scheduler.h"

#include <algorithm>

namespace qwen {
namespace {

// Of the blocks before position `next`, the first one that a row at `next` sees: itself and window - 1 positions before it.
int64_t first_block_seen(const CacheGroupSpec& group, int64_t next) {
  return group.window == 0 ? 0 : std::max<int64_t>(0, next - group.window + 1) / kCacheBlock;
}

// Whose turn comes first.
bool before(const SequencePtr& a, const SequencePtr& b) {
  const int64_t left = a->request().input().priority, right = b->request().input().priority;
  return left != right ? left > right : a->arrival < b->arrival;
}

template <class List>
void insert(List& list, const SequencePtr& sequence) {
  list.insert(std::upper_bound(list.begin(), list.end(), sequence, before), sequence);
}

// A row of logits for every row of a batch is a lot of memory: 0.6 MB each for a vocabulary of 150,000.
constexpr int64_t kMostLogitRows = 64;

int64_t rows_wanted(const Sequence& sequence, int64_t budget) {
  const bool all_logits = sequence.wants_prompt_logprobs() || sequence.request().input().tensors.logits;
  return std::min({sequence.size() - sequence.computed, budget, all_logits ? kMostLogitRows : budget});
}

}  // namespace

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
  for (const auto& sequence : request->sequences) {
    sequence->arrival = arrivals_++;
    insert(waiting_, SequencePtr(request, sequence.get()));
  }
}

void Scheduler::sweep() {
  const auto end_if_wanted = [](Sequence& sequence) {
    Request& request = sequence.request();
    if (request.timed_out())
      request.fail(Status::timeout,
                   cat("the request has not ended within its timeout_ms of ", *request.input().timeout_ms));
    if (request.failed()) {
      sequence.finish(FinishReason::error);
    } else if (request.cancel_wanted()) {
      for (const auto& choice : request.sequences) choice->finish(FinishReason::cancelled);
      request.fail(Status::cancelled, "the request was cancelled");
    } else if (request.stop_wanted()) {
      sequence.finish(FinishReason::stop);
    }
  };
  for (const auto& sequence : waiting_) end_if_wanted(*sequence);
  for (const auto& sequence : running_) end_if_wanted(*sequence);
  drop_finished();
}

void Scheduler::drop_finished() {
  const auto finished = [this](const SequencePtr& sequence) {
    if (!sequence->is_finished()) return false;
    release(*sequence);
    ended_.push_back(sequence);
    ++finished_;
    return true;
  };
  std::erase_if(waiting_, finished);
  std::erase_if(running_, finished);
}

ScheduledStep Scheduler::schedule() {
  ScheduledStep step;
  int64_t budget = limits_.max_batch_tokens;
  // Those that generate come first: one row each, so that a long prompt never holds up a running answer.
  std::vector<SequencePtr> order(running_);
  std::stable_partition(order.begin(), order.end(), [](const SequencePtr& sequence) {
    return sequence->size() - sequence->computed == 1;
  });
  for (const auto& sequence : order) {
    const int64_t rows = rows_wanted(*sequence, budget);
    if (rows == 0) break;
    if (std::find(running_.begin(), running_.end(), sequence) == running_.end())
      continue;  // preempted just now
    if (!make_room(sequence, sequence->computed + rows, step)) continue;
    add_rows(step, sequence, rows);
    budget -= rows;
  }
  for (size_t i = 0; i < waiting_.size() && budget > 0 && running() < limits_.max_running;) {
    const SequencePtr sequence = waiting_[i];
    // Further choices wait until the first one has computed the prompt: then it comes from the cache.
    const Sequence& first = *sequence->request().sequences[0];
    if (sequence->choice() > 0 && first.generated().empty() && !first.is_finished()) {
      ++i;
      continue;
    }
    waiting_.erase(waiting_.begin() + static_cast<ptrdiff_t>(i));
    const int64_t rows = admit(sequence, budget, step);
    if (rows == 0) {
      insert(waiting_, sequence);
      break;
    }
    insert(running_, sequence);
    add_rows(step, sequence, rows);
    budget -= rows;
  }
  return step;
}

// Blocks for the first `positions` positions. When the cache is full, whoever comes last gives its own back and is computed
// again later, to the same bits; those that are in this step already keep theirs. false: even so there is no room.
bool Scheduler::make_room(const SequencePtr& sequence, int64_t positions, const ScheduledStep& step) {
  while (!reserve(*sequence, positions)) {
    if (running_.empty() || !before(sequence, running_.back())) return false;
    const SequencePtr victim = running_.back();
    if (std::find(step.sequences.begin(), step.sequences.end(), victim) != step.sequences.end()) return false;
    release(*victim);
    running_.pop_back();
    insert(waiting_, victim);
    ++preempted_;
  }
  return true;
}

// Cache blocks for as many rows of a waiting sequence as the budget allows; 0: there is no room yet.
int64_t Scheduler::admit(const SequencePtr& sequence, int64_t budget, const ScheduledStep& step) {
  adopt_prefix(*sequence);
  const int64_t cached = sequence->computed;
  const int64_t rows = rows_wanted(*sequence, budget);
  if (!make_room(sequence, cached + rows, step)) {
    release(*sequence);
    return 0;
  }
  cached_tokens_ += cached;
  sequence->request().mark_started(cached);
  return rows;
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
  sequence.block_tables.resize(groups_.size());
  for (size_t group = 0; group < groups_.size(); ++group) {
    auto& table = sequence.block_tables[group];
    table.assign(static_cast<size_t>(blocks), -1);
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

void Scheduler::add_rows(ScheduledStep& step, const SequencePtr& sequence, int64_t rows) const {
  Batch& batch = step.batch;
  SequenceRows layout{.first_row = static_cast<int32_t>(batch.rows()),
                      .row_count = static_cast<int32_t>(rows),
                      .context_length = static_cast<int32_t>(sequence->computed),
                      .block_tables = {sequence->block_tables.begin(), sequence->block_tables.end()}};
  const WantedTensors& wanted = sequence->request().input().tensors;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t index = sequence->computed + i;
    const auto position = static_cast<int32_t>(index);
    const bool last = index + 1 == sequence->size();
    if (wanted.any() ? wanted.logits && index >= wanted.first_row : last || sequence->wants_prompt_logprobs())
      batch.logit_rows.push_back(static_cast<int32_t>(batch.rows()));
    batch.token_ids.push_back(sequence->tokens[static_cast<size_t>(index)]);
    batch.positions.push_back({position, position, position});
    batch.adapter_ids.push_back(0);
  }
  batch.sequences.push_back(std::move(layout));
  step.sequences.push_back(sequence);
}

void Scheduler::commit(const ScheduledStep& step) {
  if (limits_.prefix_cache)
    for (const auto& sequence : step.sequences) name_full_blocks(*sequence);
  drop_finished();
  for (const auto& sequence : step.sequences)
    if (!sequence->is_finished()) free_behind_window(*sequence);
}

void Scheduler::finish_all(Status status, const std::string& message) {
  const auto finish = [&](const SequencePtr& sequence) {
    sequence->request().fail(status, message);
    sequence->finish(FinishReason::error);
  };
  std::for_each(running_.begin(), running_.end(), finish);
  std::for_each(waiting_.begin(), waiting_.end(), finish);
  drop_finished();
}

// Blocks for the first `positions` positions in every group, or none at all.
bool Scheduler::reserve(Sequence& sequence, int64_t positions) {
  const int64_t wanted = (positions + kCacheBlock - 1) / kCacheBlock;
  sequence.block_tables.resize(groups_.size());
  for (size_t group = 0; group < groups_.size(); ++group) {
    const auto have = static_cast<int64_t>(sequence.block_tables[group].size());
    if (wanted - have > pools_[group].available()) return false;
  }
  for (size_t group = 0; group < groups_.size(); ++group) {
    auto& table = sequence.block_tables[group];
    while (static_cast<int64_t>(table.size()) < wanted) table.push_back(pools_[group].take());
  }
  return true;
}

// The last blocks first: what is given back first is forgotten first, and a head is worth more than its tail.
void Scheduler::release(Sequence& sequence) {
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
