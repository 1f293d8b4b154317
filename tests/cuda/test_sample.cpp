// Backend::sample() of a GPU beside the host's Sampler: the same token for the same logits, parameters, history and random number.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/cuda_memory.h"
#include "base/error.h"
#include "engine/sampler.h"
#include "host_sampler.h"
#include "kernel_fixtures.h"

using namespace qwen;
using namespace qwen::test;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A row and all that its next token hangs on.
struct Case {
  Floats logits;
  SamplingParams params;
  std::vector<int32_t> prompt, generated;
  uint32_t choice = 0;
  TokenRule rule;
};

// What a row is sampled to, on either side: a token or why there is none.
struct Answer {
  std::string error;
  int32_t id = -1;
  float logprob = 0;
  std::vector<TokenLogprob> top;
};

Answer on_host(const Case& wanted) {
  Sampler sampler;
  Floats logits = wanted.logits;
  try {
    const SampledToken token =
        sampler.sample(logits, wanted.params, wanted.prompt, wanted.generated, wanted.choice, wanted.rule);
    return {"", token.id, token.logprob, {token.top.begin(), token.top.end()}};
  } catch (const Error& error) {
    return {error.message(), -1, 0, {}};
  }
}

class Gpu {
 public:
  // All in one call, in rows of the logits that lie in another order than the arguments, one of them nobody's.
  std::vector<Answer> sample(const std::vector<Case>& cases) {
    const auto width = static_cast<int64_t>(cases[0].logits.size());
    const auto count = static_cast<int64_t>(cases.size());
    Floats values(static_cast<size_t>((count + 1) * width), NAN);
    std::vector<SampleArgs> args;
    std::vector<std::vector<LogitEdit>> edits(cases.size());
    for (int64_t i = 0; i < count; ++i) {
      const Case& one = cases[static_cast<size_t>(i)];
      const int64_t row = count - i;
      std::copy(one.logits.begin(), one.logits.end(), values.begin() + row * width);
      std::vector<int32_t> tokens = one.prompt;
      tokens.insert(tokens.end(), one.generated.begin(), one.generated.end());
      TokenHistory history;
      auto& own = edits[static_cast<size_t>(i)];
      args.push_back(sample_args(
          one.params,
          {.tokens = tokens, .prompt_size = one.prompt.size(), .choice = one.choice, .vocab_size = width},
          one.rule, history, own));
      args.back().row = row;
      args.back().edits = own;
    }
    workspace_->reset();
    const Rows rows = upload(values, width);
    std::vector<SampledRow> out(cases.size());
    backend_->sample(rows, args, out);
    backend_->finish_sampling();
    std::vector<Answer> answers;
    for (const SampledRow& row : out) {
      try {
        sampled_token(row);
        answers.push_back({"", row.id, row.logprob, row.top});
      } catch (const Error& error) {
        answers.push_back({error.message(), -1, 0, {}});
      }
    }
    return answers;
  }
  SampledRow sample_as(const Floats& logits, const SampleArgs& args) {
    workspace_->reset();
    const Rows rows = upload(logits, static_cast<int64_t>(logits.size()));
    SampledRow out;
    backend_->sample(rows, std::span(&args, 1), std::span(&out, 1));
    backend_->finish_sampling();
    return out;
  }
  int64_t calls(std::string_view op) const {
    int64_t calls = 0;
    for (const KernelCount& count : backend_->kernel_counts())
      if (std::string_view(count.name).starts_with(op)) calls += count.calls;
    return calls;
  }
  std::vector<int32_t> ids_left_there(size_t count) {
    cuda::Device device(0);
    const auto stream = device.create_stream();
    const cuda::Memory pinned = device.allocate_pinned(count * sizeof(int32_t), "a test");
    stream->to_host(pinned.data(), backend_->sampled_ids(), pinned.size());
    stream->synchronize();
    const auto* const ids = reinterpret_cast<const int32_t*>(pinned.data());
    return {ids, ids + count};
  }

 private:
  Rows upload(const Floats& values, int64_t width) {
    const auto count = static_cast<int64_t>(values.size()) / width;
    table_ = backend_->load(tensor(values, {count, width}), WeightUse::matrix);
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < count; ++i) ids.push_back(i);
    const Rows out = workspace_->rows(count, width);
    backend_->embed(*table_, ids, out);
    return out;
  }

  std::unique_ptr<cuda::CudaBackend> backend_ =
      std::make_unique<cuda::CudaBackend>(CudaOptions{.precision = Precision::f32, .device = 0});
  std::unique_ptr<Workspace> workspace_ = backend_->create_workspace();
  WeightPtr table_;
};

// Whether rounding may decide: the draw, or the last token of top_p, lies within 1e-9 of all from a border.
bool on_a_border(const Case& wanted) {
  RowSampler sampler;
  std::vector<LogitEdit> edits;
  std::vector<int32_t> tokens = wanted.prompt;
  tokens.insert(tokens.end(), wanted.generated.begin(), wanted.generated.end());
  TokenHistory history;
  SampleArgs args = sample_args(wanted.params,
                                {.tokens = tokens,
                                 .prompt_size = wanted.prompt.size(),
                                 .choice = wanted.choice,
                                 .vocab_size = static_cast<int64_t>(wanted.logits.size())},
                                wanted.rule, history, edits);
  args.edits = edits;
  const auto near = [&](const SampleArgs& some, double share) {
    Floats logits = wanted.logits;
    const Distribution all = sampler.distribution(logits, some);
    std::vector<Candidate> kept(all.kept.begin(), all.kept.end());
    if (&some != &args)
      std::sort(kept.begin(), kept.end(), [](const Candidate& a, const Candidate& b) {
        return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
      });
    double sum = 0;
    for (const Candidate& candidate : kept) {
      sum += candidate.weight;
      if (std::abs(sum - share * all.total) <= 1e-9 * all.total) return true;
    }
    return false;
  };
  SampleArgs all = args;
  all.top_p = 1;
  all.min_p = 0;
  return near(args, args.u) || (args.top_p < 1 && near(all, args.top_p));
}

// How many tokens differ because rounding may decide.
int compare(const std::vector<Case>& cases, const std::vector<Answer>& answers) {
  int excused = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case& wanted = cases[i];
    const Answer expected = on_host(wanted);
    const Answer& ours = answers[i];
    const SamplingParams& p = wanted.params;
    INFO("vocabulary ", wanted.logits.size(), ", temperature ", p.temperature, ", top_k ", p.top_k,
         ", top_p ", p.top_p, ", min_p ", p.min_p, ", seed ", p.seed, ", generated ",
         wanted.generated.size());
    CHECK(ours.error == expected.error);
    if (ours.id != expected.id && on_a_border(wanted)) {
      ++excused;
      continue;
    }
    CHECK(ours.id == expected.id);
    CHECK(ours.logprob == doctest::Approx(expected.logprob).epsilon(1e-6));
    REQUIRE(ours.top.size() == expected.top.size());
    for (size_t t = 0; t < ours.top.size(); ++t) {
      CHECK(ours.top[t].id == expected.top[t].id);
      CHECK(ours.top[t].logprob == doctest::Approx(expected.top[t].logprob).epsilon(1e-6));
    }
  }
  return excused;
}

// A bell with a few tokens far above it, as a model's logits are.
Floats model_like(Random& random, int64_t vocab_size) {
  Floats logits = random.floats(vocab_size, -2, 2);
  for (float& logit : logits) logit += random.uniform(-2, 2) + random.uniform(-2, 2) + random.uniform(-2, 2);
  for (int i = 0; i < 12; ++i)
    logits[static_cast<size_t>(random.integer(0, vocab_size - 1))] = 16 - static_cast<float>(i);
  return logits;
}

Floats random_logits(Random& random, int64_t vocab_size) {
  Floats logits = model_like(random, vocab_size);
  switch (random.integer(0, 6)) {
    case 0:  // many ties, -0 among them
      for (float& logit : logits) logit = -std::floor(std::abs(logit));
      break;
    case 1:  // nothing but ties
      std::fill(logits.begin(), logits.end(), random.uniform(-3, 3));
      break;
    case 2:  // far apart
      for (float& logit : logits) logit *= 50;
      break;
    case 3:  // close together
      for (float& logit : logits) logit = 20 + logit * 1e-3f;
      break;
    case 4:  // two values
      for (float& logit : logits) logit = logit > 0 ? 1.5f : -0.25f;
      break;
    default:
      break;
  }
  return logits;
}

std::vector<int32_t> random_ids(Random& random, int64_t count, int64_t vocab_size) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(random.integer(0, vocab_size - 1)));
  return ids;
}

// Any parameter with even odds, so that all of them meet in some case.
Case random_case(Random& random, Floats logits) {
  const auto vocab_size = static_cast<int64_t>(logits.size());
  const auto chance = [&] { return random.integer(0, 1) == 1; };
  Case made{
      .logits = std::move(logits), .params = {}, .prompt = {}, .generated = {}, .choice = 0, .rule = {}};
  SamplingParams& p = made.params;
  p.seed = static_cast<uint64_t>(random.integer(0, 1 << 30));
  p.temperature = random.integer(0, 9) == 0 ? 0 : random.uniform(0.05f, 2.5f);
  if (chance()) p.top_k = random.integer(1, std::min<int64_t>(vocab_size + 3, chance() ? 40 : 4000));
  if (chance())
    p.top_p = chance() ? random.uniform(0, 1) : std::array{0.0, 0.5, 0.95, 0.999999}[random.integer(0, 3)];
  if (chance()) p.min_p = chance() ? random.uniform(0, 1) : random.uniform(0, 0.05f);
  if (chance()) p.repetition_penalty = random.uniform(0.5f, 1.8f);
  if (chance()) p.presence_penalty = random.uniform(-2, 2);
  if (chance()) p.frequency_penalty = random.uniform(-1, 1);
  if (chance()) p.penalty_window = random.integer(1, 30);
  if (chance())
    for (const int32_t id :
         random_ids(random, random.integer(1, 6), vocab_size))  // the same one twice, at times
      p.logit_bias.emplace_back(id, chance() ? random.uniform(-8, 8) : -1e30f);
  if (random.integer(0, 3) == 0) {
    p.min_tokens = 5;
    p.eos_token_ids = random_ids(random, 2, vocab_size);
    p.eos_token_ids.push_back(static_cast<int32_t>(vocab_size));  // the tokenizer's, not the model's
    p.stop_token_ids = random_ids(random, 1, vocab_size);
  }
  if (chance()) {
    p.logprobs = true;
    if (chance()) p.top_logprobs = random.integer(1, kMostTopLogprobs);
  }
  made.prompt = random_ids(random, random.integer(1, 40), vocab_size);
  made.generated = random_ids(random, random.integer(0, 25), vocab_size);
  made.choice = static_cast<uint32_t>(random.integer(0, 3));
  if (random.integer(0, 15) == 0) made.rule.forced = random_ids(random, 1, vocab_size)[0];
  if (random.integer(0, 15) == 0) made.rule.forbidden = random_ids(random, 1, vocab_size)[0];
  return made;
}

Case peaked(int64_t vocab_size = 300) {
  Random random(5);
  return {.logits = model_like(random, vocab_size),
          .params = {},
          .prompt = {1, 2, 3},
          .generated = {},
          .choice = 0,
          .rule = {}};
}

}  // namespace

TEST_CASE("a GPU samples the host's tokens, whatever the parameters") {
#ifdef __SANITIZE_ADDRESS__
  constexpr int kRounds = 12;
#else
  constexpr int kRounds = 40;
#endif
  Random random(1);
  Gpu gpu;
  int cases = 0, excused = 0;
  for (int round = 0; round < kRounds; ++round)
    for (const int64_t vocab_size : {1, 2, 7, 64, 300, 1000, 4096, 4099}) {
      std::vector<Case> together;
      for (int i = 0; i < 8; ++i) together.push_back(random_case(random, random_logits(random, vocab_size)));
      excused += compare(together, gpu.sample(together));
      cases += 8;
    }
  MESSAGE(cases, " tokens, ", excused, " of them on a border");
  CHECK(excused <= cases / 1000);
  CHECK(gpu.calls("host") == 0);
}

TEST_CASE("a GPU samples the host's tokens from a whole vocabulary, listed or too flat for it") {
#ifdef __SANITIZE_ADDRESS__
  constexpr int kRounds = 1;
#else
  constexpr int kRounds = 3;
#endif
  Random random(2);
  Gpu gpu;
  for (int round = 0; round < kRounds; ++round)
    for (const int64_t vocab_size : {151936, 248320}) {
      std::vector<Case> together;
      const auto add = [&](Floats logits, double temperature, int64_t top_k, double top_p, double min_p) {
        Case& made = together.emplace_back(random_case(random, std::move(logits)));
        made.params.temperature = temperature;
        made.params.top_k = top_k;
        made.params.top_p = top_p;
        made.params.min_p = min_p;
      };
      Floats flat(static_cast<size_t>(vocab_size), 0.5f);
      add(model_like(random, vocab_size), 0.6, 20, 0.95, 0);
      add(model_like(random, vocab_size), 1, 0, 1, 0);
      add(model_like(random, vocab_size), 1, 0, 0.95, 0);
      add(model_like(random, vocab_size), 2, 0, 0.999, 0.01);
      add(model_like(random, vocab_size), 0, 0, 1, 0);
      add(flat, 1, 0, 0.7, 0);
      add(flat, 1, 17, 0.9, 0.5);
      CHECK(compare(together, gpu.sample(together)) == 0);
    }
}

TEST_CASE("a GPU's tokens do not depend on the rows beside them") {
  Random random(3);
  std::vector<Case> cases;
  for (int i = 0; i < 20; ++i) cases.push_back(random_case(random, random_logits(random, 5000)));
  Gpu gpu;
  const std::vector<Answer> together = gpu.sample(cases);
  for (size_t i = 0; i < cases.size(); ++i) {
    const Answer alone = gpu.sample({cases[i]})[0];
    CHECK(alone.error == together[i].error);
    CHECK(alone.id == together[i].id);
    CHECK(same_bits({alone.logprob}, {together[i].logprob}));
    REQUIRE(alone.top.size() == together[i].top.size());
    for (size_t t = 0; t < alone.top.size(); ++t) {
      CHECK(alone.top[t].id == together[i].top[t].id);
      CHECK(same_bits({alone.top[t].logprob}, {together[i].top[t].logprob}));
    }
  }
}

TEST_CASE("more rows than a GPU samples at once, all choices of one request") {
  Case one = peaked();
  one.params.temperature = 2.5;
  one.params.top_k = 30;
  one.params.top_p = 0.9;
  one.params.logprobs = true;
  one.params.top_logprobs = 2;
  std::vector<Case> choices(300, one);
  for (uint32_t i = 0; i < 300; ++i) choices[i].choice = i;
  Gpu gpu;
  const std::vector<Answer> answers = gpu.sample(choices);
  CHECK(compare(choices, answers) == 0);
  CHECK(gpu.calls("sample") == 2);
  CHECK(gpu.calls("host") == 0);
  std::vector<int32_t> ids;
  for (const Answer& answer : answers) ids.push_back(answer.id);
  CHECK(gpu.ids_left_there(300) == ids);
  std::sort(ids.begin(), ids.end());
  CHECK(std::unique(ids.begin(), ids.end()) - ids.begin() > 3);
}

TEST_CASE("the first and the last number that can be drawn, and a temperature that leaves one token") {
  Case one = peaked();
  Gpu gpu;
  for (const double temperature : {1e-30, 0.7, 100.0}) {
    for (const int64_t top_k : {0, 3}) {
      one.params.temperature = temperature;
      one.params.top_k = top_k;
      // By hand, for no seed is known to give these.
      for (const double u : {0.0, 1 - 0x1p-53}) {
        SampleArgs args;
        args.temperature = temperature;
        args.top_k = top_k;
        args.u = u;
        RowSampler host;
        Floats logits = one.logits;
        SampledRow expected;
        host.sample(logits, args, expected);
        CHECK(gpu.sample_as(one.logits, args).id == expected.id);
      }
    }
  }
}

TEST_CASE("where equally likely tokens meet, a number belongs to the later one, and top_p to the earlier") {
  Gpu gpu;
  for (const size_t vocab_size : {size_t{4}, size_t{1024}}) {
    const Floats logits(vocab_size, -1.5f);
    for (const double top_p : {1.0, 0.75, 0.5})
      for (int eighth = 0; eighth < 8; ++eighth) {
        SampleArgs args;
        args.top_p = top_p;
        args.u = eighth / 8.0;
        const double kept = top_p * static_cast<double>(vocab_size);
        CHECK(gpu.sample_as(logits, args).id == static_cast<int32_t>(args.u * kept));
      }
  }
}

TEST_CASE("rows that cannot be sampled on a GPU say so, and their neighbours do not notice") {
  Gpu gpu;
  for (const bool logprobs : {false, true})
    for (const double temperature : {0.0, 1.0}) {
      std::vector<Case> cases(6, peaked(5000));
      for (Case& each : cases) {
        each.params.temperature = temperature;
        each.params.logprobs = logprobs;
        each.params.top_logprobs = logprobs ? 3 : 0;
      }
      cases[0].logits[4999] = NAN;
      cases[1].logits[17] = kInfinity;
      cases[1].params.top_k = 5;
      cases[2].logits[4200] = -kInfinity;  // under an edit too
      cases[2].params.logit_bias = {{4200, 3.0f}};
      cases[3].params.min_tokens = 1;
      for (int32_t id = 0; id < 5000; ++id) cases[3].params.stop_token_ids.push_back(id);
      cases[3].params.top_p = 0.5;
      const auto answers = gpu.sample(cases);
      CHECK(compare(cases, answers) == 0);
      for (const size_t broken : {0, 1, 2})
        CHECK(answers[broken].error ==
              "the model's logits are not finite: its weights hold NaN or infinite values");
      CHECK(answers[3].error == "every token is forbidden by logit_bias and min_tokens");
      CHECK(answers[4].error == "");
      CHECK(answers[5].error == "");
    }
}

TEST_CASE("a step without tokens, and a vocabulary that ids have no room for") {
  cuda::CudaBackend backend({.precision = Precision::f32, .device = 0});
  backend.sample({nullptr, 0, 300}, {}, {});
  backend.finish_sampling();
  CHECK_THROWS_WITH_AS(backend.sample({nullptr, 0, 5'000'000}, {}, {}),
                       "a vocabulary of 5000000 tokens; on a GPU at most 4194304", Error);
}
