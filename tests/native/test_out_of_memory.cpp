// Memory can end at any moment of a step. One allocation of the step thread after the other is made to fail: requests may
// end with QWEN_ERR_OUT_OF_MEMORY, but each of them ends, no block is lost, those that end well have the bits they always
// have, and the engine goes on.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>

#include "engine/engine.h"
#include "engine/request_stream.h"

using namespace qwen;

namespace {

thread_local int64_t allocations_left = 0;          // of this thread, before some fail
thread_local int64_t failures_left = 0;             // so many do then
thread_local std::size_t largest_block = SIZE_MAX;  // more than this there never is
std::atomic<bool> has_failed = false;

void* allocate(std::size_t size) {
  if (size > largest_block) return nullptr;
  if (failures_left > 0 && --allocations_left < 0) {
    --failures_left;
    has_failed = true;
    return nullptr;
  }
  return std::malloc(size > 0 ? size : 1);
}

}  // namespace

// For the whole program: what the step thread does is behind the engine's doors.
void* operator new(std::size_t size) {
  if (void* memory = allocate(size)) return memory;
  throw std::bad_alloc();
}
void* operator new[](std::size_t size) {
  return operator new(size);
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return allocate(size);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return allocate(size);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, const std::nothrow_t&) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, const std::nothrow_t&) noexcept {
  std::free(memory);
}

namespace {

RequestInput input(int32_t first, int64_t prompt, int64_t n, const std::shared_ptr<EventQueue>& queue) {
  RequestInput made;
  for (int64_t i = 0; i < prompt; ++i) made.prompt.push_back((first + static_cast<int32_t>(i)) % 500);
  made.params.max_tokens = 24;
  made.params.n = n;
  made.params.seed = 7;
  made.params.logprobs = true;
  made.params.prompt_logprobs = first == 3;
  made.queue = queue;
  return made;
}

struct Round {
  std::vector<RequestOutcome> outcomes;
  int64_t done = 0, finished = 0, steps = 0;
  bool failed = false;  // an allocation did
};

// Requests that share prompts, wait for and preempt each other; in the step thread, after step `armed_step`, the allocation
// number `countdown` fails and `failures` - 1 more behind it.
Round run(const std::shared_ptr<const LoadedModel>& loaded, const Options& options, int64_t armed_step,
          int64_t countdown, int64_t failures) {
  Round round;
  has_failed = false;
  Engine engine(loaded, options, [&](const StepTrace& step) {
    round.steps = step.number;
    allocations_left = countdown;
    failures_left = step.number == armed_step ? failures : 0;
  });
  const auto queue = std::make_shared<EventQueue>();
  std::vector<std::shared_ptr<Request>> requests;
  for (int32_t i = 0; i < 5; ++i) {
    requests.push_back(engine.make_request(input(i % 4, 40 + 3 * i, 1 + i % 2, queue)));
    engine.submit(requests.back());
  }
  engine.drain(-1);  // after which every event is out
  for (const Event& event : queue->pop_all(0)) {
    round.done += event.type == EventType::done;
    round.finished += event.type == EventType::finished;
  }
  round.failed = has_failed;
  for (const auto& request : requests) round.outcomes.push_back(request->outcome());
  const EngineStats stats = engine.stats();
  CHECK(stats.running + stats.waiting == 0);
  CHECK(stats.cache_blocks_used == 0);
  CHECK(stats.finished == 7);
  return round;
}

bool same(const RequestOutcome& a, const RequestOutcome& b) {
  for (size_t i = 0; i < a.choices.size(); ++i)
    if (a.choices[i].token_ids != b.choices[i].token_ids || a.choices[i].logprobs != b.choices[i].logprobs)
      return false;
  return a.prompt_logprobs == b.prompt_logprobs;
}

}  // namespace

TEST_CASE("an allocation that fails in a step ends requests at most, and nothing else changes") {
  Options options;
  options.set("threads", int64_t{1});
  options.set("max_batch_tokens", int64_t{48});
  const auto loaded = open_model(std::string(QWEN_TEST_DATA) + "/../parity/data/qwen2_sliding", options);
  const auto backend = create_cpu_backend(resolve_cpu_options(options));
  int64_t block = 0;
  for (const auto& group : loaded->model->cache_groups())
    block += static_cast<int64_t>(backend->cache_block_bytes(group));
  options.set("kv_cache_bytes", block * 7);  // so that they preempt each other
  const Round expected = run(loaded, options, -1, 0, 0);
  REQUIRE(expected.done == 5);
  REQUIRE(expected.finished == 7);
  int64_t injected = 0, survived = 0;
  for (const int64_t step : {1, 2, 5, 11, 26, 31, 40}) {
    CAPTURE(step);
    REQUIRE(step < expected.steps);
    const int64_t failures = step % 2 == 0 ? 12 : 1;
    for (int64_t countdown = 0;; ++countdown) {
      CAPTURE(countdown);
      const Round round = run(loaded, options, step, countdown, failures);
      CHECK(round.done == 5);
      CHECK(round.finished == 7);
      for (size_t i = 0; i < round.outcomes.size(); ++i) {
        const RequestOutcome& outcome = round.outcomes[i];
        if (outcome.status == Status::ok) {
          CHECK(same(outcome, expected.outcomes[i]));
          ++survived;
        } else {
          CHECK(outcome.status == Status::out_of_memory);
          CHECK(!outcome.message.empty());
          for (const auto& choice : outcome.choices) CHECK(choice.finish_reason != FinishReason::none);
        }
      }
      if (!round.failed) break;
      ++injected;
    }
  }
  MESSAGE(injected, " allocations failed, ", survived, " requests did not notice");
  CHECK(injected > 100);
  CHECK(survived > injected);
}

TEST_CASE("memory that ends on the host's thread ends its stream of requests, and leaves nothing behind") {
  Options options;
  options.set("threads", int64_t{1});
  const auto loaded = open_model(std::string(QWEN_TEST_DATA) + "/../parity/data/qwen3_embedding", options);
  Engine engine(loaded, options);
  size_t taken = 0, ended = 0;
  RequestStream stream;
  stream.count = 6;
  stream.make = [&](size_t index) {
    RequestInput made = input(static_cast<int32_t>(index), 20, 1, nullptr);
    made.tensors.last_hidden = true;
    made.tensors.first_row = 19;
    return made;
  };
  stream.take = [&](size_t, const Request& request) { taken += request.last_hidden.size() == 64; };
  for (int64_t countdown = 0;; ++countdown) {
    CAPTURE(countdown);
    has_failed = false;
    taken = 0;
    allocations_left = countdown;
    failures_left = 1;
    bool threw = false;
    try {
      run(engine, stream);
    } catch (const std::bad_alloc&) {
      threw = true;
    } catch (const Error& error) {
      threw = error.status() == Status::out_of_memory;
    }
    failures_left = 0;
    CHECK(threw == has_failed);
    while (engine.stats().running + engine.stats().waiting > 0) std::this_thread::yield();
    CHECK(engine.stats().cache_blocks_used == 0);
    if (!has_failed) break;
    ++ended;
  }
  CHECK(taken == 6);
  CHECK(ended > 50);
}

TEST_CASE("tensors that are too large are the error of who asks for them, before anything is computed") {
  const Options options;
  const auto loaded = open_model(std::string(QWEN_TEST_DATA) + "/../parity/data/qwen3_yarn", options);
  Engine engine(loaded, options);
  const auto queue = std::make_shared<EventQueue>();
  RequestInput wide = input(0, 600, 1, queue);
  wide.tensors = {.logits = true, .hidden_states = true, .first_row = 100};
  largest_block = 500000;
  std::string message;
  try {
    engine.make_request(std::move(wide));
  } catch (const Error& error) {
    CHECK(error.status() == Status::out_of_memory);
    message = error.message();
  }
  largest_block = SIZE_MAX;
  CHECK(message ==
        "the tensors of 500 rows take 1536000 bytes, which this process cannot have; ask for fewer rows "
        "(first_rows)");
}
