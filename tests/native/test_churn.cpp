// A service that runs for months: requests come and go in every way there is, from many threads, and nothing is left over.
#include <doctest/doctest.h>

#include <unistd.h>

#include <cstdio>
#include <random>
#include <thread>

#include "engine/engine.h"

using namespace qwen;

namespace {

// Resident memory of this process, bytes.
int64_t resident() {
  long total = 0, pages = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file) {
    if (std::fscanf(file, "%ld %ld", &total, &pages) != 2) pages = 0;
    std::fclose(file);
  }
  return pages * sysconf(_SC_PAGESIZE);
}

RequestInput random_input(std::mt19937& random, const std::shared_ptr<EventQueue>& queue) {
  RequestInput input;
  for (uint32_t i = 1 + random() % (random() % 4 == 0 ? 200 : 60); i > 0; --i)
    input.prompt.push_back(static_cast<int32_t>(random() % 50));
  input.params.max_tokens = 1 + random() % 30;
  input.params.seed = random();
  input.params.n = 1 + (random() % 4 == 0);
  input.params.logprobs = random() % 2 == 0;
  input.priority = static_cast<int64_t>(random() % 3);
  if (random() % 20 == 0) input.timeout_ms = 1;
  input.queue = queue;
  return input;
}

// One host thread: submits, streams, stops, cancels and walks away from its requests, in no order.
void churn(Engine& engine, uint32_t seed, int cycles) {
  std::mt19937 random(seed);
  for (int i = 0; i < cycles; ++i) {
    auto queue = std::make_shared<EventQueue>();
    auto request = engine.make_request(random_input(random, queue));
    engine.submit(request);
    switch (random() % 5) {
      case 0:  // reads to the end
        while (queue->pop(-1)->type != EventType::done) continue;
        break;
      case 1:  // reads a little, then cancels, twice, and reads on
        queue->pop(-1);
        request->cancel();
        request->cancel();
        while (queue->pop(-1)->type != EventType::done) continue;
        break;
      case 2:  // stops early and keeps what there is
        queue->pop(-1);
        request->stop();
        while (queue->pop(-1)->type != EventType::done) continue;
        break;
      case 3:  // cancels at once and never reads
        request->cancel();
        break;
      default:  // walks away
        request->detach();
        request->cancel();
        queue.reset();
    }
  }
}

}  // namespace

TEST_CASE("ten thousand requests in every way there is leave no block, no memory and no request behind") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr int kEngines = 10, kCycles = 25;
#else
  constexpr int kEngines = 50, kCycles = 50;
#endif
  constexpr int kThreads = 4;  // 50 * 50 * 4 = 10,000
  Options options;
  options.set("threads", int64_t{1});
  options.set("kv_cache_bytes", int64_t{1} << 20);
  const std::string data = std::string(QWEN_TEST_DATA) + "/../parity/data/";
  const auto attention = open_model(data + "qwen3_yarn", options),
             hybrid = open_model(data + "qwen3_5", options);
  int64_t warm = 0;
  for (int round = 0; round < kEngines; ++round) {
    Engine engine(round % 4 == 1 ? hybrid : attention, options);
    std::vector<std::thread> hosts;
    for (int host = 0; host < kThreads; ++host)
      hosts.emplace_back(
          [&, host] { churn(engine, static_cast<uint32_t>(round * kThreads + host), kCycles); });
    for (auto& host : hosts) host.join();
    if (round % 3 == 0) continue;  // the engine goes while the last cancelled ones are still in it
    engine.drain(-1);
    const EngineStats stats = engine.stats();
    CHECK(stats.running + stats.waiting == 0);
    CHECK(stats.cache_blocks_used == 0);
    CHECK_THROWS_AS(
        engine.submit(engine.make_request(
            {.prompt = {1}, .params = {}, .tensors = {}, .tools = {}, .timeout_ms = {}, .queue = {}})),
        Error);
    if (round == kEngines / 2) warm = resident();
  }
  CHECK(resident() - warm < int64_t{8} << 20);
}
