// What an engine promises to many callers at once, counted step by step: requests share steps and weights are read once for
// all of them, a long prompt makes nobody who generates miss a step, what one caller does wrong is nobody else's trouble, and
// engines that share a model do not notice each other.
#include <doctest/doctest.h>

#include <time.h>

#include <chrono>
#include <condition_variable>
#include <future>
#include <limits>
#include <map>
#include <mutex>
#include <thread>

#include "engine/engine.h"

using namespace qwen;

namespace {

std::shared_ptr<const LoadedModel> open_test_model(const char* name = "qwen3_yarn") {
  return open_model(std::string(QWEN_TEST_DATA) + "/../parity/data/" + name, Options());
}

Options options(int64_t max_batch_tokens, bool prefix_cache = true) {
  Options made;
  made.set("threads", int64_t{2});
  made.set("max_batch_tokens", max_batch_tokens);
  made.set("prefix_cache", int64_t{prefix_cache});
  return made;
}

RequestInput input(int64_t prompt, int64_t max_tokens, const std::shared_ptr<EventQueue>& queue,
                   int32_t first = 1) {
  RequestInput made;
  for (int64_t i = 0; i < prompt; ++i) made.prompt.push_back((first + 7 * static_cast<int32_t>(i)) % 450);
  made.params.max_tokens = max_tokens;
  made.params.temperature = 0;
  made.params.logprobs = true;
  made.queue = queue;
  return made;
}

// An engine that stops after its first step until it is let go: what is submitted meanwhile begins together.
class HeldEngine {
 public:
  HeldEngine(const std::shared_ptr<const LoadedModel>& loaded, const Options& options)
      : engine(loaded, options, [this](const StepTrace& step) { after(step); }) {
    holder_ = engine.make_request(input(1, 1, queue));
    engine.submit(holder_);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return held_; });
  }
  ~HeldEngine() { let_go(); }

  std::shared_ptr<Request> submit(RequestInput given) {
    auto request = engine.make_request(std::move(given));
    engine.submit(request);
    return request;
  }
  void let_go() {
    const std::lock_guard lock(mutex_);
    free_ = true;
    changed_.notify_all();
  }
  // Every step after the first one, when all requests have ended.
  std::vector<StepTrace> steps() {
    let_go();
    engine.drain(-1);
    const std::lock_guard lock(mutex_);
    return steps_;
  }
  int64_t linears() const {
    int64_t calls = 0;
    for (const KernelCount& count : engine.kernel_counts())
      if (std::string_view(count.name).starts_with("linear.")) calls += count.calls;
    return calls;
  }

  std::shared_ptr<EventQueue> queue = std::make_shared<EventQueue>();

 private:
  void after(const StepTrace& step) {
    std::unique_lock lock(mutex_);
    if (held_) steps_.push_back(step);
    held_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return free_; });
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false, free_ = false;
  std::vector<StepTrace> steps_;
  std::shared_ptr<Request> holder_;

 public:
  Engine engine;  // last: its step thread uses what stands above
};

struct Counts {
  size_t steps = 0;
  int64_t linears = 0;
};

Counts count(const std::shared_ptr<const LoadedModel>& loaded, int requests, int64_t prompt,
             int64_t max_tokens, int64_t max_batch_tokens) {
  HeldEngine held(loaded, options(max_batch_tokens, false));
  std::vector<std::shared_ptr<Request>> alive;
  const int64_t before = held.linears();
  for (int i = 0; i < requests; ++i) alive.push_back(held.submit(input(prompt, max_tokens, held.queue)));
  const auto steps = held.steps();
  for (const auto& request : alive) {
    CHECK(request->outcome().choices[0].token_ids.size() == static_cast<size_t>(max_tokens));
    CHECK(request->outcome().choices[0].token_ids == alive[0]->outcome().choices[0].token_ids);
  }
  return {steps.size(), held.linears() - before};
}

bool same(const RequestOutcome& a, const RequestOutcome& b) {
  return a.status == Status::ok && b.status == Status::ok &&
         a.choices[0].token_ids == b.choices[0].token_ids && a.choices[0].logprobs == b.choices[0].logprobs;
}

}  // namespace

TEST_CASE("sixteen requests take no more steps than one, and read each weight as often") {
  const auto loaded = open_test_model();
  const Counts one = count(loaded, 1, 8, 20, 512), sixteen = count(loaded, 16, 8, 20, 512);
  CHECK(one.steps == 20);
  CHECK(sixteen.steps == 20);
  CHECK(one.linears % 20 == 0);
  CHECK(sixteen.linears == one.linears);
}

TEST_CASE("sixteen prompts that fill several steps add just those to the steps of one") {
  const auto loaded = open_test_model();
  // 16 x 40 rows of prompts and one row a step for each that generates: 64, 62, 61, … of the budget are left for prompts.
  const Counts one = count(loaded, 1, 40, 20, 64), sixteen = count(loaded, 16, 40, 20, 64);
  CHECK(one.steps == 20);
  size_t chunks = 0;
  for (int64_t rows = 0; rows < 16 * 40; ++chunks) rows += 64 - std::min<int64_t>(rows / 40, 16);
  CHECK(sixteen.steps == chunks + 19);  // the last one's first token comes with its last chunk
  CHECK(sixteen.steps <= one.steps + (15 * 40 + 47) / 48);
}

TEST_CASE("a long prompt makes nobody who generates miss a step, and no step is larger than the budget") {
  const auto loaded = open_test_model();
  constexpr int64_t kBudget = 48;
  HeldEngine held(loaded, options(kBudget, false));
  std::vector<std::shared_ptr<Request>> streams;
  for (int i = 0; i < 8; ++i) streams.push_back(held.submit(input(3, 60, held.queue, 10 * i)));
  const auto prompt = held.submit(input(900, 1, held.queue));
  const auto steps = held.steps();
  REQUIRE(steps.size() >= 60);
  int64_t left = 900;  // of the prompt
  for (size_t i = 0; i < steps.size(); ++i) {
    CAPTURE(i);
    const int64_t streams_rows = i == 0 ? 8 * 3 : i < 60 ? 8 : 0;  // all eight, in every step until they end
    const int64_t rows = std::min(left, kBudget - streams_rows);   // and the prompt gets all the rest
    CHECK(steps[i].generate_rows == (i == 0 ? 0 : streams_rows));
    CHECK(steps[i].prompt_rows == (i == 0 ? streams_rows : 0) + rows);
    left -= rows;
  }
  CHECK(left == 0);
  CHECK(prompt->outcome().status == Status::ok);
  CHECK(prompt->outcome().choices[0].token_ids.size() == 1);
}

TEST_CASE("a request that cannot be computed is refused or ends alone, its neighbours keep their bits") {
  const auto loaded = open_test_model();
  std::vector<RequestOutcome> alone;
  for (int i = 0; i < 6; ++i) {
    HeldEngine held(loaded, options(512));
    const auto request = held.submit(input(20 + 5 * i, 40, held.queue, i));
    held.steps();
    alone.push_back(request->outcome());
  }
  Options small = options(64);
  const auto backend = create_cpu_backend(resolve_cpu_options(small));
  int64_t block = 0;
  for (const auto& group : loaded->model->cache_groups())
    block += static_cast<int64_t>(backend->cache_block_bytes(group));
  small.set("kv_cache_bytes", block * 12);  // 384 tokens; the model's context is 1,024
  HeldEngine held(loaded, small);
  std::vector<std::shared_ptr<Request>> good;
  const auto submit_good = [&] {
    const int i = static_cast<int>(good.size());
    good.push_back(held.submit(input(20 + 5 * i, 40, held.queue, i)));
  };
  const auto refused = [&](RequestInput bad, Status status) {
    try {
      held.submit(std::move(bad));
      FAIL("was not refused");
    } catch (const Error& error) {
      CHECK(error.status() == status);
    }
  };
  submit_good();
  refused(input(0, 5, held.queue), Status::invalid_argument);
  submit_good();
  refused(input(1000, 30, held.queue), Status::invalid_argument);  // over the context
  refused(input(380, 5, held.queue), Status::invalid_argument);    // over the cache
  submit_good();
  RequestInput foreign = input(5, 5, held.queue);
  foreign.prompt[3] = 100000;
  refused(std::move(foreign), Status::invalid_argument);
  RequestInput late = input(5, 300, held.queue);
  late.timeout_ms = 0;
  const auto late_request = held.submit(std::move(late));
  submit_good();
  const auto cancelled = held.submit(input(300, 80, held.queue));
  cancelled->cancel();
  cancelled->stop();
  cancelled->cancel();
  submit_good();
  RequestInput never = input(30, 30, held.queue);
  never.params.logit_bias = {{3, -std::numeric_limits<float>::infinity()}};
  const auto never_request = held.submit(std::move(never));
  submit_good();
  held.steps();
  for (size_t i = 0; i < good.size(); ++i) CHECK(same(good[i]->outcome(), alone[i]));
  CHECK(late_request->outcome().status == Status::timeout);
  CHECK(late_request->outcome().choices[0].token_ids.empty());
  CHECK(cancelled->outcome().status == Status::cancelled);
  CHECK(held.engine.stats().cache_blocks_used == 0);
}

TEST_CASE("every choice's FINISHED comes once and before its request's DONE, whatever ends it") {
  const auto loaded = open_test_model();
  HeldEngine held(loaded, options(64));
  std::map<const Request*, int64_t> finished, done;
  std::vector<std::shared_ptr<Request>> requests;
  for (int i = 0; i < 12; ++i) {
    RequestInput given = input(10 + i, 30, held.queue, i);
    given.params.n = 3;
    if (i % 4 == 3) given.timeout_ms = 1;
    requests.push_back(held.submit(std::move(given)));
  }
  held.let_go();
  requests[0]->cancel();
  requests[1]->stop();
  held.steps();
  for (const Event& event : held.queue->pop_all(0)) {
    if (event.type == EventType::finished) {
      CHECK(done[event.request.get()] == 0);
      ++finished[event.request.get()];
    }
    done[event.request.get()] += event.type == EventType::done;
  }
  for (const auto& request : requests) {
    CHECK(finished[request.get()] == 3);
    CHECK(done[request.get()] == 1);
  }
  const EngineStats stats = held.engine.stats();
  CHECK(stats.finished == 12 * 3 + 1);
  CHECK(stats.running + stats.waiting + stats.cache_blocks_used == 0);
  int64_t generated = 1;  // the one that held the engine
  for (const auto& request : requests) generated += request->outcome().stats.generated_tokens;
  CHECK(stats.generated_tokens == generated);
}

TEST_CASE("every token of a prompt is computed or comes from the cache") {
  const auto loaded = open_test_model();
  HeldEngine held(loaded, options(64));
  int64_t tokens = 1;
  for (int i = 0; i < 10; ++i) {
    RequestInput given = input(100 + 10 * (i % 3), 4, held.queue);
    given.params.n = 1 + i % 3;
    tokens += static_cast<int64_t>(given.prompt.size()) * given.params.n;
    held.submit(std::move(given));
  }
  held.steps();
  const EngineStats stats = held.engine.stats();
  CHECK(stats.cached_tokens > 0);
  CHECK(stats.prompt_tokens + stats.cached_tokens == tokens);
}

TEST_CASE("engines on one model give the same bits, and one goes while the others run") {
  const auto loaded = open_test_model();
  auto first = std::make_unique<HeldEngine>(loaded, options(512));
  HeldEngine second(loaded, options(64)), third(open_test_model("qwen2_sliding"), options(512));
  const auto a = first->submit(input(50, 300, first->queue)), b = second.submit(input(50, 300, second.queue)),
             c = third.submit(input(50, 300, third.queue));
  second.let_go();
  third.let_go();
  first->let_go();
  while (first->queue->pop(-1)->request != a) continue;
  first.reset();
  second.steps();
  third.steps();
  CHECK(b->outcome().status == Status::ok);
  CHECK(c->outcome().status == Status::ok);
  CHECK(b->outcome().choices[0].token_ids != c->outcome().choices[0].token_ids);
  const auto expected = b->outcome().choices[0].token_ids;
  const auto partial = a->outcome().choices[0].token_ids;  // all of it, where the first was quick
  REQUIRE(!partial.empty());
  CHECK(std::equal(partial.begin(), partial.end(), expected.begin()));
  CHECK((a->outcome().status == Status::closed || partial.size() == 300));
}

TEST_CASE("a drain ends when the last event is out, and destroying an engine ends the drain") {
  const auto loaded = open_test_model();
  for (int i = 0; i < 50; ++i) {
    HeldEngine held(loaded, options(512));
    held.submit(input(3, 2, held.queue));
    held.let_go();
    held.engine.drain(-1);
    size_t done = 0;
    for (const Event& event : held.queue->pop_all(0)) done += event.type == EventType::done;
    REQUIRE(done == 2);
  }
  auto held = std::make_unique<HeldEngine>(loaded, options(512));
  const auto request = held->submit(input(3, 1000, held->queue));
  auto drained = std::async(std::launch::async, [&engine = held->engine] { engine.drain(-1); });
  held->let_go();
  while (drained.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready) {
    try {
      held->engine.drain(0);
    } catch (const Error& error) {
      CHECK(error.status() == Status::timeout);
      held.reset();
      break;
    }
  }
  drained.get();
  CHECK((request->outcome().status == Status::closed || request->outcome().status == Status::ok));
}

TEST_CASE("an idle engine takes no CPU") {
  Engine engine(open_test_model(), options(64));
  const auto queue = std::make_shared<EventQueue>();
  const auto request = engine.make_request(input(20, 5, queue));
  engine.submit(request);
  while (queue->pop(-1)->type != EventType::done) continue;
  std::this_thread::sleep_for(
      std::chrono::milliseconds(50));  // a thread that waits looks about for a millisecond first
  const auto cpu_seconds = [] {
    timespec used{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec);
  };
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  CHECK(cpu_seconds() - before < 0.05);
}
