// What the penalties look at, kept token by token, beside what a look at all tokens finds.
#include <doctest/doctest.h>

#include <map>

#include "engine/sampler.h"
#include "engine/token_history.h"
#include "kernel_fixtures.h"

using namespace qwen;

namespace {

struct Occurrences {
  int32_t all = 0, generated = 0;
  bool operator==(const Occurrences&) const = default;
};
using Table = std::map<int32_t, Occurrences>;

Table counted(const TokenHistory& history) {
  Table table;
  int32_t last = -1;
  for (const TokenHistory::Count& count : history.counts()) {
    CHECK(count.id > last);
    last = count.id;
    table[count.id] = {count.all, count.generated};
  }
  return table;
}

Table counted(const SamplingParams& params, std::span<const int32_t> tokens, size_t prompt_size) {
  const auto size = static_cast<int64_t>(tokens.size());
  const int64_t first = params.penalty_window > 0 ? std::max<int64_t>(0, size - params.penalty_window) : 0;
  Table table;
  for (int64_t i = first; i < size; ++i) {
    const int32_t id = tokens[static_cast<size_t>(i)];
    if (params.repetition_penalty != 1) ++table[id].all;
    if (i >= static_cast<int64_t>(prompt_size) &&
        (params.presence_penalty != 0 || params.frequency_penalty != 0))
      ++table[id].generated;
  }
  return table;
}

}  // namespace

TEST_CASE("a history that follows its tokens knows what a look at all of them finds") {
  test::Random random(1);
  for (int round = 0; round < 300; ++round) {
    SamplingParams params;
    if (random.integer(0, 2) > 0) params.repetition_penalty = 1.2;
    if (random.integer(0, 1) > 0) params.presence_penalty = 0.3;
    if (random.integer(0, 1) > 0) params.frequency_penalty = 0.1;
    if (random.integer(0, 1) > 0) params.penalty_window = random.integer(1, 50);
    const auto prompt_size = static_cast<size_t>(random.integer(0, 60));
    std::vector<int32_t> tokens;
    const auto add = [&](int64_t count) {
      for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(random.integer(0, 25)));
    };
    add(static_cast<int64_t>(prompt_size));
    TokenHistory history;
    for (int step = 0; step < 40; ++step) {
      history.follow(params, tokens, prompt_size);
      REQUIRE(counted(history) == counted(params, tokens, prompt_size));
      add(random.integer(0, 9) == 0 ? random.integer(0, 90) : 1);  // several at a time, too
    }
  }
}

TEST_CASE("without penalties a history remembers nothing, and no edits are made") {
  const std::vector<int32_t> tokens{1, 2, 3, 2};
  TokenHistory history;
  std::vector<LogitEdit> edits;
  const SampleArgs args =
      sample_args({}, {.tokens = tokens, .prompt_size = 2, .choice = 0, .vocab_size = 9}, {}, history, edits);
  CHECK(history.counts().empty());
  CHECK(edits.empty());
  CHECK(args.temperature == 1);
}

TEST_CASE("edits are in the order of their tokens, and biases come before penalties") {
  SamplingParams params;
  params.logit_bias = {{5, 1.0f}, {2, 3.0f}, {5, 2.0f}};
  params.repetition_penalty = 1.5;
  params.frequency_penalty = 0.25;
  const std::vector<int32_t> tokens{7, 5, 2, 2};
  TokenHistory history;
  std::vector<LogitEdit> edits{{.id = 100}};  // another row's
  sample_args(params, {.tokens = tokens, .prompt_size = 1, .choice = 0, .vocab_size = 200},
              {.forced = {}, .forbidden = 7}, history, edits);
  REQUIRE(edits.size() == 8);
  std::vector<int32_t> ids;
  for (const LogitEdit& edit : edits) ids.push_back(edit.id);
  CHECK(ids == std::vector<int32_t>{100, 2, 2, 5, 5, 5, 7, 7});
  CHECK(edits[1].bias == 3);
  CHECK(edits[2].repetition == 1.5f);
  CHECK(edits[2].subtract == 0.5f);
  CHECK(edits[3].bias == 1);
  CHECK(edits[4].bias == 2);
  CHECK(edits[5].subtract == 0.25f);
  CHECK(edits[6].bias == -INFINITY);
  CHECK(edits[7].repetition == 1.5f);
  CHECK(edits[7].subtract == 0);  // in the prompt only

  edits.clear();  // who is forced needs none
  CHECK(sample_args(params, {.tokens = tokens, .prompt_size = 1, .choice = 0, .vocab_size = 200},
                    {.forced = 3, .forbidden = {}}, history, edits)
            .forced == 3);
  CHECK(edits.empty());
}
