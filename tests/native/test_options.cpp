#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "base/options.h"

using namespace qwen;

TEST_CASE("every default in the table is a value the table allows") {
  for (const OptionRow& row : option_table()) {
    if (!*row.default_text) continue;
    Options options;
    if (row.type == OptionType::i64) options.set(row.key, options.i64_or_default(row.key));
    if (row.type == OptionType::f64) options.set(row.key, options.f64_or_default(row.key));
    if (row.type == OptionType::str) options.set(row.key, options.str_or_default(row.key));
  }
}

TEST_CASE("an unknown key, another type and a value out of bounds are errors that say what is allowed") {
  Options options;
  CHECK_THROWS_AS(options.set("temprature", 1.0), Error);
  CHECK_THROWS_WITH_AS(options.set("top_k", 0.5), "option 'top_k' takes an integer, not a number", Error);
  CHECK_THROWS_WITH_AS(options.set("temperature", -1.0), "option 'temperature' is -1; allowed are 0 to 100",
                       Error);
  CHECK_THROWS_AS(options.set("temperature", std::nan("")), Error);
  CHECK_THROWS_AS(options.set("seed", (int64_t{1} << 53) + 1), Error);
  options.set("seed", int64_t{1} << 53);
  CHECK_THROWS_WITH_AS(options.set("dtype", std::string_view("fp4")),
                       "option 'dtype' is 'fp4'; allowed are bf16|f32", Error);
  CHECK_THROWS_AS(options.set("stop_token_ids", std::vector<int32_t>{-1}), Error);
  CHECK_THROWS_AS(options.set("logit_bias", TokenBias{{3, std::nanf("")}}), Error);
  options.set("temperature", int64_t{1});  // an integer is a number
  CHECK(options.f64("temperature") == 1.0);
}

TEST_CASE("an option of the other scope is named") {
  Options options;
  options.set("threads", int64_t{2});
  options.check_scope(OptionScope::engine);
  CHECK_THROWS_WITH_AS(options.check_scope(OptionScope::request),
                       "option 'threads' belongs to the engine; give it to qwen_create or qwen_model_open",
                       Error);
}

TEST_CASE("what is set wins over the environment, which wins over the default, for engine options only") {
  Options options;
  ::setenv("QWEN_THREADS", "3", 1);
  CHECK(options.i64_or_default("threads") == 3);
  options.set("threads", int64_t{2});
  CHECK(options.i64_or_default("threads") == 2);
  ::setenv("QWEN_THREADS", "many", 1);
  CHECK(options.i64_or_default("threads") == 2);
  CHECK_THROWS_WITH_AS(Options().i64("threads"), "QWEN_THREADS is 'many', it must be an integer", Error);
  ::unsetenv("QWEN_THREADS");
  ::setenv("QWEN_TOP_K", "3", 1);
  CHECK(Options().i64_or_default("top_k") == 0);
  ::unsetenv("QWEN_TOP_K");
}
