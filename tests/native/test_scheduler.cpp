#include <doctest/doctest.h>

#include <set>

#include "engine/scheduler.h"

using namespace qwen;

namespace {

std::shared_ptr<Request> request(int64_t prompt, int64_t max_tokens,
                                 const std::shared_ptr<EventQueue>& queue) {
  RequestInput input;
  input.prompt.assign(static_cast<size_t>(prompt), 7);
  input.queue = queue;
  auto made = std::make_shared<Request>(std::move(input), nullptr);
  made->max_tokens = max_tokens;
  return made;
}

// What the engine does after a step, without a model: every complete sequence generates token 1.
void run(Scheduler& scheduler, const ScheduledStep& step) {
  std::set<int32_t> blocks;  // no block belongs to two sequences of one group
  for (size_t i = 0; i < step.requests.size(); ++i) {
    Request& r = *step.requests[i];
    const SequenceRows& rows = step.batch.sequences[i];
    REQUIRE(rows.context_length == r.computed);
    for (const int32_t block : rows.block_tables[0]) CHECK((block < 0 || blocks.insert(block).second));
    REQUIRE(static_cast<int64_t>(rows.block_tables[0].size()) * kCacheBlock >= r.computed + rows.row_count);
    r.computed += rows.row_count;
    if (r.computed == static_cast<int64_t>(r.tokens.size())) r.append(1, 0);
  }
  scheduler.commit(step);
}

const std::vector<CacheGroupSpec> kOneGroup = {{.layers = 1, .kv_heads = 1, .head_dim = 16, .window = 0}};

}  // namespace

TEST_CASE("several requests run in one step, prompts in chunks of what the budget leaves") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, 100, {.max_batch_tokens = 16, .max_running = 8});
  const auto a = request(10, 3, queue), b = request(20, 3, queue);
  scheduler.add(a);
  scheduler.add(b);
  auto step = scheduler.schedule();
  REQUIRE(step.requests.size() == 2);
  CHECK(step.batch.sequences[0].row_count == 10);
  CHECK(step.batch.sequences[1].row_count == 6);
  CHECK(step.batch.logit_rows == std::vector<int32_t>{9});  // a's prompt is complete, b's is not
  run(scheduler, step);
  step = scheduler.schedule();
  CHECK(step.batch.sequences[0].row_count == 1);  // a generates, and never waits for b's prompt
  CHECK(step.batch.sequences[1].row_count == 14);
  CHECK(step.batch.logit_rows == std::vector<int32_t>{0, 14});
  run(scheduler, step);
  for (int i = 0; i < 5 && !scheduler.idle(); ++i) run(scheduler, scheduler.schedule());
  CHECK(scheduler.idle());
  CHECK(a->outcome().token_ids.size() == 3);
  CHECK(a->outcome().finish_reason == FinishReason::length);
  CHECK(scheduler.blocks_used() == 0);
  CHECK(scheduler.finished() == 2);
}

TEST_CASE("when the cache is full the latest request is preempted, computed again and still completes") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, 4, {.max_batch_tokens = 64, .max_running = 8});
  const auto a = request(30, 40, queue), b = request(30, 40, queue);  // 3 blocks each at the end, 4 in all
  scheduler.add(a);
  scheduler.add(b);
  bool preempted = false;
  for (int steps = 0; steps < 1000 && !scheduler.idle(); ++steps) {
    const int64_t before = b->computed;
    const auto step = scheduler.schedule();
    REQUIRE(!step.empty());
    preempted |= b->computed < before;
    run(scheduler, step);
  }
  CHECK(preempted);
  CHECK(a->outcome().token_ids.size() == 40);
  CHECK(b->outcome().token_ids.size() == 40);
  CHECK(scheduler.blocks_used() == 0);
}

TEST_CASE("blocks behind a sliding window go back to the pool") {
  const auto queue = std::make_shared<EventQueue>();
  const std::vector<CacheGroupSpec> groups = {{.layers = 1, .kv_heads = 1, .head_dim = 16, .window = 8}};
  Scheduler scheduler(groups, 10, {.max_batch_tokens = 512, .max_running = 8});
  scheduler.add(request(200, 20, queue));
  run(scheduler, scheduler.schedule());
  CHECK(scheduler.blocks_used() == 1);  // positions 192 … 199 of 200
  while (!scheduler.idle()) run(scheduler, scheduler.schedule());
  CHECK(scheduler.blocks_used() == 0);
}

TEST_CASE("a cancelled request ends before the next step, a stopped one keeps its tokens") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, 100, {});
  const auto cancelled = request(5, 100, queue), stopped = request(5, 100, queue);
  scheduler.add(cancelled);
  scheduler.add(stopped);
  run(scheduler, scheduler.schedule());
  cancelled->cancel();
  cancelled->cancel();
  stopped->stop();
  scheduler.sweep();
  CHECK(scheduler.idle());
  CHECK(cancelled->outcome().status == Status::cancelled);
  CHECK(stopped->outcome().status == Status::ok);
  CHECK(stopped->outcome().token_ids.size() == 1);
  CHECK(scheduler.blocks_used() == 0);
}

TEST_CASE("every request in flight ends with the engine") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, 100, {.max_batch_tokens = 8, .max_running = 1});
  const auto a = request(5, 100, queue), b = request(5, 100, queue);
  scheduler.add(a);
  scheduler.add(b);
  run(scheduler, scheduler.schedule());
  scheduler.finish_all(Status::closed, "the engine was destroyed");
  CHECK(a->outcome().status == Status::closed);
  CHECK(b->outcome().status == Status::closed);
  CHECK(scheduler.blocks_used() == 0);
}
