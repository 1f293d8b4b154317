#include "engine/scheduler.h"

#include <algorithm>

namespace qwen {

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

void Scheduler::sweep() {
  const auto end_if_wanted = [](Request& request) {
    if (request.cancel_wanted())
      request.finish(FinishReason::cancelled, Status::cancelled, "the request was cancelled");
    if (request.stop_wanted()) request.finish(FinishReason::stop);
  };
  for (const auto& request : waiting_) end_if_wanted(*request);
  for (const auto& request : running_) end_if_wanted(*request);
  drop_finished();
}

void Scheduler::drop_finished() {
  const auto finished = [this](const std::shared_ptr<Request>& request) {
    if (!request->is_finished()) return false;
    release(*request);
    ended_.push_back(request);
    ++finished_;
    return true;
  };
  std::erase_if(waiting_, finished);
  std::erase_if(running_, finished);
}

ScheduledStep Scheduler::schedule() {
  ScheduledStep step;
  int64_t budget = limits_.max_batch_tokens;
  // Requests that generate come first: one row each, so that a long prompt never holds up a running answer.
  std::vector<std::shared_ptr<Request>> order(running_);
  std::stable_partition(order.begin(), order.end(), [](const std::shared_ptr<Request>& request) {
    return static_cast<int64_t>(request->tokens.size()) - request->computed == 1;
  });
  for (const auto& request : order) {
    const auto left = static_cast<int64_t>(request->tokens.size()) - request->computed;
    const int64_t rows = std::min(left, budget);
    if (rows == 0) break;
    if (std::find(running_.begin(), running_.end(), request) == running_.end())
      continue;  // preempted just now
    // When the cache is full the latest arrival gives its blocks back and is computed again later, to the same bits.
    bool room = reserve(*request, request->computed + rows);
    while (!room && running_.back() != request) {
      const std::shared_ptr<Request> victim = running_.back();
      const bool scheduled =
          std::find(step.requests.begin(), step.requests.end(), victim) != step.requests.end();
      if (scheduled) break;  // its blocks are in this step already: wait for the next one
      release(*victim);
      running_.pop_back();
      waiting_.push_front(victim);
      room = reserve(*request, request->computed + rows);
    }
    if (!room) continue;
    add_rows(step, request, rows);
    budget -= rows;
  }
  while (budget > 0 && !waiting_.empty() && running() < limits_.max_running) {
    const std::shared_ptr<Request> request = waiting_.front();
    const int64_t rows = std::min(static_cast<int64_t>(request->tokens.size()), budget);
    if (!reserve(*request, rows)) break;
    waiting_.pop_front();
    running_.push_back(request);
    request->mark_started();
    add_rows(step, request, rows);
    budget -= rows;
  }
  return step;
}

void Scheduler::add_rows(ScheduledStep& step, const std::shared_ptr<Request>& request, int64_t rows) const {
  Batch& batch = step.batch;
  SequenceRows sequence{.first_row = static_cast<int32_t>(batch.rows()),
                        .row_count = static_cast<int32_t>(rows),
                        .context_length = static_cast<int32_t>(request->computed),
                        .block_tables = {request->block_tables.begin(), request->block_tables.end()}};
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t index = request->computed + i;
    const auto position = static_cast<int32_t>(index);
    const bool last = index + 1 == static_cast<int64_t>(request->tokens.size());
    const WantedTensors& wanted = request->input().tensors;
    if (wanted.any() ? wanted.logits && index >= wanted.first_row : last)
      batch.logit_rows.push_back(static_cast<int32_t>(batch.rows()));
    batch.token_ids.push_back(request->tokens[static_cast<size_t>(index)]);
    batch.positions.push_back({position, position, position});
    batch.adapter_ids.push_back(0);
  }
  batch.sequences.push_back(std::move(sequence));
  step.requests.push_back(request);
}

void Scheduler::commit(const ScheduledStep& step) {
  drop_finished();
  for (const auto& request : step.requests)
    if (!request->is_finished()) free_behind_window(*request);
}

void Scheduler::finish_all(Status status, const std::string& message) {
  for (const auto& request : running_) request->finish(FinishReason::error, status, message);
  for (const auto& request : waiting_) request->finish(FinishReason::error, status, message);
  drop_finished();
}

// Blocks for the first `positions` positions in every group, or none at all.
bool Scheduler::reserve(Request& request, int64_t positions) {
  const int64_t wanted = (positions + kCacheBlock - 1) / kCacheBlock;
  request.block_tables.resize(groups_.size());
  for (size_t group = 0; group < groups_.size(); ++group) {
    const auto have = static_cast<int64_t>(request.block_tables[group].size());
    if (wanted - have > pools_[group].available()) return false;
  }
  for (size_t group = 0; group < groups_.size(); ++group) {
    auto& table = request.block_tables[group];
    while (static_cast<int64_t>(table.size()) < wanted) table.push_back(pools_[group].take());
  }
  return true;
}

void Scheduler::release(Request& request) {
  for (size_t group = 0; group < request.block_tables.size(); ++group) {
    for (const int32_t block : request.block_tables[group])
      if (block >= 0) pools_[group].give_back(block);
  }
  request.block_tables.clear();
  request.computed = 0;
}

// The next row is position `computed` and sees the last `window` positions, itself included.
void Scheduler::free_behind_window(Request& request) {
  for (size_t group = 0; group < groups_.size(); ++group) {
    if (groups_[group].window == 0) continue;
    const int64_t first_seen = request.computed - groups_[group].window + 1;
    auto& table = request.block_tables[group];
    for (int64_t block = 0; (block + 1) * kCacheBlock <= first_seen; ++block) {
      int32_t& id = table[static_cast<size_t>(block)];
      if (id < 0) continue;
      pools_[group].give_back(id);
      id = -1;
    }
  }
}

}  // namespace qwen
