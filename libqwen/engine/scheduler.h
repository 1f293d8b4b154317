// Decides which sequences (a request has one per choice) compute how many of their tokens in a step, and gives them cache
// blocks, those of a prefix that was computed before among them. By priority, then first come, first served; running
// sequences generate one token per step, what is left of the token budget computes prompts in chunks.
// Used by the step thread only. Whatever throws (std::bad_alloc) leaves every sequence in its line and every block accounted
// for: memory is allocated before anything changes, and sequences change lines as set nodes, without allocation.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "engine/paged_cache.h"
#include "engine/request.h"

namespace qwen {

struct SchedulerLimits {
  int64_t max_batch_tokens = 512;
  int64_t max_running = 64;
  bool prefix_cache = true;
};

// Keeps its request alive.
using SequencePtr = std::shared_ptr<Sequence>;

// A step's batch and, parallel to batch.sequences, whose rows they are.
struct ScheduledStep {
  Batch batch;
  std::vector<SequencePtr> sequences;
  int64_t generate_rows = 0;  // rows of tokens that were generated the step before
  bool empty() const { return sequences.empty(); }
  void clear();  // keeps the memory of its lists
};

class Scheduler {
 public:
  // Whose turn comes first: by priority, then in order of arrival.
  struct Before {
    bool operator()(const SequencePtr& a, const SequencePtr& b) const;
  };
  using Line = std::set<SequencePtr, Before>;

  Scheduler(std::span<const CacheGroupSpec> groups, CacheSizes sizes, SchedulerLimits limits);

  // A request's sequences, in a line of their own, as the last that have arrived. Any thread: the host's has the memory for it,
  // so that the step thread needs none.
  static Line choices_of(const std::shared_ptr<Request>& request);
  void add(Line choices) noexcept;
  bool idle() const { return waiting_.empty() && running_.empty(); }
  int64_t running() const { return static_cast<int64_t>(running_.size()); }
  int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t waiting_requests() const { return waiting_requests_; }  // whose first choice waits
  int64_t finished() const { return finished_; }
  int64_t cached_tokens() const { return cached_tokens_; }  // prompt tokens that need not be computed, so far
  int64_t blocks_total() const { return cache_.blocks_total(); }
  int64_t blocks_used() const { return cache_.blocks_used(); }

  // Ends the sequences of requests that were cancelled, stopped or have failed, and of those whose time is up.
  void sweep() noexcept;
  // The next step: rows, positions, block tables, which rows want logits. The block tables are the sequences' own and end with
  // commit(). spare: a step that is over, whose memory is used again.
  ScheduledStep schedule(ScheduledStep spare = {});
  // The step behind `last`, which is not committed: it gives each of its sequences a token, and nobody knows which. A row for each
  // of those that go on whatever it is (Batch::ids_from: its number among last.sequences). Empty where others may have their turn or
  // the cache is full: then the next step is schedule()'s.
  ScheduledStep schedule_ahead(const ScheduledStep& last, ScheduledStep spare);
  // After the step: the scheduled rows are in the cache; full blocks get their names, finished sequences leave, blocks
  // behind a window are given back.
  void commit(const ScheduledStep& step);
  // The step could not be computed: its requests have failed, and end with the next sweep. When schedule() itself threw,
  // `step` is empty, and it is those that run, or
  // would have begun.
  void abandon(const ScheduledStep& step, const Error& failure) noexcept;
  // Ends every request with this status.
  void finish_all(Status status, std::string_view message) noexcept;
  // Since the last call: how often a sequence had to give its blocks back.
  int64_t take_preempted() { return std::exchange(preempted_, 0); }
  // Sequences that have ended and given their blocks back since the last call.
  Line take_ended() noexcept { return std::exchange(ended_, {}); }

 private:
  // What a step is going to compute; a sequence that is preempted drops out again.
  struct Share {
    SequencePtr sequence;
    int64_t rows;
  };
  struct Plan {
    std::vector<Share> shares;
    int64_t rows_left = 0;
    int64_t logits_left = 0;  // of sequences that want more rows of logits than the one that is sampled
  };
  void move(const SequencePtr& sequence, Line& from, Line& to) noexcept;
  void drop_finished(Line& line) noexcept;
  void plan_rows(Plan& plan, const SequencePtr& sequence, int64_t rows) const;
  bool make_room(const SequencePtr& sequence, int64_t rows, bool begins, Plan& plan);
  bool preempt_last(const SequencePtr& sequence, bool begins, Plan& plan);
  bool begin(const SequencePtr& sequence, Plan& plan);
  bool others_may_begin() const;
  void adopt_prefix(Sequence& sequence);
  void add_rows(ScheduledStep& step, const Share& share, int64_t computed, int32_t from) const;

  PagedCache cache_;
  SchedulerLimits limits_;
  int64_t finished_ = 0;  // sequences that have ended here
  int64_t cached_tokens_ = 0;
  int64_t preempted_ = 0;
  int64_t waiting_requests_ = 0;
  Line waiting_, running_, ended_;
  // Used inside schedule() only, kept so that a step allocates nothing.
  Plan plan_;
  std::vector<SequencePtr> generating_, prompts_;
};

}  // namespace qwen
