// Microseconds per token of sample_args() and RowSampler::sample(), which the CPU does for each, over a vocabulary of Qwen's size, on one
// thread. Usage: bench_sampler
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <vector>

#include "backend/row_sampler.h"
#include "engine/random.h"
#include "engine/sampler.h"

namespace {

using namespace qwen;
constexpr int32_t kVocabSize = 151936;

// This thread's own processor time, so that a busy neighbour does not count.
double now() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// A bell of width 2.5 around 0 and some tokens far above it, as a model's logits are.
std::vector<float> model_like_logits() {
  std::vector<float> logits(kVocabSize);
  for (size_t i = 0; i < logits.size(); ++i) {
    double sum = -6;
    for (uint32_t j = 0; j < 12; ++j) sum += uniform({1, j}, i);
    logits[i] = static_cast<float>(2.5 * sum);
  }
  for (size_t i = 0; i < 40; ++i) logits[i * 3571 % kVocabSize] = 22.0f - 0.4f * static_cast<float>(i);
  return logits;
}

}  // namespace

int main() {
  const std::vector<float> logits = model_like_logits();
  std::vector<int32_t> tokens;
  for (uint64_t i = 0; i < 4000; ++i) tokens.push_back(static_cast<int32_t>(uniform({2, 0}, i) * kVocabSize));

  RowSampler sampler;
  std::vector<LogitEdit> edits;
  SampledRow sampled;
  std::vector<float> row = logits;
  const auto bench = [&](const char* what, const std::function<void(SamplingParams&)>& set) {
    SamplingParams params;
    params.temperature = 0.6;
    params.top_k = 20;
    params.top_p = 0.95;
    set(params);
    std::vector<double> times;
    TokenHistory history;
    history.follow(params, tokens, 3000);  // as the token before has left it
    for (params.seed = 0; params.seed < 60; ++params.seed) {
      std::copy(logits.begin(), logits.end(), row.begin());
      const double start = now();
      edits.clear();
      SampleArgs args =
          sample_args(params, {.tokens = tokens, .prompt_size = 3000, .choice = 0, .vocab_size = kVocabSize},
                      {}, history, edits);
      args.edits = edits;
      sampler.sample(row, args, sampled);
      times.push_back(now() - start);
    }
    std::sort(times.begin(), times.end());  // the fastest: other processes only ever add time
    std::printf("%-62s %8.1f us  (median %8.1f)\n", what, times.front() * 1e6, times[times.size() / 2] * 1e6);
  };
  bench("greedy", [](SamplingParams& p) { p.temperature = 0; });
  bench("greedy, logprobs", [](SamplingParams& p) { p.temperature = 0, p.logprobs = true; });
  bench("temperature 0.6, top_k 20, top_p 0.95", [](SamplingParams&) {});
  bench("... repetition_penalty 1.05 over 4,000 tokens",
        [](SamplingParams& p) { p.repetition_penalty = 1.05; });
  bench("... presence and frequency penalty over 1,000 tokens",
        [](SamplingParams& p) { p.presence_penalty = p.frequency_penalty = 0.5; });
  bench("... logprobs", [](SamplingParams& p) { p.logprobs = true; });
#ifndef NO_TOP_LOGPROBS
  bench("... top_logprobs 5", [](SamplingParams& p) { p.logprobs = true, p.top_logprobs = 5; });
#endif
  bench("... top_p 1", [](SamplingParams& p) { p.top_p = 1; });
  bench("temperature 0.6, top_p 0.95, no top_k", [](SamplingParams& p) { p.top_k = 0; });
  bench("temperature 1, min_p 0.05, no top_k, no top_p",
        [](SamplingParams& p) { p.temperature = p.top_p = 1, p.top_k = 0, p.min_p = 0.05; });
  bench("temperature 1, nothing else", [](SamplingParams& p) { p.temperature = p.top_p = 1, p.top_k = 0; });
  bench("temperature 2, top_p 0.95, no top_k", [](SamplingParams& p) { p.temperature = 2, p.top_k = 0; });
  bench("temperature 1.4, top_p 0.95, no top_k", [](SamplingParams& p) { p.temperature = 1.4, p.top_k = 0; });
  return 0;
}
