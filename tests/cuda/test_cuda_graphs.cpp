// Steps that are captured and replayed (cuda_step.cpp): the same bits as without, how many there are, and what makes them void.
#include <doctest/doctest.h>

#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "engine_fixtures.h"
#include "temporary_folder.h"
#ifndef QWEN_TEST_ON_GPU
#include "host_device.h"
#endif

using namespace qwen;
using namespace qwen::test;

namespace {

Options with_graphs(const char* dtype, bool graphs, int64_t max_batch_tokens = 512) {
  Options made = options(dtype, max_batch_tokens);
  made.set("cuda_graphs", int64_t{graphs});
  return made;
}

struct Graphs {
  int64_t captured = 0, replayed = 0;
  bool operator==(const Graphs&) const = default;
};
Graphs graphs(std::span<const KernelCount> counts) {
  Graphs found;
  for (const KernelCount& count : counts) {
    if (count.name == "step.captured") found.captured = count.calls;
    if (count.name == "step.replayed") found.replayed = count.calls;
  }
  return found;
}

// Of all kernels, as far as the model ran them: whether replayed or not.
std::vector<int64_t> kernels(const Engine& engine) {
  std::vector<int64_t> calls;
  for (const KernelCount& count : engine.kernel_counts())
    if (!count.name.starts_with("step.")) calls.push_back(count.calls);
  return calls;
}

#ifdef __SANITIZE_ADDRESS__  // the others take minutes
constexpr const char* kNames[] = {"qwen4_exp"};
constexpr const char* kDtypes[] = {"bf16"};
#else
constexpr const char* kNames[] = {"qwen2_sliding", "qwen2_moe", "qwen3_yarn", "qwen3_5", "qwen4_exp"};
constexpr const char* kDtypes[] = {"f32", "bf16"};
#endif

// What the log says while it lives.
struct Log {
  Log() { set_log_sink(&Log::take, this, LogLevel::warning); }
  ~Log() { set_log_sink(nullptr, nullptr, LogLevel::error); }
  static void take(int32_t, const char* message, size_t length, void* user) {
    static_cast<Log*>(user)->lines.emplace_back(message, length);
  }
  std::vector<std::string> lines;
};

}  // namespace

TEST_CASE("a step of dependent launches has the bits of one without, replayed or not") {
  for (const char* name : kNames) {
    for (const char* dtype : kDtypes) {
      CAPTURE(name);
      CAPTURE(dtype);
      const auto loaded = open_model(kCommitted / name, options(dtype));
      const std::vector<RequestInput> inputs = {generating(text(name, 90), 12),
                                                generating(text(name, 20), 12, 5)};
      Engine plain(loaded, with_graphs(dtype, false));
      const auto expected = answer(plain, inputs);
      for (const bool graphs : {false, true}) {
        CAPTURE(graphs);
        Options dependent = with_graphs(dtype, graphs);
        dependent.set("cuda_dependent_launch", int64_t{1});
        Engine engine(loaded, dependent);
        check_same(answer(engine, inputs), expected);
      }
    }
  }
}

TEST_CASE("a replayed step has the bits of one that is not, from one size of context to the next") {
  for (const char* name : kNames) {
    for (const char* dtype : kDtypes) {
      CAPTURE(name);
      CAPTURE(dtype);
      const auto loaded = open_model(kCommitted / name, options(dtype));
      Engine plain(loaded, with_graphs(dtype, false)), replaying(loaded, with_graphs(dtype, true));
      // Rows 100 to 139, of which 128 begins a larger size: two of each size are computed, the rest replayed.
      const RequestInput input = generating(text(name, 100), 41);
      check_same(answer(replaying, {input}), answer(plain, {input}));
      CHECK(graphs(replaying.kernel_counts()) == Graphs{2, 26 + 10});
      CHECK(graphs(plain.kernel_counts()) == Graphs{});
      CHECK(kernels(replaying) == kernels(plain));
      // All logits of a text that comes token by token.
      const std::vector<int32_t> ids = text(name, 40);
      Engine by_token(loaded, with_graphs(dtype, true, 1));
      CHECK(same_bits(logits(by_token, ids), logits(plain, ids)));
      CHECK(graphs(by_token.kernel_counts()) == Graphs{1, 38});
    }
  }
}

TEST_CASE("a replayed step splits attention into as many parts as its size of context may have") {
  for (const char* dtype : kDtypes) {
    CAPTURE(dtype);
    const auto loaded = open_model(kCommitted / "qwen3_yarn", options(dtype));
    Engine plain(loaded, with_graphs(dtype, false)), replaying(loaded, with_graphs(dtype, true));
    // From 384 on it is four, captured when there were three.
    const RequestInput input = generating(text("qwen3_yarn", 380), 9);
    check_same(answer(replaying, {input}), answer(plain, {input}));
    CHECK(graphs(replaying.kernel_counts()) == Graphs{1, 6});
  }
}

TEST_CASE("steps are replayed while sequences join and leave") {
  for (const char* name : kNames) {
    for (const char* dtype : kDtypes) {
      CAPTURE(name);
      CAPTURE(dtype);
      const auto loaded = open_model(kCommitted / name, options(dtype));
      std::vector<RequestInput> inputs = {generating(text(name, 90), 24), generating(text(name, 5), 9, 11),
                                          generating({5, 6, 7}, 30, 12), generating(text(name, 40), 14)};
      inputs[2].params.n = 2;
      // A prompt of 90 tokens takes three steps, the others begin meanwhile.
      Engine plain(loaded, with_graphs(dtype, false, 32)), replaying(loaded, with_graphs(dtype, true, 32));
      const auto expected = answer(plain, inputs);
      check_same(answer(replaying, inputs), expected);
      const Graphs first = graphs(replaying.kernel_counts());
      CHECK(first.captured > 1);
      CHECK(first.replayed > 2 * first.captured);
      check_same(answer(replaying, inputs), expected);
      const Graphs second = graphs(replaying.kernel_counts());
      CHECK(second.replayed - first.replayed > first.replayed);  // what was captured still serves
    }
  }
}

// The checkpoint whose indexer picks 16 positions, with another budget.
std::shared_ptr<const LoadedModel> with_budget(const TemporaryFolder& folder, int64_t budget,
                                               const char* dtype) {
  const auto from = kCommitted / "qwen4_exp";
  std::string config(MappedFile(from / "config.json").text());
  const std::string_view key = "\"indexer_budget\": 16";
  config.replace(config.find(key), key.size(), cat("\"indexer_budget\": ", budget));
  folder.write("config.json", config);
  std::filesystem::create_symlink(std::filesystem::canonical(from / "model.safetensors"),
                                  folder.path() / "model.safetensors");
  return open_model(folder.path(), options(dtype));
}

TEST_CASE("steps are replayed on both sides of what an indexer may pick, and from one to the other") {
  for (const char* dtype : kDtypes) {
    CAPTURE(dtype);
    // Up to 34 a row sees all there is. Together and alone, whatever the others see.
    const TemporaryFolder folder;
    const auto loaded = with_budget(folder, 32, dtype);
    const std::vector<RequestInput> inputs = {generating(text("qwen4_exp", 20), 30),
                                              generating(text("qwen4_exp", 60), 24, 5),
                                              generating({5, 6}, 28), generating(text("qwen4_exp", 34), 6, 9),
                                              generating(text("qwen4_exp", 33), 40)};
    Engine plain(loaded, with_graphs(dtype, false)), replaying(loaded, with_graphs(dtype, true));
    const auto together = answer(replaying, inputs);
    check_same(together, answer(plain, inputs));
    const Graphs graphs_of_all = graphs(replaying.kernel_counts());
    CHECK(graphs_of_all.captured > 3);
    CHECK(graphs_of_all.replayed > 2 * graphs_of_all.captured);
    for (const size_t i : {size_t{0}, size_t{3}})
      check_same(*answer(replaying, {inputs[i]})[0], *together[i]);
  }
}

TEST_CASE("no row of a size of context picks, or some may: steps of either size are replayed") {
  for (const char* dtype : kDtypes) {
    CAPTURE(dtype);
    // Positions from 139 on pick; of a size of 128 none, of 256 some, of 512 too.
    const TemporaryFolder folder;
    const auto loaded = with_budget(folder, 136, dtype);
    Engine plain(loaded, with_graphs(dtype, false)), replaying(loaded, with_graphs(dtype, true));
    const auto indexed = [&](const Engine& engine) {
      int64_t calls = 0;
      for (const KernelCount& count : engine.kernel_counts())
        if (count.name.starts_with("indexer.")) calls += count.calls;
      return calls;
    };
    const std::vector<RequestInput> inputs = {generating(text("qwen4_exp", 252), 8),
                                              generating(text("qwen4_exp", 122), 24)};
    for (const RequestInput& input : inputs) check_same(answer(replaying, {input}), answer(plain, {input}));
    // Steps at 252 to 255, 256 to 258; 122 to 127, 128 to 144.
    CHECK(graphs(replaying.kernel_counts()) == Graphs{3, 2 + 1 + 4 + 17});
    CHECK(kernels(replaying) == kernels(plain));
    // Keys in all steps; what is picked in those larger than 128, and in the second prompt.
    CHECK(indexed(replaying) == (1 + 7) + (1 + 23) + (1 + 7) + 17);
  }
}

TEST_CASE("what a step has of its own keeps it from being replayed") {
  const Log log;
  // Hidden states that somebody wants are of this step alone.
  const auto dense = open_model(kCommitted / "qwen3_yarn", options("f32"));
  Engine capturing(dense, with_graphs("f32", true, 1));
  RequestInput wanting = wanting_logits({1, 2, 3, 4, 5});
  wanting.tensors.hidden_states = true;
  answer(capturing, {wanting});
  CHECK(graphs(capturing.kernel_counts()) == Graphs{});
  CHECK(log.lines.empty());  // nobody tried
}

TEST_CASE("memory that grows makes what was captured void") {
  const auto loaded = open_model(kCommitted / "qwen3_yarn", options("bf16"));
  Engine engine(loaded, with_graphs("bf16", true)), plain(loaded, with_graphs("bf16", false));
  const RequestInput few = generating({9, 8, 7}, 8), many = generating(text("qwen3_yarn", 500), 3);
  check_same(answer(engine, {few}), answer(plain, {few}));
  CHECK(graphs(engine.kernel_counts()).captured == 1);
  check_same(answer(engine, {many}), answer(plain, {many}));  // its activations need another place
  const Graphs before = graphs(engine.kernel_counts());
  const RequestInput again = generating({9, 8, 6}, 8);
  check_same(answer(engine, {again}), answer(plain, {again}));
  const Graphs after = graphs(engine.kernel_counts());
  CHECK(after.captured == before.captured + 1);
  CHECK(after.replayed == before.replayed + 6);
}

TEST_CASE("who is cancelled between replayed steps leaves the others as they are") {
  const auto loaded = open_model(kCommitted / "qwen3_5", options("bf16"));
  const RequestInput kept = generating(text("qwen3_5", 30), 24),
                     dropped = generating(text("qwen3_5", 20), 200);
  Engine plain(loaded, with_graphs("bf16", false));
  const auto expected = answer(plain, {kept});
  std::shared_ptr<Request> to_cancel;
  Engine engine(loaded, with_graphs("bf16", true), [&](const StepTrace& step) {
    if (step.running == 2 && step.prompt_rows == 0 && step.number > 6) to_cancel->cancel();
  });
  const auto queue = std::make_shared<EventQueue>();
  std::vector<std::shared_ptr<Request>> requests;
  for (RequestInput input : {dropped, kept}) {
    input.queue = queue;
    requests.push_back(engine.make_request(std::move(input)));
    if (!to_cancel) to_cancel = requests.back();
  }
  for (const auto& request : requests) engine.submit(request);
  for (size_t done = 0; done < requests.size();)
    for (const Event& event : queue->pop_all(-1)) done += event.type == EventType::done;
  CHECK(requests[0]->outcome().status == Status::cancelled);
  CHECK(requests[0]->outcome().stats.generated_tokens < 200);
  check_same(*requests[1], *expected[0]);
  CHECK(graphs(engine.kernel_counts()).replayed > 0);
}

TEST_CASE("so many shapes are kept, those that were used last") {
  const auto gpu = create_cuda_backend({.precision = Precision::f32, .device = 0});
  const auto workspace = gpu->create_workspace();
  Random random(3);
  const Floats values = random.floats(100 * 8);
  const WeightPtr table = gpu->load(tensor(values, {100, 8}), WeightUse::matrix);
  // The step embeds ids and gathers every second row.
  const auto step = [&](int64_t rows, int32_t first, int32_t context) {
    Batch batch;
    for (int32_t i = 0; i < rows; ++i) {
      batch.token_ids.push_back((first + i) % 100);
      batch.positions.push_back({context, context, context});
      batch.sequences.push_back(
          {.first_row = i, .row_count = 1, .context_length = context, .block_tables = {}});
      if (i % 2 == 0) batch.logit_rows.push_back(i);
    }
    workspace->reset();
    bool walked = false;
    const auto wanted = static_cast<int64_t>(batch.logit_rows.size());
    const Rows out = gpu->run_step(*workspace, batch, true, [&] {
      walked = true;
      const Rows x = workspace->rows(rows, 8, Form::plain), some = workspace->rows(wanted, 8, Form::plain);
      gpu->embed(*table, batch.token_ids, x);
      gpu->gather(x, batch.logit_rows, some);
      return some;
    });
    // Behind a step, replayed or not, the workspace has other memory than its results.
    const Rows behind = workspace->rows(wanted, 8, Form::plain);
    CHECK(static_cast<float*>(behind.data) >= static_cast<float*>(out.data) + wanted * 8);
    Floats copy;
    const std::span<const float> got = gpu->host(out, copy);
    for (int64_t i = 0; i < wanted; ++i)
      REQUIRE(std::memcmp(&got[static_cast<size_t>(i * 8)],
                          &values[static_cast<size_t>((first + 2 * i) % 100 * 8)], 8 * sizeof(float)) == 0);
    return walked;
  };
  const auto counted = [&] { return graphs(gpu->kernel_counts()); };
  step(70, 0, 5);  // the largest first: nothing grows later
  step(70, 0, 5);
  for (int64_t rows = 1; rows <= 64; ++rows)
    for (int32_t first = 0; first < 4; ++first) CHECK(step(rows, first, 5) == (first < 2));
  CHECK(counted() == Graphs{65, 2 * 64});
  for (int64_t rows = 1; rows <= 64; ++rows)
    CHECK(!step(rows, 17, 99));  // the size of the context is the same
  CHECK(step(65, 0, 5));         // where rows = 1 was
  CHECK(!step(2, 40, 5));
  CHECK(step(65, 1, 5));
  CHECK(step(1, 0, 5));  // where rows = 3 was
  CHECK(!step(2, 41, 5));
  CHECK(step(3, 0, 5));
  CHECK(step(2, 0, 200));  // another size of context
  CHECK(counted().captured == 66);
}

#ifndef QWEN_TEST_ON_GPU
TEST_CASE("a graph that cannot be had is no error") {
  const auto loaded = open_model(kCommitted / "qwen2_sliding", options("bf16"));
  const std::vector<RequestInput> inputs = {generating({1, 2, 3}, 12), generating({4, 5}, 5)};
  Engine plain(loaded, with_graphs("bf16", false));
  const auto expected = answer(plain, inputs);
  const auto fails = [&](int captures, int replays) {
    CAPTURE(captures);
    CAPTURE(replays);
    host_cuda::machine().captures = captures;
    host_cuda::machine().replays = replays;
    std::vector<std::string> lines;
    Graphs had;
    {
      const Log log;
      Engine engine(loaded, with_graphs("bf16", true));
      check_same(answer(engine, inputs), expected);
      check_same(answer(engine, inputs), expected);
      lines = log.lines;
      had = graphs(engine.kernel_counts());
    }
    host_cuda::machine() = {};
    REQUIRE(lines.size() == 1);
    CHECK(lines[0].starts_with("GPU 0: steps are not captured any more: no memory for a "));
    return had;
  };
  CHECK(fails(0, 100) == Graphs{0, 0});
  CHECK(fails(1, 100).captured == 1);
  CHECK(fails(100, 0) == Graphs{1, 0});
  CHECK(fails(100, 3).replayed == 3);
}
#endif
