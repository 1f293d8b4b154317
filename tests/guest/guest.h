/* What the host programs of these tests have in common. A host is a plugin: guest_main.c loads it with dlopen, and the library
 * with it, the way interpreters do. */
#ifndef GUEST_H
#define GUEST_H

#include <qwen.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int host_main(int argc, char** argv);

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                        \
    }                                                                 \
  } while (0)

/* Ends the program where a call has failed that must not. */
static inline void must(int32_t status, qwen_error* error, const char* what) {
  if (status == QWEN_OK) return;
  fprintf(stderr, "%s: %s: %s\n", what, qwen_status_name(status), qwen_error_message(error));
  exit(1);
}
#define MUST(call)                 \
  do {                             \
    qwen_error* error = NULL;      \
    const int32_t status = (call); \
    must(status, error, #call);    \
  } while (0)

/* FNV-1a: what was generated, as one number. */
static inline uint64_t digest(uint64_t hash, const void* data, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ ((const unsigned char*)data)[i]) * 0x100000001b3u;
  return hash;
}
#define DIGEST_BEGIN 0xcbf29ce484222325u

/* Few threads, a small cache, and the greedy answer of `tokens` tokens with its logarithms of probabilities. */
static inline qwen_options* engine_options(void) {
  qwen_options* options = NULL;
  MUST(qwen_options_new(&options, &error));
  MUST(qwen_options_set_i64(options, "threads", 2, &error));
  MUST(qwen_options_set_i64(options, "kv_cache_bytes", 4 << 20, &error));
  return options;
}
/* The same with room for long answers. */
static inline qwen_options* large_engine_options(void) {
  qwen_options* options = engine_options();
  MUST(qwen_options_set_i64(options, "kv_cache_bytes", INT64_C(1) << 30, &error));
  return options;
}
static inline qwen_options* request_options(int64_t tokens) {
  qwen_options* options = NULL;
  MUST(qwen_options_new(&options, &error));
  MUST(qwen_options_set_i64(options, "max_tokens", tokens, &error));
  MUST(qwen_options_set_i64(options, "ignore_eos", 1, &error));
  MUST(qwen_options_set_i64(options, "logprobs", 1, &error));
  MUST(qwen_options_set_f64(options, "temperature", 0.8, &error));
  MUST(qwen_options_set_i64(options, "seed", 7, &error));
  return options;
}
static inline qwen_prompt* token_prompt(void) {
  int32_t ids[40];
  for (int i = 0; i < 40; ++i) ids[i] = 10 + 7 * i;
  qwen_prompt* prompt = NULL;
  MUST(qwen_prompt_new(&prompt, &error));
  MUST(qwen_prompt_add_tokens(prompt, ids, 40, &error));
  return prompt;
}
static inline qwen_engine* create(const char* path) {
  qwen_options* options = engine_options();
  qwen_engine* engine = NULL;
  MUST(qwen_create(path, options, &engine, &error));
  qwen_options_free(options);
  return engine;
}
static inline qwen_engine* create_large(const char* path) {
  qwen_options* options = large_engine_options();
  qwen_engine* engine = NULL;
  MUST(qwen_create(path, options, &engine, &error));
  qwen_options_free(options);
  return engine;
}
/* Waits until so many choices are in flight: who is to be met inside the library must have come in. */
static inline void wait_for(qwen_engine* engine, int64_t choices) {
  qwen_engine_stats stats = {.struct_size = sizeof stats};
  do {
    MUST(qwen_engine_stats_get(engine, &stats, &error));
  } while (stats.running + stats.waiting < choices);
}
/* Tokens and probabilities of an answer. */
static inline uint64_t result_digest(const qwen_result* result) {
  uint64_t hash = DIGEST_BEGIN;
  for (size_t i = 0; i < qwen_result_choice_count(result); ++i) {
    qwen_choice choice = {.struct_size = sizeof choice};
    MUST(qwen_result_choice_get(result, i, &choice, &error));
    hash = digest(hash, choice.token_ids, choice.token_count * sizeof *choice.token_ids);
    if (choice.logprobs) hash = digest(hash, choice.logprobs, choice.token_count * sizeof *choice.logprobs);
    hash = digest(hash, choice.text, choice.text_length);
    hash = digest(hash, choice.reasoning, choice.reasoning_length);
    hash = digest(hash, &choice.finish_reason, sizeof choice.finish_reason);
  }
  return hash;
}
static inline uint64_t generate(qwen_engine* engine, int64_t tokens) {
  qwen_options* options = request_options(tokens);
  qwen_prompt* prompt = token_prompt();
  qwen_result* result = NULL;
  MUST(qwen_generate(engine, prompt, options, NULL, NULL, &result, &error));
  const uint64_t hash = result_digest(result);
  qwen_result_free(result);
  qwen_prompt_free(prompt);
  qwen_options_free(options);
  return hash;
}

#endif
