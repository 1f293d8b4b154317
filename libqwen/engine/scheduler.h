// Decides which requests compute how many of their tokens in a step, and gives them cache blocks. First come,
// first served; running requests generate one token per step, what is left of the token budget computes
// prompts in chunks. Used by the step thread only.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "engine/block_pool.h"
#include "engine/request.h"

namespace qwen {

struct SchedulerLimits {
  int64_t max_batch_tokens = 512;
  int64_t max_running = 64;
};

// A step's batch and, parallel to batch.sequences, whose rows they are.
struct ScheduledStep {
  Batch batch;
  std::vector<std::shared_ptr<Request>> requests;
  bool empty() const { return requests.empty(); }
};

class Scheduler {
 public:
  // blocks: per cache group.
  Scheduler(std::span<const CacheGroupSpec> groups, int64_t blocks, SchedulerLimits limits);

  void add(std::shared_ptr<Request> request) { waiting_.push_back(std::move(request)); }
  bool idle() const { return waiting_.empty() && running_.empty(); }
  int64_t running() const { return static_cast<int64_t>(running_.size()); }
  int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t finished() const { return finished_; }
  int64_t blocks_total() const;
  int64_t blocks_used() const;

  // Ends requests that were cancelled or stopped.
  void sweep();
  // The next step: rows, positions, block tables, which rows want logits.
  ScheduledStep schedule();
  // After the step: the scheduled rows are in the cache; finished requests leave, blocks behind a window are
  // freed.
  void commit(const ScheduledStep& step);
  // Ends every request with this status.
  void finish_all(Status status, const std::string& message);
  // Requests that have ended and given their blocks back since the last call.
  std::vector<std::shared_ptr<Request>> take_ended() { return std::exchange(ended_, {}); }

 private:
  void drop_finished();
  bool reserve(Request& request, int64_t positions);
  void release(Request& request);
  void free_behind_window(Request& request);
  void add_rows(ScheduledStep& step, const std::shared_ptr<Request>& request, int64_t rows) const;

  std::vector<CacheGroupSpec> groups_;
  std::vector<BlockPool> pools_;  // [cache group]
  SchedulerLimits limits_;
  int64_t finished_ = 0;  // requests that have ended here
  std::vector<std::shared_ptr<Request>> ended_;
  std::deque<std::shared_ptr<Request>> waiting_;
  std::vector<std::shared_ptr<Request>> running_;  // in order of arrival
};

}  // namespace qwen
