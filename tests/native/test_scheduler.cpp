#include <doctest/doctest.h>

#include <map>
#include <random>
#include <set>

#include "engine/scheduler.h"

using namespace qwen;

namespace {

// A prompt of its own: `first`, first + 1, …; equal ones share blocks.
std::shared_ptr<Request> request(int64_t prompt, int64_t max_tokens, const std::shared_ptr<EventQueue>& queue,
                                 int32_t first = -1, int64_t n = 1, RequestInput input = {}) {
  static int32_t fresh = 0;
  if (first < 0) first = fresh += 100000;
  for (int64_t i = 0; i < prompt; ++i) input.prompt.push_back(first + static_cast<int32_t>(i));
  input.params.n = n;
  input.queue = queue;
  auto made = std::make_shared<Request>(std::move(input), nullptr);
  made->max_tokens = max_tokens;
  return made;
}

// What the engine does after a step, without a model: every complete sequence generates token 1.
void run(Scheduler& scheduler, const ScheduledStep& step) {
  std::map<int32_t, const Sequence*> writers;  // no block is written by two sequences of one group
  std::set<int32_t> slots;                     // nor a slot
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    Sequence& s = *step.sequences[i];
    const SequenceRows& rows = step.batch.sequences[i];
    REQUIRE(rows.context_length == s.computed);
    if (s.state_slot >= 0) CHECK(slots.insert(s.state_slot).second);
    for (size_t block = 0; block < rows.block_tables[0].size(); ++block) {
      const int32_t id = rows.block_tables[0][block];
      const bool written = (static_cast<int64_t>(block) + 1) * kCacheBlock > s.computed;
      if (id >= 0 && written) CHECK(writers.emplace(id, &s).second);
    }
    REQUIRE(static_cast<int64_t>(rows.block_tables[0].size()) * kCacheBlock >= s.computed + rows.row_count);
    s.computed += rows.row_count;
    if (s.computed < s.size()) continue;
    if (s.request().input().tensors.any()) {
      s.finish(FinishReason::stop);
    } else {
      s.append({.id = 1, .logprob = 0, .top = {}});
    }
  }
  scheduler.commit(step);
}

// Until nothing is left to do. Returns how many rows were computed.
int64_t run_all(Scheduler& scheduler) {
  int64_t rows = 0;
  for (int steps = 0; steps < 20000 && !scheduler.idle(); ++steps) {
    const auto step = scheduler.schedule();
    REQUIRE(!step.empty());
    rows += step.batch.rows();
    run(scheduler, step);
  }
  REQUIRE(scheduler.idle());
  return rows;
}

// A group of recurrent states beside one of keys and values.
std::vector<CacheGroupSpec> hybrid_groups() {
  std::vector<CacheGroupSpec> groups(2);
  groups[0] = {.layers = 1, .kv_heads = 1, .head_dim = 16, .window = 0};
  groups[1].layers = 3;
  groups[1].gated_delta = GatedDeltaShape{1, 1, 16, 16, 4};
  return groups;
}

const std::vector<CacheGroupSpec> kOneGroup = {{.layers = 1, .kv_heads = 1, .head_dim = 16, .window = 0}};

}  // namespace

TEST_CASE("several requests run in one step, prompts in chunks of what the budget leaves") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 100}, {.max_batch_tokens = 16, .max_running = 8});
  const auto a = request(10, 3, queue), b = request(20, 3, queue);
  scheduler.add(Scheduler::choices_of(a));
  scheduler.add(Scheduler::choices_of(b));
  auto step = scheduler.schedule();
  REQUIRE(step.sequences.size() == 2);
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
  CHECK(a->outcome().choices[0].token_ids.size() == 3);
  CHECK(a->outcome().choices[0].finish_reason == FinishReason::length);
  CHECK(scheduler.blocks_used() == 0);
  CHECK(scheduler.finished() == 2);
}

TEST_CASE("when the cache is full the latest request is preempted, computed again and still completes") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 4}, {.max_batch_tokens = 64, .max_running = 8});
  const auto a = request(30, 40, queue), b = request(30, 40, queue);  // 3 blocks each at the end, 4 in all
  scheduler.add(Scheduler::choices_of(a));
  scheduler.add(Scheduler::choices_of(b));
  bool preempted = false;
  for (int steps = 0; steps < 1000 && !scheduler.idle(); ++steps) {
    const int64_t before = b->sequences[0]->computed;
    const auto step = scheduler.schedule();
    REQUIRE(!step.empty());
    preempted |= b->sequences[0]->computed < before;
    run(scheduler, step);
  }
  CHECK(preempted);
  CHECK(a->outcome().choices[0].token_ids.size() == 40);
  CHECK(b->outcome().choices[0].token_ids.size() == 40);
  CHECK(scheduler.blocks_used() == 0);
}

TEST_CASE("blocks behind a sliding window go back to the pool") {
  const auto queue = std::make_shared<EventQueue>();
  const std::vector<CacheGroupSpec> groups = {{.layers = 1, .kv_heads = 1, .head_dim = 16, .window = 8}};
  Scheduler scheduler(groups, {.blocks = 10}, {.max_batch_tokens = 512, .max_running = 8});
  scheduler.add(Scheduler::choices_of(request(200, 20, queue)));
  run(scheduler, scheduler.schedule());
  CHECK(scheduler.blocks_used() == 1);  // positions 192 … 199 of 200
  while (!scheduler.idle()) run(scheduler, scheduler.schedule());
  CHECK(scheduler.blocks_used() == 0);
}

TEST_CASE("a cancelled request ends before the next step, a stopped one keeps its tokens") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 100}, {});
  const auto cancelled = request(5, 100, queue), stopped = request(5, 100, queue);
  scheduler.add(Scheduler::choices_of(cancelled));
  scheduler.add(Scheduler::choices_of(stopped));
  run(scheduler, scheduler.schedule());
  cancelled->cancel();
  cancelled->cancel();
  stopped->stop();
  scheduler.sweep();
  CHECK(scheduler.idle());
  CHECK(cancelled->outcome().status == Status::cancelled);
  CHECK(stopped->outcome().status == Status::ok);
  CHECK(stopped->outcome().choices[0].token_ids.size() == 1);
  CHECK(scheduler.blocks_used() == 0);
}

TEST_CASE("every request in flight ends with the engine") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 100}, {.max_batch_tokens = 8, .max_running = 1});
  const auto a = request(5, 100, queue), b = request(5, 100, queue);
  scheduler.add(Scheduler::choices_of(a));
  scheduler.add(Scheduler::choices_of(b));
  run(scheduler, scheduler.schedule());
  scheduler.finish_all(Status::closed, "the engine was destroyed");
  CHECK(a->outcome().status == Status::closed);
  CHECK(b->outcome().status == Status::closed);
  CHECK(scheduler.blocks_used() == 0);
}

TEST_CASE("a prompt that begins like an earlier one takes those full blocks from the cache") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 20}, {});
  scheduler.add(Scheduler::choices_of(request(100, 1, queue, 5)));
  CHECK(run_all(scheduler) == 100);
  const auto same = request(100, 1, queue, 5), longer = request(150, 1, queue, 5);
  scheduler.add(Scheduler::choices_of(same));
  CHECK(run_all(scheduler) == 4);  // 96 = 3 blocks; the fourth holds a row too much
  CHECK(same->outcome().stats.cached_tokens == 96);
  scheduler.add(Scheduler::choices_of(longer));
  CHECK(run_all(scheduler) == 50);  // the fourth block too: 100 rows
  CHECK(scheduler.cached_tokens() == 196);
  const auto other = request(100, 1, queue, 6);
  scheduler.add(Scheduler::choices_of(other));
  CHECK(run_all(scheduler) == 100);
  CHECK(other->outcome().stats.cached_tokens == 0);
  CHECK(scheduler.blocks_used() == 0);
}

TEST_CASE("at least the last row of a prompt is computed, for its logits") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 20}, {});
  scheduler.add(Scheduler::choices_of(request(64, 1, queue, 5)));
  scheduler.add(Scheduler::choices_of(request(64, 1, queue, 5)));
  CHECK(run_all(scheduler) == 128);  // both at once: nothing was there yet
  scheduler.add(Scheduler::choices_of(request(64, 1, queue, 5)));
  CHECK(run_all(scheduler) == 32);
}

TEST_CASE("what was generated is found again too, and the oldest blocks make room first") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 4}, {});
  const auto first = request(40, 40, queue, 5);
  scheduler.add(Scheduler::choices_of(first));
  run_all(scheduler);  // 79 rows are in the cache: 2 full blocks and a part
  RequestInput input;
  input.prompt = first->sequences[0]->tokens;
  input.queue = queue;
  auto next = std::make_shared<Request>(std::move(input), nullptr);
  next->max_tokens = 1;
  scheduler.add(Scheduler::choices_of(next));
  CHECK(run_all(scheduler) == 1);                                // 80 - 79
  scheduler.add(Scheduler::choices_of(request(128, 1, queue)));  // all four blocks
  run_all(scheduler);
  const auto again = request(40, 1, queue, 5);
  scheduler.add(Scheduler::choices_of(again));
  CHECK(run_all(scheduler) == 40);
}

TEST_CASE("an unfinished block has one owner at a time") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 20}, {});
  scheduler.add(Scheduler::choices_of(request(40, 1, queue, 5)));
  CHECK(run_all(scheduler) == 40);
  for (int i = 0; i < 2; ++i) scheduler.add(Scheduler::choices_of(request(60, 1, queue, 5)));
  CHECK(run_all(scheduler) == 20 + 28);  // the second one shares the full block only
  CHECK(scheduler.blocks_used() == 0);
}

TEST_CASE("random requests on a small cache all complete, and every block comes back") {
  const auto queue = std::make_shared<EventQueue>();
  CacheGroupSpec windowed = kOneGroup[0];
  windowed.window = 50;
  std::mt19937 random(7);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint32_t>(n)); };
  for (int round = 0; round < 20; ++round) {
    Scheduler scheduler(std::vector{kOneGroup[0], windowed}, {.blocks = 24},
                        {.max_batch_tokens = 1 + below(100), .max_running = 6});
    std::vector<std::shared_ptr<Request>> requests;
    for (int i = 0; i < 30; ++i) {
      requests.push_back(
          request(1 + below(300), 1 + below(60), queue, static_cast<int32_t>(below(3)), 1 + below(3)));
      scheduler.add(Scheduler::choices_of(requests.back()));
      for (int64_t steps = below(10); steps > 0 && !scheduler.idle(); --steps) {
        if (below(20) == 0) requests[static_cast<size_t>(below(i + 1))]->cancel();
        scheduler.sweep();
        run(scheduler, scheduler.schedule());
      }
    }
    run_all(scheduler);
    CHECK(scheduler.blocks_used() == 0);
    for (const auto& r : requests) {
      if (r->cancel_wanted()) continue;
      for (const auto& choice : r->outcome().choices)
        CHECK(static_cast<int64_t>(choice.token_ids.size()) == r->max_tokens);
    }
  }
}

TEST_CASE("without the prefix cache everything is computed") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 20}, {.prefix_cache = false});
  for (int i = 0; i < 2; ++i) {
    scheduler.add(Scheduler::choices_of(request(100, 1, queue, 5)));
    CHECK(run_all(scheduler) == 100);
  }
}

TEST_CASE("with a sliding window only the blocks that the next row sees are shared") {
  const auto queue = std::make_shared<EventQueue>();
  const CacheGroupSpec full = kOneGroup[0];
  CacheGroupSpec windowed = full;
  windowed.window = 40;
  for (const auto& groups :
       {std::vector{windowed}, std::vector{windowed, full}, std::vector{full, windowed}}) {
    Scheduler scheduler(groups, {.blocks = 40}, {});
    scheduler.add(Scheduler::choices_of(request(200, 1, queue, 5)));
    CHECK(run_all(scheduler) == 200);
    scheduler.add(Scheduler::choices_of(request(250, 1, queue, 5)));
    CHECK(run_all(scheduler) == 250 - 200);
    CHECK(scheduler.blocks_used() == 0);
  }
}

TEST_CASE(
    "states are found again at multiples of 64: the last one before the prompt's end, and every 256 "
    "positions") {
  const auto queue = std::make_shared<EventQueue>();
  const auto computed_after = [&](int64_t first, int64_t second, int64_t states) {
    Scheduler scheduler(hybrid_groups(), {.blocks = 100, .states = states}, {});
    scheduler.add(Scheduler::choices_of(request(first, 1, queue, 5)));
    CHECK(run_all(scheduler) == first);
    scheduler.add(Scheduler::choices_of(request(second, 1, queue, 5)));
    const int64_t rows = run_all(scheduler);
    CHECK(scheduler.blocks_used() == 0);
    return rows;
  };
  CHECK(computed_after(200, 250, 8) == 250 - 192);
  CHECK(computed_after(63, 250, 8) == 250);  // no state was reached
  CHECK(computed_after(64, 250, 8) == 250 - 64);
  CHECK(computed_after(200, 190, 8) == 190);        // all that is kept lies behind it
  CHECK(computed_after(600, 300, 8) == 300 - 256);  // passed on the way
  CHECK(computed_after(600, 600, 8) == 600 - 576);
  CHECK(computed_after(600, 300, 2) == 300);  // no room for those on the way
  CHECK(computed_after(600, 650, 2) == 650 - 576);
}

TEST_CASE("an answer's last state is kept for what follows it") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(hybrid_groups(), {.blocks = 100, .states = 8}, {});
  RequestInput following;
  const auto first = request(10, 140, queue, 5);
  scheduler.add(Scheduler::choices_of(first));
  run_all(scheduler);
  for (int32_t i = 0; i < 10; ++i) following.prompt.push_back(5 + i);
  for (int i = 0; i < 140; ++i) following.prompt.push_back(1);
  scheduler.add(Scheduler::choices_of(request(0, 1, queue, 0, 1, following)));
  CHECK(run_all(scheduler) == 150 - 128);
}

TEST_CASE("random requests on few states all complete, and every state comes back") {
  const auto queue = std::make_shared<EventQueue>();
  std::mt19937 random(9);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint32_t>(n)); };
  for (int round = 0; round < 20; ++round) {
    const int64_t states = 2 + below(8);
    Scheduler scheduler(
        hybrid_groups(), {.blocks = 24, .states = states},
        {.max_batch_tokens = 1 + below(200), .max_running = std::max<int64_t>(1, states / 2)});
    std::vector<std::shared_ptr<Request>> requests;
    for (int i = 0; i < 30; ++i) {
      requests.push_back(
          request(1 + below(500), 1 + below(100), queue, static_cast<int32_t>(below(3)), 1 + below(3)));
      scheduler.add(Scheduler::choices_of(requests.back()));
      for (int64_t steps = below(10); steps > 0 && !scheduler.idle(); --steps) {
        if (below(20) == 0) requests[static_cast<size_t>(below(i + 1))]->cancel();
        scheduler.sweep();
        run(scheduler, scheduler.schedule());
      }
    }
    run_all(scheduler);
    CHECK(scheduler.blocks_used() == 0);
    for (const auto& r : requests) {
      if (r->cancel_wanted()) continue;
      for (const auto& choice : r->outcome().choices)
        CHECK(static_cast<int64_t>(choice.token_ids.size()) == r->max_tokens);
    }
  }
}

TEST_CASE("the choices of a request share its prompt") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 40}, {});
  const auto r = request(100, 5, queue, -1, 3);
  scheduler.add(Scheduler::choices_of(r));
  CHECK(run_all(scheduler) == 100 + 4 + 2 * (4 + 4));
  for (const auto& choice : r->outcome().choices) CHECK(choice.token_ids.size() == 5);
  CHECK(r->outcome().stats.generated_tokens == 15);
}

TEST_CASE("cancelling a request ends all its choices, those that have not begun too") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 40}, {.max_batch_tokens = 10, .max_running = 8});
  const auto r = request(100, 5, queue, -1, 3);
  scheduler.add(Scheduler::choices_of(r));
  run(scheduler, scheduler.schedule());
  CHECK(scheduler.running() == 1);
  CHECK(scheduler.waiting() == 2);
  r->cancel();
  scheduler.sweep();
  CHECK(scheduler.idle());
  CHECK(scheduler.finished() == 3);
  CHECK(r->outcome().status == Status::cancelled);
  for (const auto& choice : r->outcome().choices) CHECK(choice.finish_reason == FinishReason::cancelled);
}

namespace {

RequestInput urgent() {
  RequestInput input;
  input.priority = 5;
  return input;
}

int64_t rows_of(const ScheduledStep& step, const std::shared_ptr<Request>& request) {
  int64_t rows = 0;
  for (size_t i = 0; i < step.sequences.size(); ++i)
    if (&step.sequences[i]->request() == request.get()) rows += step.batch.sequences[i].row_count;
  return rows;
}

}  // namespace

TEST_CASE("an urgent prompt does not wait for the end of somebody's long one") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 100}, {.max_batch_tokens = 32, .max_running = 8});
  const auto usual = request(1000, 1, queue), first = request(40, 1, queue, -1, 1, urgent());
  scheduler.add(Scheduler::choices_of(usual));
  run(scheduler, scheduler.schedule());
  scheduler.add(Scheduler::choices_of(first));
  auto step = scheduler.schedule();
  CHECK(rows_of(step, first) == 32);
  CHECK(rows_of(step, usual) == 0);
  run(scheduler, step);
  step = scheduler.schedule();
  CHECK(rows_of(step, first) == 8);
  CHECK(rows_of(step, usual) == 24);
  run(scheduler, step);
  CHECK(first->outcome().choices[0].token_ids.size() == 1);
  run_all(scheduler);
}

TEST_CASE("an urgent request takes its blocks from those that generate, an equal one waits") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 4}, {.max_batch_tokens = 128, .max_running = 8});
  const auto a = request(60, 60, queue), b = request(60, 60, queue);
  scheduler.add(Scheduler::choices_of(a));
  scheduler.add(Scheduler::choices_of(b));
  run(scheduler, scheduler.schedule());  // two blocks each: the cache is full
  scheduler.add(Scheduler::choices_of(request(60, 1, queue)));
  CHECK(scheduler.schedule().sequences.size() == 2);
  CHECK(scheduler.take_preempted() == 0);
  const auto first = request(60, 1, queue, -1, 1, urgent());
  scheduler.add(Scheduler::choices_of(first));
  const auto step = scheduler.schedule();
  CHECK(scheduler.take_preempted() == 1);
  CHECK(rows_of(step, a) == 1);
  CHECK(rows_of(step, b) == 0);  // had its row in this step already
  CHECK(rows_of(step, first) == 60);
  run(scheduler, step);
  CHECK(first->outcome().choices[0].token_ids.size() == 1);
  run_all(scheduler);
  CHECK(a->outcome().choices[0].token_ids.size() == 60);
  CHECK(b->outcome().choices[0].token_ids.size() == 60);
  CHECK(scheduler.blocks_used() == 0);
}

TEST_CASE("who lacks blocks is not overtaken by those behind it") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 4}, {.max_batch_tokens = 64, .max_running = 8});
  const auto a = request(32, 60, queue), b = request(100, 1, queue), c = request(10, 1, queue);
  scheduler.add(Scheduler::choices_of(a));
  run(scheduler, scheduler.schedule());
  scheduler.add(Scheduler::choices_of(b));
  scheduler.add(Scheduler::choices_of(c));
  for (int i = 0; i < 40; ++i) {
    const auto step = scheduler.schedule();
    CHECK(rows_of(step, a) == 1);
    CHECK(rows_of(step, c) == 0);  // a block is free for it, but b waits for that one too
    run(scheduler, step);
  }
  run_all(scheduler);
  CHECK(b->outcome().choices[0].token_ids.size() == 1);
}

TEST_CASE("an urgent request does not wait behind one of those that lack blocks") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 4}, {.max_batch_tokens = 128, .max_running = 8});
  const auto a = request(62, 30, queue), b = request(63, 30, queue);
  scheduler.add(Scheduler::choices_of(a));
  scheduler.add(Scheduler::choices_of(b));
  for (int i = 0; i < 2; ++i) run(scheduler, scheduler.schedule());
  CHECK(scheduler.take_preempted() == 0);
  const auto first = request(20, 1, queue, -1, 1, urgent());
  scheduler.add(Scheduler::choices_of(first));
  const auto step = scheduler.schedule();  // b needs its third block now, and there is none
  CHECK(rows_of(step, a) == 1);
  CHECK(rows_of(step, first) == 20);
  run(scheduler, step);
  run_all(scheduler);
}

TEST_CASE("an urgent request takes the place of one that runs, an equal one waits for it") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 40}, {.max_batch_tokens = 128, .max_running = 2});
  const auto a = request(20, 10, queue), b = request(20, 10, queue), c = request(20, 10, queue),
             first = request(20, 10, queue, -1, 1, urgent());
  for (const auto& r : {a, b, c}) scheduler.add(Scheduler::choices_of(r));
  run(scheduler, scheduler.schedule());
  auto step = scheduler.schedule();
  CHECK(rows_of(step, c) == 0);
  run(scheduler, step);
  scheduler.add(Scheduler::choices_of(first));
  step = scheduler.schedule();
  CHECK(rows_of(step, first) == 20);
  CHECK(rows_of(step, a) == 1);
  CHECK(rows_of(step, b) == 0);
  CHECK(scheduler.running() == 2);
  run(scheduler, step);
  CHECK(run_all(scheduler) == 7 + 9 + 8 + 29);  // b goes on where it was: its rows are in the cache still
  CHECK(scheduler.blocks_used() == 0);
}

TEST_CASE("rows whose logits nobody wants are computed by the full budget, those with logits by few") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 400}, {.max_batch_tokens = 512, .max_running = 8});
  RequestInput tail;
  tail.tensors = {.logits = true, .hidden_states = false, .first_row = 1000};
  const auto forward = request(1100, 0, queue, -1, 1, tail);
  scheduler.add(Scheduler::choices_of(forward));
  std::vector<int64_t> rows, logits;
  while (!scheduler.idle()) {
    const auto step = scheduler.schedule();
    rows.push_back(step.batch.rows());
    logits.push_back(static_cast<int64_t>(step.batch.logit_rows.size()));
    run(scheduler, step);
  }
  CHECK(rows == std::vector<int64_t>{512, 512, 64, 12});  // 1000 + 24, then 64 + 12 with logits
  CHECK(logits == std::vector<int64_t>{0, 24, 64, 12});
}

TEST_CASE("all requests of a step together have few rows of logits") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 400}, {.max_batch_tokens = 512, .max_running = 8});
  RequestInput input;
  input.params.prompt_logprobs = true;
  for (int i = 0; i < 4; ++i) scheduler.add(Scheduler::choices_of(request(100, 3, queue, -1, 1, input)));
  while (!scheduler.idle()) {
    const auto step = scheduler.schedule();
    REQUIRE(!step.empty());
    CHECK(step.batch.logit_rows.size() <= 64 + 4);
    run(scheduler, step);
  }
}

TEST_CASE("what a preempted request finds again of its answer is not counted as prompt") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 6}, {.max_batch_tokens = 64, .max_running = 8});
  const auto a = request(33, 90, queue), b = request(33, 90, queue);
  scheduler.add(Scheduler::choices_of(a));
  scheduler.add(Scheduler::choices_of(b));
  int64_t preempted = 0;
  while (!scheduler.idle()) {
    run(scheduler, scheduler.schedule());
    preempted += scheduler.take_preempted();
  }
  CHECK(preempted > 0);
  CHECK(scheduler.cached_tokens() <= 33 * preempted);
}

TEST_CASE("the further choices go on when the first one fails, is preempted, or ends at once") {
  const auto queue = std::make_shared<EventQueue>();
  SUBCASE("fails") {
    Scheduler scheduler(kOneGroup, {.blocks = 40}, {.max_batch_tokens = 10, .max_running = 8});
    const auto r = request(100, 5, queue, -1, 3);
    scheduler.add(Scheduler::choices_of(r));
    const auto step = scheduler.schedule();
    scheduler.abandon(step, Error(Status::internal, "a defect"));
    scheduler.sweep();
    CHECK(scheduler.idle());
    CHECK(scheduler.take_ended().size() == 3);
    CHECK(r->outcome().status == Status::internal);
    CHECK(scheduler.blocks_used() == 0);
  }
  SUBCASE("is preempted in its prompt") {
    Scheduler scheduler(kOneGroup, {.blocks = 6}, {.max_batch_tokens = 40, .max_running = 8});
    const auto other = request(60, 60, queue), r = request(120, 3, queue, -1, 3);
    scheduler.add(Scheduler::choices_of(other));
    scheduler.add(Scheduler::choices_of(r));
    run_all(scheduler);
    for (const auto& choice : r->outcome().choices) CHECK(choice.token_ids.size() == 3);
  }
  SUBCASE("ends with its first token") {
    Scheduler scheduler(kOneGroup, {.blocks = 40}, {.max_batch_tokens = 40, .max_running = 1});
    const auto r = request(100, 1, queue, -1, 3);
    scheduler.add(Scheduler::choices_of(r));
    run_all(scheduler);
    CHECK(scheduler.finished() == 3);
    for (const auto& choice : r->outcome().choices) CHECK(choice.token_ids.size() == 1);
  }
}

TEST_CASE("requests that wait are counted as requests, not as choices") {
  const auto queue = std::make_shared<EventQueue>();
  Scheduler scheduler(kOneGroup, {.blocks = 40}, {.max_batch_tokens = 40, .max_running = 1});
  scheduler.add(Scheduler::choices_of(request(10, 20, queue, -1, 8)));
  scheduler.add(Scheduler::choices_of(request(10, 20, queue, -1, 8)));
  CHECK(scheduler.waiting_requests() == 2);
  run(scheduler, scheduler.schedule());
  CHECK(scheduler.waiting() == 15);
  CHECK(scheduler.waiting_requests() == 1);
  run_all(scheduler);
  CHECK(scheduler.waiting_requests() == 0);
}
