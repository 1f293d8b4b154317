// Any number of requests through one engine: few at a time, in spite of a short queue, and to the same bits as alone.
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <numeric>
#include <thread>

#include "engine/request_stream.h"
#include "engine/text_inputs.h"

using namespace qwen;

namespace {

std::shared_ptr<const LoadedModel> open_test_model(const char* name = "qwen3_embedding") {
  return open_model(std::string(QWEN_TEST_DATA) + "/../parity/data/" + name, Options());
}

Options options(std::initializer_list<std::pair<const char*, int64_t>> values) {
  Options made;
  made.set("threads", int64_t{2});
  for (const auto& [key, value] : values) made.set(key, value);
  return made;
}

RequestInput pooled(size_t index, int64_t tokens) {
  RequestInput made;
  for (int64_t i = 0; i < tokens; ++i)
    made.prompt.push_back(static_cast<int32_t>((31 * index + 7 * static_cast<size_t>(i)) % 450));
  made.tensors.last_hidden = true;
  made.tensors.first_row = tokens - 1;
  return made;
}

std::vector<std::vector<float>> run_all(Engine& engine, size_t count) {
  std::vector<std::vector<float>> found(count);
  RequestStream stream;
  stream.count = count;
  stream.make = [](size_t index) { return pooled(index, 1 + static_cast<int64_t>(index % 90)); };
  stream.take = [&](size_t index, const Request& request) { found[index] = request.last_hidden; };
  run(engine, stream);
  return found;
}

}  // namespace

TEST_CASE("many requests pass a queue that holds few, a few steps' worth at a time") {
  const auto loaded = open_test_model();
  std::atomic<int64_t> most = 0;
  const auto watch = [&](const StepTrace& step) {
    most = std::max(most.load(), step.waiting + step.running);
  };
  Engine roomy(loaded, options({{"max_batch_tokens", 64}}), watch);
  const auto expected = run_all(roomy, 400);
  CHECK(most <= 128 + 2);  // tokens
  for (const auto& values : expected) CHECK(values.size() == 64);

  Engine narrow(loaded, options({{"max_waiting", 1}, {"max_running", 1}, {"prefix_cache", 0}}));
  CHECK(run_all(narrow, 400) == expected);
  CHECK(narrow.stats().finished == 400);
}

TEST_CASE("the last row is the one that all hidden states end with, in one step with them and in chunks") {
  const char* name = nullptr;
  SUBCASE("dense") {
    name = "qwen3_embedding";
  }
  SUBCASE("hybrid") {
    name = "qwen3_5";
  }
  const auto loaded = open_test_model(name);
  const ModelConfig& config = loaded->model->config();
  for (const int64_t chunk : {512, 64, 7}) {
    Engine engine(loaded, options({{"max_batch_tokens", chunk}}));
    const auto queue = std::make_shared<EventQueue>();
    std::vector<std::shared_ptr<Request>> requests;
    for (size_t i = 0; i < 12; ++i) {
      RequestInput input = pooled(i / 2, 3 + 20 * static_cast<int64_t>(i / 2));
      if (i % 2 == 0)
        input.tensors = {.hidden_states = true, .logits_of = {5, 3}};
      else
        input.tensors.logits = true, input.tensors.logits_of = {5, 3};
      if (i % 4 == 0) input.tensors.logits = true, input.tensors.logits_of.clear();
      input.queue = queue;
      requests.push_back(engine.make_request(std::move(input)));
      engine.submit(requests.back());
    }
    engine.drain(-1);
    for (size_t i = 0; i < 12; i += 2) {
      const auto& all = requests[i]->hidden_states.back();
      CHECK(requests[i + 1]->last_hidden == std::vector<float>(all.end() - config.hidden_size, all.end()));
      CHECK(requests[i]->last_hidden.empty());
      REQUIRE(requests[i + 1]->logits.size() == 2);
      if (i % 4 != 0) continue;
      const auto row = requests[i]->logits.end() - config.vocab_size;
      CHECK(requests[i + 1]->logits == std::vector<float>{row[5], row[3]});
    }
  }
}

TEST_CASE("a full queue of other callers is an error at the start, and waited for later") {
  const auto loaded = open_test_model();
  std::atomic<bool> hold = true;
  Engine engine(loaded, options({{"max_waiting", 1}}), [&](const StepTrace&) {
    while (hold) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  const auto other = std::make_shared<EventQueue>();
  std::vector<std::shared_ptr<Request>> others;
  const auto submit = [&] {
    RequestInput input = pooled(0, 5);
    input.queue = other;
    others.push_back(engine.make_request(std::move(input)));
    engine.submit(others.back());
  };
  submit();
  while (engine.stats().steps == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  submit();
  try {
    run_all(engine, 1);
    FAIL("the queue was not full");
  } catch (const Error& error) {
    CHECK(error.status() == Status::busy);
  }
  hold = false;
  for (const auto& request : others)
    while (request->outcome().choices[0].finish_reason == FinishReason::none) std::this_thread::yield();

  std::atomic<bool> going = true;
  std::thread crowd([&] {  // takes the one place whenever it is free
    while (going) try {
        submit();
      } catch (const Error&) {
      }
  });
  size_t taken = 0;
  RequestStream stream;
  stream.count = 50;
  stream.make = [](size_t index) { return pooled(index, 3); };
  stream.take = [&](size_t, const Request&) { ++taken; };
  for (bool begun = false; !begun;) try {
      run(engine, stream);
      begun = true;
    } catch (const Error& error) {
      CHECK(error.status() == Status::busy);
      CHECK(taken == 0);
    }
  going = false;
  crowd.join();
  CHECK(taken == 50);
}

TEST_CASE("a failure names the input and cancels the others; so does the host, and the time that is up") {
  const auto loaded = open_test_model();
  Engine engine(loaded, options({{"max_batch_tokens", 64}}));
  RequestStream stream;
  stream.count = 100;
  stream.make = [](size_t index) { return pooled(index, index == 70 ? 5000 : 40); };
  stream.take = [](size_t, const Request&) {};
  const auto failure = [&] {
    try {
      run(engine, stream);
    } catch (const Error& error) {
      return error;
    }
    return Error(Status::ok, "");
  };
  Error error = failure();
  CHECK(error.status() == Status::invalid_argument);
  CHECK(error.message().starts_with("input 70: the prompt has 5000 tokens"));
  stream.make = [](size_t index) { return pooled(index, 40); };
  double last = 0;
  stream.go_on = [&](double fraction) {
    CHECK(fraction >= last);
    last = fraction;
    return fraction < 0.5;
  };
  CHECK(failure().status() == Status::cancelled);
  CHECK(last == 0.5);
  stream.go_on = nullptr;
  stream.timeout_ms = 1;
  stream.count = 100000;
  error = failure();
  CHECK(error.status() == Status::timeout);
  CHECK(error.message().find(" of 100000 inputs are done after the timeout_ms of 1") != std::string::npos);
  engine.drain(10000);
}

TEST_CASE("an engine that is destroyed meanwhile ends the call, and waits until it is out") {
  const auto loaded = open_test_model();
  auto engine = std::make_unique<Engine>(loaded, options({}));
  std::atomic<size_t> taken = 0;
  Status status = Status::ok;
  Engine& used = *engine;
  std::thread caller([&] {
    RequestStream stream;
    stream.count = 10000000;
    stream.make = [](size_t index) { return pooled(index, 20); };
    stream.take = [&](size_t, const Request&) { ++taken; };
    try {
      run(used, stream);
    } catch (const Error& error) {
      status = error.status();
    }
  });
  while (taken < 3) std::this_thread::yield();
  engine.reset();
  caller.join();
  CHECK(status == Status::closed);
}

TEST_CASE("an embedding has length 1, of as many values as are wanted; zeros stay zeros") {
  std::vector<float> hidden(64), out(40), none(4);
  std::iota(hidden.begin(), hidden.end(), 1.0f);
  write_embedding(hidden, out);
  double squares = 0;
  for (const float value : out) squares += static_cast<double>(value) * value;
  CHECK(squares == doctest::Approx(1).epsilon(1e-6));
  CHECK(out[3] / out[0] == doctest::Approx(4));
  write_embedding(std::vector<float>(4), none);
  CHECK(none == std::vector<float>(4));
  CHECK(yes_probability(2, 2) == 0.5f);
  CHECK(yes_probability(1000, -1000) == 1.0f);
  CHECK(yes_probability(-1000, 1000) == 0.0f);
}
