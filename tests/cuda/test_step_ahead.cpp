// The next step, given to the GPU before anybody knows the tokens that it begins with (Engine::step(), Scheduler::schedule_ahead()): the
// same bits as one step after the other, whoever joins, ends or is cancelled meanwhile.
#include <doctest/doctest.h>

#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine_fixtures.h"
#ifndef QWEN_TEST_ON_GPU
#include "host_device.h"
#endif

using namespace qwen;
using namespace qwen::test;

namespace {

Options with_steps_ahead(const char* dtype, bool ahead, int64_t max_batch_tokens = 512) {
  Options made = options(dtype, max_batch_tokens);
  made.set("cuda_step_ahead", int64_t{ahead});
  return made;
}

int64_t steps_ahead(const Engine& engine) {
  for (const KernelCount& count : engine.kernel_counts())
    if (count.name == "step.ahead") return count.calls;
  FAIL("no such count");
  return 0;
}

#ifdef __SANITIZE_ADDRESS__  // the others take minutes
constexpr const char* kNames[] = {"qwen3_5"};
constexpr const char* kDtypes[] = {"bf16"};
#else
constexpr const char* kNames[] = {"qwen2_sliding", "qwen2_moe", "qwen3_yarn", "qwen3_5", "qwen4_exp"};
constexpr const char* kDtypes[] = {"f32", "bf16"};
#endif

}  // namespace

TEST_CASE("a step that is given ahead has the bits of one that waits, while sequences join and end") {
  for (const char* name : kNames) {
    for (const char* dtype : kDtypes) {
      CAPTURE(name);
      CAPTURE(dtype);
      const auto loaded = open_model(kCommitted / name, options(dtype));
      Engine waiting(loaded, with_steps_ahead(dtype, false, 32)),
          ahead(loaded, with_steps_ahead(dtype, true, 32));
      std::vector<RequestInput> inputs = {generating(text(name, 90), 40, 1), generating(text(name, 5), 9, 2),
                                          generating({5, 6, 7}, 30, 3), generating(text(name, 40), 44, 4),
                                          generating({9, 9}, 1, 5)};
      inputs[2].params.n = 2;
      // What the next token hangs on besides the logits.
      inputs[0].params.repetition_penalty = 1.3;
      inputs[0].params.frequency_penalty = 0.4;
      inputs[0].params.penalty_window = 12;
      inputs[3].params.presence_penalty = 1;
      inputs[3].params.top_k = 30;
      inputs[1].params.temperature = 0;
      // One ends where nobody could foresee it.
      const auto alone = answer(waiting, {inputs[3]});
      const int32_t last = alone[0]->outcome().choices[0].token_ids[20];
      inputs[3].params.stop_token_ids = {last};
      inputs[1].params.stop_token_ids = {3};
      inputs[1].params.min_tokens = 6;
      CHECK(steps_ahead(waiting) == 0);
      const auto expected = answer(waiting, inputs);
      CHECK(expected[3]->outcome().choices[0].token_ids.size() <= 21);
      for (int round = 0; round < 2; ++round)  // the second one finds prefixes
        check_same(answer(ahead, inputs), expected);
      CHECK(steps_ahead(ahead) > 60);
    }
  }
}

TEST_CASE("all steps but the first of an answer are given ahead, and none behind its last token") {
  const auto loaded = open_model(kCommitted / "qwen3_yarn", options("bf16"));
  Engine engine(loaded, with_steps_ahead("bf16", true));
  answer(engine, {generating({1, 2, 3}, 20, 1)});
  CHECK(steps_ahead(engine) == 19);
  CHECK(engine.stats().steps == 20);
  CHECK(engine.stats().generated_tokens == 20);
  CHECK(engine.stats().prompt_tokens == 3);
  // Who wants to know all about the prompt waits for that.
  RequestInput input = generating({4, 5, 6}, 20, 1);
  input.params.prompt_logprobs = true;
  answer(engine, {input});
  CHECK(steps_ahead(engine) == 19 + 18);
}

TEST_CASE("a thought's budget ends it behind the same token") {
  const auto loaded = open_model(kCommitted / "qwen3_yarn", options("f32"));
  Engine waiting(loaded, with_steps_ahead("f32", false)), ahead(loaded, with_steps_ahead("f32", true));
  RequestInput input = generating({1, 2, 3}, 20, 1);
  input.params.reasoning_budget = 4;
  input.params.reasoning_end_ids = {11, 12};
  check_same(answer(ahead, {input}), answer(waiting, {input}));
}

TEST_CASE("what follows an answer that ended finds its keys and values as they were") {
  for (const char* name : {"qwen3_yarn", "qwen3_5"}) {
    CAPTURE(name);
    const auto loaded = open_model(kCommitted / name, options("bf16"));
    Engine waiting(loaded, with_steps_ahead("bf16", false)), ahead(loaded, with_steps_ahead("bf16", true));
    const RequestInput question = generating(text(name, 61), 30, 8);
    const auto tokens = answer(waiting, {question})[0]->outcome().choices[0].token_ids;
    // It stops in the middle of a block, at its end, and at the beginning of the next.
    for (const size_t length : {size_t{2}, size_t{3}, size_t{4}, size_t{17}}) {
      CAPTURE(length);
      RequestInput stopping = question;
      stopping.params.stop_token_ids = {tokens[length - 1]};
      const auto stopped = answer(ahead, {stopping})[0]->outcome().choices[0].token_ids;
      std::vector<int32_t> next = question.prompt;
      next.insert(next.end(), stopped.begin(), stopped.end());
      next.insert(next.end(), {3, 2, 1});
      const RequestInput further = generating(next, 12, 9);
      Engine fresh(loaded, with_steps_ahead("bf16", false));
      check_same(answer(ahead, {further}), answer(fresh, {further}));
    }
  }
}

TEST_CASE("a cache that is full, and places that others wait for") {
  const auto loaded = open_model(kCommitted / "qwen2_sliding", options("bf16"));
  std::vector<RequestInput> inputs;
  for (int32_t i = 0; i < 7; ++i)
    inputs.push_back(generating(text("qwen2_sliding", 20 + 9 * static_cast<size_t>(i)), 30 + i, 1 + i));
  inputs[6].priority = 3;
  Engine roomy(loaded, with_steps_ahead("bf16", false));
  const auto expected = answer(roomy, inputs);
  Options few = with_steps_ahead("bf16", true);
  few.set("max_running", int64_t{3});
  Engine places(loaded, few);
  check_same(answer(places, inputs), expected);
  CHECK(steps_ahead(places) > 30);
  Options small = with_steps_ahead("bf16", true);
  small.set("context_length", int64_t{128});
  const int64_t per_block = roomy.stats().cache_bytes / roomy.stats().cache_blocks_total;
  small.set("kv_cache_bytes", per_block * 9);
  int64_t preempted = 0;
  Engine tight(loaded, small, [&](const StepTrace& step) { preempted += step.preempted; });
  check_same(answer(tight, inputs), expected);
  CHECK(preempted > 0);
  CHECK(steps_ahead(tight) > 0);
  CHECK(tight.stats().finished == 7);
}

TEST_CASE("who is cancelled while the next step is under way leaves the others as they are") {
  const auto loaded = open_model(kCommitted / "qwen3_5", options("bf16"));
  const RequestInput kept = generating(text("qwen3_5", 30), 24, 1),
                     dropped = generating(text("qwen3_5", 20), 200, 2);
  Engine waiting(loaded, with_steps_ahead("bf16", false));
  const auto expected = answer(waiting, {kept});
  for (const bool both : {false, true}) {
    CAPTURE(both);
    std::vector<std::shared_ptr<Request>> requests;
    Engine engine(loaded, with_steps_ahead("bf16", true), [&](const StepTrace& step) {
      if (step.running < 2 || step.number < 8) return;
      requests[0]->cancel();
      if (both) requests[1]->cancel();
    });
    const auto queue = std::make_shared<EventQueue>();
    for (RequestInput input : {dropped, kept}) {
      input.queue = queue;
      requests.push_back(engine.make_request(std::move(input)));
    }
    for (const auto& request : requests) engine.submit(request);
    for (size_t done = 0; done < requests.size();)
      for (const Event& event : queue->pop_all(-1)) done += event.type == EventType::done;
    CHECK(requests[0]->outcome().status == Status::cancelled);
    if (!both) check_same(*requests[1], *expected[0]);
    check_same(answer(engine, {kept}), expected);  // it goes on
    CHECK(engine.stats().running == 0);
    CHECK(engine.stats().cache_blocks_used == 0);
  }
}

TEST_CASE("an engine that is destroyed while two steps are under way ends its requests") {
  const auto loaded = open_model(kCommitted / "qwen3_yarn", options("bf16"));
  const auto queue = std::make_shared<EventQueue>();
  std::shared_ptr<Request> request;
  {
    Engine engine(loaded, with_steps_ahead("bf16", true));
    RequestInput input = generating({1, 2, 3}, 200, 1);
    input.queue = queue;
    request = engine.make_request(std::move(input));
    engine.submit(request);
    while (request->outcome().choices.empty() || request->outcome().choices[0].token_ids.size() < 3)
      queue->pop_all(-1);
  }
  CHECK(request->outcome().status == Status::closed);
}
