// The whole engine with device = "cuda" on the executor: the reference checkpoints within their tolerances (those of
// qwen_ffi/validation.py), and bits that do not depend on how a prompt was cut or who was beside it.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "engine_fixtures.h"
#include "host_executor.h"
#include "reference_fixture.h"

using namespace qwen;
using namespace qwen::test;

namespace {

std::filesystem::path shared() {
  const char* given = std::getenv("QWEN_SHARED");
  return (given != nullptr ? std::filesystem::path(given)
                           : std::filesystem::path(QWEN_TEST_DATA "/../../../shared")) /
         "reference";
}

double largest_difference(const Floats& ours, const Floats& reference) {
  REQUIRE(ours.size() == reference.size());
  double difference = 0;
  for (size_t i = 0; i < ours.size(); ++i)
    difference =
        std::fmax(std::isnan(ours[i]) ? INFINITY : std::abs(double{ours[i]} - reference[i]), difference);
  return difference;
}

void check_f32(const std::filesystem::path& folder) {
  const Expected expected(folder / "expected.safetensors");
  const auto prompt = expected.values<int32_t>("input_ids"), greedy = expected.values<int32_t>("greedy_ids");
  Options wanted = options("f32");
  const auto further = folder / "expected_mtp.safetensors";
  const bool predicts = std::filesystem::exists(further);
  if (predicts) wanted.set("mtp", int64_t{1});
  const auto loaded = open_model(folder, wanted);
  Engine engine(loaded, wanted);
  RequestInput input = wanting_logits(prompt);
  input.tensors.hidden_states = true;
  const auto answered = answer(engine, {input})[0];
  CHECK(largest_difference(answered->logits, expected.values<float>("logits")) <= 1e-3);
  for (size_t layer = 0; layer < answered->hidden_states.size(); ++layer) {
    const std::string name = cat("hidden.", layer);
    if (expected.file->find(name) != nullptr)
      CHECK(largest_difference(answered->hidden_states[layer], expected.values<float>(name.c_str())) <= 1e-3);
  }
  if (predicts) {
    const Expected predicted(further);
    RequestInput predicting;
    predicting.prompt = predicted.values<int32_t>("input_ids");
    predicting.tensors.mtp_logits = true;
    CHECK(largest_difference(answer(engine, {predicting})[0]->mtp_logits,
                             predicted.values<float>("logits")) <= 1e-3);
  }
  if (expected.file->find("long_logits_last8") != nullptr) {
    RequestInput longest = wanting_logits(expected.values<int32_t>("long_input_ids"));
    longest.tensors.first_row = static_cast<int64_t>(longest.prompt.size()) - 8;
    CHECK(largest_difference(answer(engine, {longest})[0]->logits,
                             expected.values<float>("long_logits_last8")) <= 1e-3);
  }
  RequestInput generate;
  generate.prompt = prompt;
  generate.params.max_tokens = static_cast<int64_t>(greedy.size());
  generate.params.temperature = 0;
  generate.params.ignore_eos = true;
  CHECK(answer(engine, {generate})[0]->outcome().choices[0].token_ids == greedy);
}

}  // namespace

TEST_CASE("reference checkpoints on the executor, within their tolerances") {
  std::vector<std::filesystem::path> folders;
  for (const char* name : {"qwen2_sliding", "qwen3_yarn", "qwen4_exp"}) folders.push_back(kCommitted / name);
#ifndef __SANITIZE_ADDRESS__  // those go all the ways that these do
  for (const char* name : {"qwen2_moe", "qwen3_5", "qwen3_next"}) folders.push_back(kCommitted / name);
  for (const char* name : {"qwen2_f32", "qwen2_tied", "qwen2_untied", "qwen2_yarn", "qwen3_odd",
                           "qwen3_sharded", "qwen3_tied", "qwen3_moe", "qwen3_moe_nonorm", "qwen3_5_moe"})
    if (std::filesystem::exists(shared() / name)) folders.push_back(shared() / name);
#endif
  for (const auto& folder : folders) {
    CAPTURE(folder.filename().string());
    check_f32(folder);
    check_bf16(folder, options("bf16"));
  }
}

TEST_CASE("on the executor bits do not depend on chunks, company or the order of blocks") {
#ifdef __SANITIZE_ADDRESS__  // the others take minutes; their kernels' own tests cut rows in every way
  constexpr const char* kNames[] = {"qwen2_sliding"};
#else
  constexpr const char* kNames[] = {"qwen2_sliding", "qwen2_moe", "qwen3_5", "qwen4_exp"};
#endif
  for (const char* name : kNames) {
    CAPTURE(name);
    const auto folder = kCommitted / name;
    auto text = Expected(folder / "expected.safetensors").values<int32_t>("long_input_ids");
    text.resize(70);  // past where a recurrent state is kept
    for (const char* dtype : {"f32", "bf16"}) {
      CAPTURE(dtype);
      const auto loaded = open_model(folder, options(dtype));
      Floats whole;
      for (const int64_t chunk : {512, 1, 23}) {
        CAPTURE(chunk);
        Engine engine(loaded, options(dtype, chunk));
        const std::vector<int32_t> part(text.begin(), text.begin() + 33);
        const auto together =
            answer(engine, {wanting_logits(part), wanting_logits(text), wanting_logits({5, 6, 7})});
        if (whole.empty()) whole = together[1]->logits;
        CHECK(test::same_bits(together[1]->logits, whole));
        CHECK(test::same_bits(
            together[0]->logits,
            {whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(whole.size() / 70 * 33)}));
      }
    }
  }
}

namespace {

int64_t calls(const Engine& engine, std::string_view op) {
  int64_t calls = 0;
  for (const KernelCount& count : engine.kernel_counts())
    if (std::string_view(count.name).starts_with(op)) calls += count.calls;
  return calls;
}

// Requests that sample in every way there is, of one prompt.
std::vector<RequestInput> sampling_requests(const std::vector<int32_t>& prompt) {
  std::vector<RequestInput> inputs;
  const auto add = [&](const std::function<void(SamplingParams&)>& set) {
    RequestInput& input = inputs.emplace_back();
    input.prompt = prompt;
#ifdef __SANITIZE_ADDRESS__
    input.params.max_tokens = 4;
#else
    input.params.max_tokens = 12;
#endif
    input.params.ignore_eos = true;
    input.params.seed = 7 + inputs.size();
    set(input.params);
  };
  add([](SamplingParams& p) { p.top_k = 20, p.top_p = 0.95, p.temperature = 0.6; });
  add([](SamplingParams& p) { p.n = 3, p.logprobs = true, p.top_logprobs = 4; });
  add([](SamplingParams& p) { p.top_p = 0.8, p.repetition_penalty = 1.3, p.frequency_penalty = 0.4; });
  add([](SamplingParams& p) { p.min_p = 0.1, p.presence_penalty = 0.7, p.penalty_window = 5; });
  add([](SamplingParams& p) { p.temperature = 0, p.logit_bias = {{3, 2.0f}, {9, -1e30f}}; });
  add([](SamplingParams& p) { p.min_tokens = 9, p.stop_token_ids = {1, 2, 3, 4, 5}; });
  return inputs;
}

void check_same(const Request& ours, const Request& expected, double tolerance) {
  const RequestOutcome a = ours.outcome(), b = expected.outcome();
  REQUIRE(a.choices.size() == b.choices.size());
  for (size_t i = 0; i < a.choices.size(); ++i) {
    CHECK(a.choices[i].token_ids == b.choices[i].token_ids);
    CHECK(a.choices[i].top_token_ids == b.choices[i].top_token_ids);
    CHECK(largest_difference(a.choices[i].logprobs, b.choices[i].logprobs) <= tolerance);
    CHECK(largest_difference(a.choices[i].top_logprobs, b.choices[i].top_logprobs) <= tolerance);
  }
  CHECK(largest_difference(a.prompt_logprobs, b.prompt_logprobs) <= tolerance);
}

}  // namespace

TEST_CASE("with device = cuda tokens are sampled on the GPU: the CPU's, alone or beside others") {
  const auto folder = kCommitted / "qwen3_yarn";
  const std::vector<int32_t> prompt{11, 4, 28, 9, 4, 30};
  auto inputs = sampling_requests(prompt);
  Options on_cpu = options("f32");
  on_cpu.set("device", std::string_view("cpu"));
  Engine cpu(open_model(folder, on_cpu), on_cpu), gpu(open_model(folder, options("f32")), options("f32"));
  const auto together = answer(gpu, inputs);
  CHECK(calls(gpu, "sample.") > 0);
  CHECK(calls(gpu, "host.") == 0);  // no logits have left it
  for (size_t i = 0; i < inputs.size(); ++i) {
    CAPTURE(i);
    check_same(*together[i], *answer(cpu, {inputs[i]})[0], 1e-4);
    check_same(*answer(gpu, {inputs[i]})[0], *together[i], 0);
  }
  CHECK(calls(gpu, "host.") == 0);

  // Those who want logits get theirs, and those beside them theirs alone.
  RequestInput scored = inputs[1];
  scored.params.prompt_logprobs = true;
  const auto wanting = wanting_logits(prompt);
  const auto mixed = answer(gpu, {inputs[0], wanting, scored, wanting, inputs[2]});
  check_same(*mixed[0], *together[0], 0);
  check_same(*mixed[4], *together[2], 0);
  check_same(*mixed[2], *answer(cpu, {scored})[0], 1e-4);
  CHECK(mixed[2]->outcome().prompt_logprobs.size() == prompt.size());
  CHECK(largest_difference(mixed[1]->logits, answer(cpu, {wanting})[0]->logits) <= 1e-3);
  CHECK(test::same_bits(mixed[3]->logits, mixed[1]->logits));
  CHECK(calls(gpu, "host.") > 0);
}

TEST_CASE("engine and model agree about the device") {
  const auto folder = kCommitted / "qwen3_yarn";
  const auto loaded = open_model(folder, options("bf16"));
  CHECK(loaded->device == "cuda:0");
  Options cpu;
  cpu.set("device", std::string_view("cpu"));
  CHECK_THROWS_WITH_AS(Engine(loaded, cpu), "option 'device' is 'cpu', but the model was opened on 'cuda:0'",
                       Error);
  Options any;
  any.set("device", std::string_view("auto"));
  CHECK(Engine(loaded, any).backend_name() == "cuda.sm_90");
  Options far = options("bf16");
  far.set("device", std::string_view("cuda:7"));
  CHECK_THROWS_WITH_AS(open_model(folder, far),
                       "option 'device' asks for GPU 7; this machine has 1, counted from 0", Error);
  CHECK_THROWS_WITH_AS(far.set("device", std::string_view("cuda:x")),
                       "option 'device' is 'cuda:x'; allowed are auto|cpu|cuda|cuda:N", Error);
  CHECK_THROWS_AS(far.set("device", std::string_view("cuda:N")), Error);
  CHECK_THROWS_WITH_AS(open_model(kCommitted / "qwen3_gptq_int4_g32", options("bf16")),
                       doctest::Contains("this version has no multiplication by quantised weights on a GPU"),
                       Error);
}
