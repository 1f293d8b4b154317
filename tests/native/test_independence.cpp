// The promise that makes everything else testable: what a request gets depends on its prompt, parameters and seed, and on
// nothing else. Random schedules (mixes of requests, adapters, chunk sizes, threads, cache sizes, the prefix cache, preemptions,
// cancelled neighbours) are compared bit by bit with each request alone on one thread without a cache.
//
// QWEN_TEST_SECONDS=3600 native-tests -tc='*whatever else*' goes on for an hour, with another seed each time.
#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>
#include <random>

#include "backend/cpu/isa.h"
#include "checkpoint/memory_tensors.h"
#include "engine/engine.h"

using namespace qwen;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kSchedules = 1;  // per setting: these are ten times slower
#else
constexpr int kSchedules = 20;
#endif

using Seconds = std::chrono::duration<double>;

struct Random {
  std::mt19937_64 bits;
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  bool one_in(int64_t n) { return below(n) == 0; }
  double real(double low, double high) {
    return low + (high - low) * static_cast<double>(below(1 << 20)) / (1 << 20);
  }
};

// Nothing, and two adapters of different ranks, each for some of the model's matrices.
std::vector<std::shared_ptr<const Adapter>> make_adapters(Random& random, const Model& model,
                                                          Backend& backend) {
  std::vector<std::shared_ptr<const Adapter>> adapters = {nullptr};
  for (const int64_t rank : {3, 16}) {
    auto values = std::make_shared<std::vector<std::vector<float>>>();
    auto tensors = std::make_shared<MemoryTensors>([values] {});
    AdapterCheckpoint checkpoint;
    checkpoint.config.r = rank;
    checkpoint.config.lora_alpha = 16;
    for (const LinearShape& linear : model.linears()) {
      if (random.one_in(4)) continue;
      const auto add = [&](const char* which, int64_t rows, int64_t columns) {
        auto& data = values->emplace_back(static_cast<size_t>(rows * columns));
        for (float& value : data) value = static_cast<float>(random.real(-0.1, 0.1));
        const std::string name = linear.name + which;
        tensors->add(name, DType::f32, {rows, columns}, data.data(), data.size() * sizeof(float));
        return name;
      };
      const std::string a = add(".a", rank, linear.in), b = add(".b", linear.out, rank);
      checkpoint.modules.push_back({linear.name, tensors->find(a), tensors->find(b)});
    }
    checkpoint.tensors = tensors;
    auto adapter = std::make_shared<Adapter>(load_adapter(checkpoint, model.linears(), backend));
    adapter->id = static_cast<int32_t>(adapters.size());
    adapters.push_back(std::move(adapter));
  }
  return adapters;
}

// Prompts share heads of many lengths, so that blocks are found again, and parameters are of every kind.
std::vector<RequestInput> make_requests(Random& random, int count, int64_t vocab_size, int64_t longest) {
  std::vector<std::vector<int32_t>> heads(4);
  for (auto& head : heads)
    for (int64_t i = 0; i < longest; ++i) head.push_back(static_cast<int32_t>(random.below(vocab_size)));
  std::vector<RequestInput> requests;
  for (int i = 0; i < count; ++i) {
    RequestInput input;
    const auto& head = heads[static_cast<size_t>(random.below(4))];
    input.prompt.assign(head.begin(), head.begin() + random.below(longest));
    for (int64_t tail = 1 + random.below(12); tail > 0; --tail)
      input.prompt.push_back(static_cast<int32_t>(random.below(vocab_size)));
    SamplingParams& params = input.params;
    params.temperature = random.one_in(3) ? 0 : random.real(0.2, 1.5);
    params.top_k = random.one_in(2) ? 0 : 1 + random.below(40);
    params.top_p = random.one_in(2) ? 1 : random.real(0.3, 1);
    params.min_p = random.one_in(3) ? random.real(0, 0.2) : 0;
    params.repetition_penalty = random.one_in(3) ? 1.2 : 1;
    params.frequency_penalty = random.one_in(3) ? 0.3 : 0;
    params.penalty_window = random.one_in(3) ? 20 : 0;
    params.seed = static_cast<uint64_t>(random.below(1 << 30));
    params.n = random.one_in(4) ? 1 + random.below(3) : 1;
    params.max_tokens = 1 + random.below(40);
    params.logprobs = true;
    params.top_logprobs = random.one_in(4) ? 3 : 0;
    params.prompt_logprobs = random.one_in(6);
    input.priority = random.below(3);
    requests.push_back(std::move(input));
  }
  return requests;
}

// Runs inputs[i] for i in `order`, some of them cancelled on the way (their outcome is not compared).
std::vector<RequestOutcome> run(Engine& engine, const std::vector<RequestInput>& inputs,
                                const std::vector<size_t>& order, Random& random, int64_t cancel_one_in) {
  const auto queue = std::make_shared<EventQueue>();
  std::vector<std::shared_ptr<Request>> requests;
  std::vector<bool> cancelled;
  size_t done = 0;
  const auto drain = [&](int64_t timeout_ms) {
    for (const Event& event : queue->pop_all(timeout_ms)) done += event.type == EventType::done;
  };
  for (const size_t index : order) {
    RequestInput input = inputs[index];
    input.queue = queue;
    requests.push_back(engine.make_request(std::move(input)));
    engine.submit(requests.back());
    cancelled.push_back(cancel_one_in > 0 && random.one_in(cancel_one_in));
    while (random.one_in(3)) drain(1);
    if (cancelled.back()) requests.back()->cancel();
  }
  while (done < requests.size()) drain(-1);
  std::vector<RequestOutcome> outcomes;
  for (size_t i = 0; i < requests.size(); ++i)
    outcomes.push_back(cancelled[i] ? RequestOutcome{} : requests[i]->outcome());
  return outcomes;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

bool same(const RequestOutcome& a, const RequestOutcome& b) {
  if (a.choices.size() != b.choices.size() || a.status != b.status) return false;
  for (size_t i = 0; i < a.choices.size(); ++i) {
    const ChoiceOutcome &x = a.choices[i], &y = b.choices[i];
    if (!same_bits(x.token_ids, y.token_ids) || !same_bits(x.logprobs, y.logprobs) ||
        !same_bits(x.top_token_ids, y.top_token_ids) || !same_bits(x.top_logprobs, y.top_logprobs) ||
        x.finish_reason != y.finish_reason)
      return false;
  }
  return same_bits(a.prompt_logprobs, b.prompt_logprobs);
}

// A defect of the kind that this test is for: the last bits of a row's logits depend on how many rows are beside it.
class OrderDependent : public Model {
 public:
  explicit OrderDependent(std::shared_ptr<const Model> model) : model_(std::move(model)) {
    config_ = model_->config();
    linears_.assign(model_->linears().begin(), model_->linears().end());
    cache_groups_.assign(model_->cache_groups().begin(), model_->cache_groups().end());
  }
  bool has_head() const override { return model_->has_head(); }
  Rows forward(const qwen::Step& step) const override {
    const Rows logits = model_->forward(step);
    auto* values = static_cast<float*>(logits.data);
    if (step.batch.rows() % 7 == 3)
      for (int64_t i = 0; i < logits.rows * logits.width; ++i) values[i] *= 1.000001f;
    return logits;
  }

 private:
  std::shared_ptr<const Model> model_;
};

struct Setting {
  std::string checkpoint, dtype, isa;
};

Options model_options(const Setting& setting) {
  Options options;
  options.set("dtype", std::string_view(setting.dtype));
  options.set("cpu_isa", std::string_view(setting.isa));
  return options;
}

// What the schedules must have contained for the comparison to mean something.
struct Coverage {
  int64_t requests = 0, preempted = 0, cached_tokens = 0, mixed_steps = 0;
};

// Random schedules until `schedules` or `seconds` are over. Returns how many requests differed from their twin alone.
int count_differences(const Setting& setting, uint64_t seed, int schedules, double seconds, bool planted,
                      Coverage& coverage) {
  Random random{std::mt19937_64(seed)};
  const Options base = model_options(setting);
  auto loaded = open_model(std::string(QWEN_TEST_DATA) + "/../parity/data/" + setting.checkpoint, base);
  if (planted) {
    auto broken = std::make_shared<LoadedModel>(*loaded);
    broken->model = std::make_shared<OrderDependent>(loaded->model);
    loaded = broken;
  }
  int64_t block = 0, state = 0;
  const auto backend = create_cpu_backend(resolve_cpu_options(base));
  for (const auto& group : loaded->model->cache_groups())
    (group.recurrent() ? state : block) += static_cast<int64_t>(backend->cache_block_bytes(group));
  // Hybrids keep a state every 256 positions.
  const int64_t longest = state > 0 ? 300 : 150;
  auto inputs = make_requests(random, 24, loaded->model->config().vocab_size, longest);
  const auto adapters = make_adapters(random, *loaded->model, *backend);
  for (RequestInput& input : inputs) input.adapter = adapters[static_cast<size_t>(random.below(3))];
  std::vector<RequestOutcome> alone;
  {
    Options options = base;
    options.set("threads", int64_t{1});
    options.set("prefix_cache", int64_t{0});
    Engine engine(loaded, options);
    for (size_t i = 0; i < inputs.size(); ++i) alone.push_back(run(engine, inputs, {i}, random, 0)[0]);
  }
  int differences = 0;
  const auto end = Clock::now() + Seconds(seconds);
  for (int schedule = 0; schedule < schedules || Clock::now() < end; ++schedule) {
    Options options = base;
    options.set("threads", 1 + random.below(3));
    options.set("prefix_cache", int64_t{!random.one_in(4)});
    options.set("max_batch_tokens", random.one_in(3) ? 1 + random.below(8) : 1 + random.below(512));
    options.set("max_running", 1 + random.below(64));
    // So little that requests are preempted; the longest one must fit: its head, 12 tokens more, 40 generated.
    if (random.one_in(2)) {
      const int64_t blocks = block * ((longest + 12 + 40) / kCacheBlock + 1 + random.below(20));
      const int64_t states = state * (2 + random.below(8));
      options.set("kv_cache_bytes", state > 0 ? 2 * std::max(blocks, states) : blocks);
    }
    Engine engine(loaded, options, [&](const StepTrace& step) {
      coverage.preempted += step.preempted;
      coverage.mixed_steps += step.prompt_rows > 0 && step.generate_rows > 0;
    });
    for (int64_t round = 1 + random.below(3); round > 0; --round) {  // later rounds find the cache warm
      std::vector<size_t> order;
      for (int64_t i = 2 + random.below(random.one_in(8) ? 63 : 20); i > 0; --i)
        order.push_back(static_cast<size_t>(random.below(static_cast<int64_t>(inputs.size()))));
      const auto outcomes = run(engine, inputs, order, random, random.one_in(2) ? 6 : 0);
      for (size_t i = 0; i < order.size(); ++i)
        if (!outcomes[i].choices.empty()) differences += !same(outcomes[i], alone[order[i]]);
      coverage.requests += static_cast<int64_t>(order.size());
      if (engine.stats().cache_blocks_used != 0) FAIL("blocks were not given back");
    }
    coverage.cached_tokens += engine.stats().cached_tokens;
    if (planted && differences > 0) break;
  }
  return differences;
}

}  // namespace

TEST_CASE("a request's tokens and log-probabilities are the same bits whatever else the engine does") {
  const char* wanted = std::getenv("QWEN_TEST_SECONDS");
  const double seconds = wanted ? std::strtod(wanted, nullptr) : 0;
  std::vector<Setting> settings;
  for (const cpu::Isa level : cpu::available_isas())
    for (const char* dtype : {"f32", "bf16"})
      for (const char* checkpoint :
           {"qwen2_sliding", "qwen3_yarn", "qwen2_moe", "qwen3_5", "qwen3_next", "qwen4_exp"})
        settings.push_back({checkpoint, dtype, std::string(cpu::isa_name(level))});
  uint64_t seed = seconds > 0 ? std::random_device()() : 20261121;
  Coverage coverage;
  for (const Setting& setting : settings) {
    CAPTURE(setting.checkpoint);
    CAPTURE(setting.dtype);
    CAPTURE(setting.isa);
    CAPTURE(seed);
    CHECK(count_differences(setting, seed++, kSchedules, seconds / static_cast<double>(settings.size()),
                            false, coverage) == 0);
  }
  MESSAGE(coverage.requests, " requests, ", coverage.preempted, " preemptions, ", coverage.cached_tokens,
          " tokens from the cache, ", coverage.mixed_steps, " steps with prompts and answers side by side");
  CHECK(coverage.preempted > 0);
  CHECK(coverage.cached_tokens > 1000);
  CHECK(coverage.mixed_steps > 100);
}

TEST_CASE("that test notices when a result depends on the batch") {
  Coverage coverage;
  CHECK(count_differences({"qwen3_yarn", "f32", "portable"}, 1, 25, 0, true, coverage) > 0);
}
