/* From the start of a process to the first token of an answer, and what each stage took. bench_startup.py and bench_peers.py
 * drive it:
 *
 *     first_token MODEL PROMPT BEGIN [ANSWER [KEY=VALUE …]]
 *
 * BEGIN: CLOCK_MONOTONIC of the moment just before this process was made, in nanoseconds; ANSWER: how many tokens to generate, 1
 * unless given; KEY=VALUE: options of the engine. A PROMPT "N" of digits alone is a prompt of N tokens instead of a text.
 * Prints one line of JSON: how many tokens the prompt had, the first of the answer, and milliseconds from BEGIN to the end of each
 * stage. */
#include <ctype.h>
#include <qwen.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAIN, OPEN, ENGINE, TOKEN, ANSWERED, FREED, STAGES };
static const char *const kNames[STAGES] = {"main", "open", "engine", "token", "answer", "freed"};
static int64_t begin, ends[STAGES];
static int32_t first_token;

static void end_of(int stage) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  ends[stage] = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec - begin;
}

static int32_t on_event(const qwen_event *event, void *user) {
  (void)user;
  if (event->token_count == 0 || ends[TOKEN] != 0) return 0;
  first_token = event->token_ids[0];
  end_of(TOKEN);
  return 0;
}

static int32_t add_prompt(qwen_prompt *prompt, const char *text, qwen_error **error) {
  int32_t *ids;
  int32_t status;
  const size_t count = isdigit((unsigned char)*text) ? (size_t)atol(text) : 0;
  if (count == 0) return qwen_prompt_add_text(prompt, text, strlen(text), error);
  ids = malloc(count * sizeof *ids);
  for (size_t i = 0; i < count; ++i) ids[i] = (int32_t)(i * 7919 % 100000);
  status = qwen_prompt_add_tokens(prompt, ids, count, error);
  free(ids);
  return status;
}

static int32_t set_option(qwen_options *options, char *pair, qwen_error **error) {
  char *value = strchr(pair, '=');
  char *end;
  long long number;
  if (value == NULL) return fprintf(stderr, "%s: KEY=VALUE is wanted\n", pair), 1;
  *value++ = '\0';
  number = strtoll(value, &end, 10);
  return *end == '\0' ? qwen_options_set_i64(options, pair, number, error)
                      : qwen_options_set_str(options, pair, value, strlen(value), error);
}

int main(int argc, char **argv) {
  qwen_options *options = NULL, *request = NULL;
  qwen_model *model = NULL;
  qwen_engine *engine = NULL;
  qwen_prompt *prompt = NULL;
  qwen_result *result = NULL;
  qwen_error *error = NULL;
  qwen_stats stats = {.struct_size = sizeof stats};
  int failed;
  if (argc < 4) return fprintf(stderr, "usage: %s MODEL PROMPT BEGIN [ANSWER [KEY=VALUE ...]]\n", argv[0]), 2;
  begin = strtoll(argv[3], NULL, 10);
  end_of(MAIN);

  failed = qwen_options_new(&options, &error) || qwen_options_new(&request, &error);
  for (int i = 5; i < argc && !failed; ++i) failed = set_option(options, argv[i], &error);
  failed = failed || qwen_options_set_i64(request, "max_tokens", argc > 4 ? atol(argv[4]) : 1, &error) ||
           qwen_options_set_i64(request, "ignore_eos", 1, &error) ||
           qwen_options_set_f64(request, "temperature", 0, &error) ||
           qwen_model_open(argv[1], options, &model, &error);
  end_of(OPEN);
  failed = failed || qwen_engine_new(model, options, &engine, &error);
  end_of(ENGINE);
  failed = failed || qwen_prompt_new(&prompt, &error) || add_prompt(prompt, argv[2], &error) ||
           qwen_generate(engine, prompt, request, on_event, NULL, &result, &error) ||
           qwen_result_stats_get(result, &stats, &error);
  end_of(ANSWERED);
  if (failed)
    fprintf(stderr, "%s: %s\n", qwen_status_name(qwen_error_code(error)), qwen_error_message(error));

  qwen_error_free(error);
  qwen_result_free(result);
  qwen_prompt_free(prompt);
  qwen_destroy(engine);
  qwen_model_free(model);
  qwen_options_free(request);
  qwen_options_free(options);
  end_of(FREED);
  printf("{\"prompt_tokens\": %lld, \"tokens\": [%d]", (long long)stats.prompt_tokens, first_token);
  for (int i = 0; i < STAGES; ++i) printf(", \"%s\": %.3f", kNames[i], (double)ends[i] * 1e-6);
  puts("}");
  return failed;
}
