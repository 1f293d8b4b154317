#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <limits>
#include <map>

#include "base/error.h"
#include "engine/random.h"
#include "engine/sampler.h"

using namespace qwen;

namespace {

std::map<int32_t, int> draws(std::vector<float> logits, SamplingParams params, int count,
                             std::vector<int32_t> prompt = {}, std::vector<int32_t> generated = {}) {
  Sampler sampler;
  std::map<int32_t, int> histogram;
  for (int i = 0; i < count; ++i) {
    params.seed = static_cast<uint64_t>(i);
    auto row = logits;
    ++histogram[sampler.sample(row, params, prompt, generated, 0).id];
  }
  return histogram;
}

}  // namespace

TEST_CASE("uniform numbers are a function of seed, choice and index, and fill [0, 1) evenly") {
  CHECK(uniform({1, 0}, 0) == uniform({1, 0}, 0));
  CHECK(uniform({1, 0}, 0) != uniform({2, 0}, 0));
  CHECK(uniform({1, 0}, 0) != uniform({1, 1}, 0));
  CHECK(uniform({1, 0}, 0) != uniform({1, 0}, 1));
  std::array<int, 20> cells{};
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double u = uniform({42, 0}, static_cast<uint64_t>(i));
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
    ++cells[static_cast<size_t>(u * 20)];
  }
  double chi_square = 0;
  for (const int n : cells) chi_square += (n - kDraws / 20.0) * (n - kDraws / 20.0) / (kDraws / 20.0);
  CHECK(chi_square < 43.8);  // 19 degrees of freedom, p = 0.001
}

TEST_CASE("temperature 0 takes the most likely token, the lowest id of equals") {
  SamplingParams params;
  params.temperature = 0;
  CHECK(draws({1, 3, 3, 2}, params, 10) == std::map<int32_t, int>{{1, 10}});
}

TEST_CASE("draws follow softmax(logits / temperature)") {
  SamplingParams params;
  params.temperature = 2;
  const std::vector<float> logits = {0, 1, 2, -1};
  constexpr int kDraws = 40000;
  const auto histogram = draws(logits, params, kDraws);
  double total = 0;
  for (const float l : logits) total += std::exp(l / 2);
  double chi_square = 0;
  for (size_t id = 0; id < logits.size(); ++id) {
    const double expected = kDraws * std::exp(logits[id] / 2) / total;
    chi_square += (histogram.at(static_cast<int32_t>(id)) - expected) *
                  (histogram.at(static_cast<int32_t>(id)) - expected) / expected;
  }
  CHECK(chi_square < 16.3);  // 3 degrees of freedom, p = 0.001
}

TEST_CASE("top_k, top_p and min_p keep exactly the tokens they promise") {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  const auto kept = [&](SamplingParams params) {
    std::vector<int32_t> ids;
    for (const auto& [id, count] : draws(logits, params, 3000)) ids.push_back(id);
    return ids;
  };
  SamplingParams params;
  CHECK(kept(params) == std::vector<int32_t>{0, 1, 2, 3});
  params.top_k = 2;
  CHECK(kept(params) == std::vector<int32_t>{1, 3});
  params = {};
  params.top_p = 0.6;
  CHECK(kept(params) == std::vector<int32_t>{1, 3});
  params.top_p = 0;
  CHECK(kept(params) == std::vector<int32_t>{1});
  params = {};
  params.min_p = 0.45;
  CHECK(kept(params) == std::vector<int32_t>{1, 2, 3});
}

TEST_CASE("penalties and biases change the logits by their written formulas") {
  Sampler sampler;
  SamplingParams params;
  params.temperature = 0;
  const auto after = [&](std::vector<float> row, std::vector<int32_t> prompt,
                         std::vector<int32_t> generated) {
    sampler.sample(row, params, prompt, generated, 0);
    return row;
  };
  params.repetition_penalty = 2;
  CHECK(after({4, -4, 1}, {0, 0}, {1}) == std::vector<float>{2, -8, 1});
  params.penalty_window = 1;
  CHECK(after({4, -4, 1}, {0, 0}, {1}) == std::vector<float>{4, -8, 1});
  CHECK(after({4, -4, 1}, {2, 0}, {}) == std::vector<float>{2, -4, 1});
  params = {};
  params.temperature = 0;
  params.presence_penalty = 0.5;
  params.frequency_penalty = 0.25;
  CHECK(after({1, 1, 1}, {2}, {0, 1, 0}) == std::vector<float>{0, 0.25, 1});
  params = {};
  params.temperature = 0;
  params.logit_bias = {{2, 10.0f}};
  CHECK(after({1, 1, 1}, {}, {}) == std::vector<float>{1, 1, 11});
}

TEST_CASE("end tokens cannot come before min_tokens") {
  SamplingParams params;
  params.temperature = 0;
  params.eos_token_ids = {1};
  params.min_tokens = 2;
  CHECK(draws({0, 5, 1}, params, 1, {}, {0}) == std::map<int32_t, int>{{2, 1}});
  CHECK(draws({0, 5, 1}, params, 1, {}, {0, 0}) == std::map<int32_t, int>{{1, 1}});
}

TEST_CASE("logprobs are the log softmax of the model's own logits") {
  SamplingParams params;
  params.temperature = 0;
  params.logprobs = true;
  params.logit_bias = {{0, 100.0f}};
  std::vector<float> row = {0, std::log(3.0f)};
  Sampler sampler;
  const SampledToken token = sampler.sample(row, params, {}, {}, 0);
  CHECK(token.id == 0);
  CHECK(token.logprob == doctest::Approx(std::log(0.25)));
}

TEST_CASE("logits that are not finite are an error, not a token") {
  SamplingParams params;
  Sampler sampler;
  const float infinite = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (std::vector<float> row : {std::vector{infinite, 0.f}, {0.f, -infinite}, {0.f, nan, 1.f}, {nan, 0.f}})
    CHECK_THROWS_AS(sampler.sample(row, params, {}, {}, 0), Error);
}
