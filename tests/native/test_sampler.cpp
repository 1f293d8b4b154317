#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>

#include "backend/logits.h"
#include "base/error.h"
#include "engine/random.h"
#include "engine/sampler.h"
#include "host_sampler.h"

using namespace qwen;
using qwen::test::Sampler;

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

// Pearson's statistic must be neither so large nor so small that it happens to one honest generator in a thousand. The
// seeds are fixed, so this is no matter of luck once it holds. Quantiles: Wilson and Hilferty, PNAS 17 (1931).
void check_chi_square(const std::vector<int>& observed, const std::vector<double>& probabilities) {
  REQUIRE(observed.size() == probabilities.size());
  const double draws = std::accumulate(observed.begin(), observed.end(), 0.0);
  double chi_square = 0;
  for (size_t i = 0; i < observed.size(); ++i) {
    const double expected = draws * probabilities[i];
    REQUIRE(expected >= 5);  // below that the statistic is not chi-square distributed
    chi_square += (observed[i] - expected) * (observed[i] - expected) / expected;
  }
  const auto degrees = static_cast<double>(observed.size() - 1);
  const auto quantile = [&](double normal) {
    return degrees * std::pow(1 - 2 / (9 * degrees) + normal * std::sqrt(2 / (9 * degrees)), 3);
  };
  CHECK(chi_square < quantile(3.0902));   // p = 0.001
  CHECK(chi_square > quantile(-3.0902));  // p = 0.999
}

struct Probabilities {
  std::vector<int32_t> ids;
  std::vector<double> values;

  size_t find(int32_t id) const {
    const auto at = std::find(ids.begin(), ids.end(), id);
    REQUIRE(at != ids.end());  // only kept tokens are drawn
    return static_cast<size_t>(at - ids.begin());
  }
};

Probabilities distribution(std::vector<float> logits, const SamplingParams& params) {
  Sampler sampler;
  const Distribution distribution = sampler.distribution(logits, params, {}, {});
  Probabilities result;
  for (const Candidate& candidate : distribution.kept) {
    result.ids.push_back(candidate.id);
    result.values.push_back(candidate.weight / distribution.total);
  }
  return result;
}

struct Row {
  const char* name;
  std::vector<float> logits;
  SamplingParams params;
};

std::vector<Row> rows() {
  Row flat{"flat", std::vector<float>(50, 1.5f), {}};
  Row peaked{"peaked", {0, 9, 1, 2, 3, 0.5f, 4, 2.5f}, {}};
  Row truncated{"truncated", {}, {}};
  for (int i = 0; i < 300; ++i) truncated.logits.push_back(3 * std::sin(static_cast<float>(i * i)));
  truncated.params.temperature = 0.7;
  truncated.params.top_k = 20;
  truncated.params.top_p = 0.8;
  truncated.params.min_p = 0.05;
  return {flat, peaked, truncated};
}

// Token of a row at (seed, choice, index).
int32_t sampled(const Row& row, uint64_t seed, uint32_t choice, size_t index) {
  static const std::vector<int32_t> generated(1000);
  Sampler sampler;
  std::vector<float> logits = row.logits;
  SamplingParams params = row.params;
  params.seed = seed;
  return sampler.sample(logits, params, {}, std::span(generated).first(index), choice).id;
}

}  // namespace

TEST_CASE("uniform numbers are a function of seed, choice and index, and fill [0, 1) evenly") {
  CHECK(uniform({1, 0}, 0) == uniform({1, 0}, 0));
  CHECK(uniform({1, 0}, 0) != uniform({2, 0}, 0));
  CHECK(uniform({1, 0}, 0) != uniform({1, 1}, 0));
  CHECK(uniform({1, 0}, 0) != uniform({1, 0}, 1));
  std::vector<int> cells(20);
  for (uint64_t i = 0; i < 100000; ++i) {
    const double u = uniform({42, 0}, i);
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
    ++cells[static_cast<size_t>(u * 20)];
  }
  check_chi_square(cells, std::vector<double>(20, 0.05));
}

TEST_CASE("temperature 0 takes the most likely token, the lowest id of equals") {
  SamplingParams params;
  params.temperature = 0;
  CHECK(draws({1, 3, 3, 2}, params, 10) == std::map<int32_t, int>{{1, 10}});
}

TEST_CASE("temperature 0 is a distribution of one token") {
  SamplingParams params;
  params.temperature = 0;
  const Probabilities greedy = distribution({1, 3, 3, 2}, params);
  CHECK(greedy.ids == std::vector<int32_t>{1});
  CHECK(greedy.values == std::vector<double>{1});
}

TEST_CASE("draws over seeds, and over the tokens of one answer, follow the distribution") {
  for (const Row& row : rows()) {
    CAPTURE(row.name);
    const Probabilities expected = distribution(row.logits, row.params);
    CHECK(std::accumulate(expected.values.begin(), expected.values.end(), 0.0) == doctest::Approx(1));
    const auto histogram = [&](uint64_t seeds, size_t indices) {
      std::vector<int> counts(expected.ids.size());
      for (uint64_t seed = 0; seed < seeds; ++seed)
        for (size_t index = 0; index < indices; ++index)
          ++counts[expected.find(sampled(row, seed, 0, index))];
      return counts;
    };
    check_chi_square(histogram(200, 400), expected.values);
    check_chi_square(histogram(80000, 1), expected.values);
    check_chi_square(histogram(80, 1000), expected.values);
  }
}

TEST_CASE("choices, neighbouring seeds and neighbouring tokens draw independently of each other") {
  Row row{"", {0, 0.5f, 1, -0.5f, 0.2f}, {}};
  const Probabilities one = distribution(row.logits, row.params);
  const size_t n = one.ids.size();
  std::vector<double> both;
  for (const double a : one.values)
    for (const double b : one.values) both.push_back(a * b);
  const auto check_pairs = [&](uint64_t other_seed, uint32_t other_choice, size_t other_index) {
    std::vector<int> counts(n * n);
    for (uint64_t seed = 0; seed < 200; ++seed) {
      for (size_t index = 0; index < 200; ++index) {
        const size_t a = one.find(sampled(row, 2 * seed, 0, 2 * index));
        const size_t b = one.find(sampled(row, 2 * seed + other_seed, other_choice, 2 * index + other_index));
        ++counts[a * n + b];
      }
    }
    check_chi_square(counts, both);
  };
  SUBCASE("choices 0 and 1") {
    check_pairs(0, 1, 0);
  }
  SUBCASE("choices 0 and 7") {
    check_pairs(0, 7, 0);
  }
  SUBCASE("seeds") {
    check_pairs(1, 0, 0);
  }
  SUBCASE("tokens") {
    check_pairs(0, 0, 1);
  }
}

TEST_CASE("the same seed, choice and tokens so far give the same token, whatever was sampled before") {
  const std::vector<Row> all = rows();
  const std::vector<int32_t> generated(30);
  Sampler used;
  for (size_t index = 0; index < 30; ++index) {
    for (const Row& row : all) {
      std::vector<float> logits = row.logits;
      SamplingParams params = row.params;
      params.seed = 5;
      const int32_t id = used.sample(logits, params, {}, std::span(generated).first(index), 3).id;
      CHECK(id == sampled(row, 5, 3, index));
    }
  }
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

TEST_CASE("top_k keeps every token that is as likely as the k-th, as transformers does") {
  SamplingParams params;
  params.top_k = 2;
  CHECK(distribution({1, 2, 1, 0, 1}, params).ids == std::vector<int32_t>{0, 1, 2, 4});
  CHECK(distribution({1, 2, 3, 0, 1}, params).ids == std::vector<int32_t>{1, 2});
}

TEST_CASE("top_p keeps the lowest ids of equally likely tokens, and no more than reach it") {
  SamplingParams params;
  for (int n = 1; n < 10; ++n) {
    params.top_p = n / 10.0;
    std::vector<int32_t> lowest(static_cast<size_t>(n));
    std::iota(lowest.begin(), lowest.end(), 0);
    CHECK(distribution(std::vector<float>(10, 2.5f), params).ids == lowest);
  }
}

TEST_CASE("top_p over a large vocabulary keeps the head of the sorted vocabulary") {
  std::vector<float> logits;
  for (int i = 0; i < 20000; ++i)
    logits.push_back(static_cast<float>(4 * uniform({9, 0}, static_cast<uint64_t>(i))));
  std::vector<int32_t> sorted(logits.size());
  std::iota(sorted.begin(), sorted.end(), 0);
  std::sort(sorted.begin(), sorted.end(),
            [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  double total = 0;
  for (const float logit : logits) total += std::exp(double{logit});
  SamplingParams params;
  for (const double top_p : {0.001, 0.02, 0.3, 0.9, 0.9999}) {
    params.top_p = top_p;
    const auto ids = distribution(logits, params).ids;
    CHECK(std::equal(ids.begin(), ids.end(), sorted.begin()));
    const auto mass = [&](size_t count) {
      double sum = 0;
      for (size_t i = 0; i < count; ++i) sum += std::exp(double{logits[sorted[i]]});
      return sum / total;
    };
    CHECK(mass(ids.size()) > top_p);
    CHECK(mass(ids.size() - 1) < top_p);
  }
}

TEST_CASE("the top ids are those of the sorted row, with all that equal the k-th, ascending") {
  std::vector<float> random;
  for (uint64_t i = 0; i < 5000; ++i)
    random.push_back(std::floor(static_cast<float>(1500 * uniform({1, 1}, i))));  // many equals
  std::vector<float> descending = random, ascending = random, one_column(5000, 0.0f);
  std::sort(descending.begin(), descending.end(), std::greater<>());
  std::sort(ascending.begin(), ascending.end());
  for (const size_t id : {5, 2053, 4101}) one_column[id] = 9 - static_cast<float>(id % 3);
  TopIds top_ids;
  for (const auto& row : {random, descending, ascending, std::vector<float>(5000, 7.0f), one_column,
                          std::vector<float>(random.begin(), random.begin() + 70)}) {
    std::vector<float> sorted = row;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (const size_t k : {1, 2, 3, 20, 70, 2047, 2048, 2049, 4999, 5000}) {
      if (k > row.size()) continue;
      std::vector<int32_t> expected;
      for (size_t id = 0; id < row.size(); ++id)
        if (row[id] >= sorted[k - 1]) expected.push_back(static_cast<int32_t>(id));
      const auto ids = top_ids.find(row, k);
      CHECK(std::equal(ids.begin(), ids.end(), expected.begin(), expected.end()));
    }
    CHECK(argmax(row) == std::max_element(row.begin(), row.end()) - row.begin());
  }
  const float never = -std::numeric_limits<float>::infinity();
  CHECK(top_ids.find(std::vector{never, 1.0f, never}, 2).size() == 1);
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

TEST_CASE("top_logprobs are those of the likeliest tokens of the model's own, the lower id of equals first") {
  std::vector<float> logits;
  for (uint64_t i = 0; i < 3000; ++i)  // three of each, about
    logits.push_back(std::floor(static_cast<float>(1000 * uniform({3, 3}, i))) / 100);
  std::vector<int32_t> sorted(logits.size());
  std::iota(sorted.begin(), sorted.end(), 0);
  std::stable_sort(sorted.begin(), sorted.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  SamplingParams params;
  params.logprobs = true;
  params.logit_bias = {{7, 100.0f}};
  params.repetition_penalty = 2;
  params.temperature = 0;
  Sampler sampler;
  for (const int64_t count : {0, 1, 5, 20}) {
    params.top_logprobs = count;
    std::vector<float> row = logits;
    const SampledToken token = sampler.sample(row, params, sorted, {}, 0);
    CHECK(token.id == 7);
    REQUIRE(token.top.size() == static_cast<size_t>(count));
    for (size_t i = 0; i < token.top.size(); ++i) {
      CHECK(token.top[i].id == sorted[i]);
      CHECK(token.top[i].logprob == static_cast<float>(logits[sorted[i]] - log_sum_exp(logits)));
    }
  }
}

TEST_CASE("top_logprobs end with the vocabulary, and hold the chosen token's own logprob") {
  SamplingParams params;
  params.logprobs = true;
  params.top_logprobs = 5;
  params.temperature = 0;
  std::vector<float> row = {0, std::log(3.0f)};
  Sampler sampler;
  const SampledToken token = sampler.sample(row, params, {}, {}, 0);
  REQUIRE(token.top.size() == 2);
  CHECK(token.top[0].id == token.id);
  CHECK(token.top[0].logprob == token.logprob);
  CHECK(token.top[1].logprob == doctest::Approx(std::log(0.25)));
  params.top_logprobs = 0;
  CHECK(sampler.sample(row, params, {}, {}, 0).top.empty());
}

TEST_CASE("the option top_logprobs implies logprobs and ends at 20") {
  Options options;
  CHECK(resolve_sampling(options, {}, 100).top_logprobs == 0);
  CHECK_FALSE(resolve_sampling(options, {}, 100).logprobs);
  options.set("top_logprobs", int64_t{20});
  CHECK(resolve_sampling(options, {}, 100).top_logprobs == 20);
  CHECK(resolve_sampling(options, {}, 100).logprobs);
  CHECK_THROWS_AS(options.set("top_logprobs", int64_t{21}), Error);
}

TEST_CASE("a row whose every token is forbidden is an error at every temperature") {
  SamplingParams params;
  params.stop_token_ids = {0, 1};
  params.min_tokens = 1;
  for (const double temperature : {0.0, 1.0}) {
    params.temperature = temperature;
    std::vector<float> row = {1, 2};
    Sampler sampler;
    CHECK_THROWS_AS(sampler.sample(row, params, {}, {}, 0), Error);
  }
}

TEST_CASE("logits that are not finite are an error, not a token") {
  SamplingParams params;
  Sampler sampler;
  const float infinite = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (std::vector<float> row : {std::vector{infinite, 0.f}, {0.f, -infinite}, {0.f, nan, 1.f}, {nan, 0.f}})
    CHECK_THROWS_AS(sampler.sample(row, params, {}, {}, 0), Error);
}
