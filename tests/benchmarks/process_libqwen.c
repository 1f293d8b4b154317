/* The first token after a text, and the end: a whole process of libqwen, for bench_peers.py.
 *
 *     process_libqwen MODEL THREADS TEXT
 */
#include <qwen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
  qwen_options *options = NULL, *request = NULL;
  qwen_engine *engine = NULL;
  qwen_prompt *prompt = NULL;
  qwen_result *result = NULL;
  qwen_error *error = NULL;
  qwen_stats stats = {.struct_size = sizeof stats};
  qwen_choice choice = {.struct_size = sizeof choice};
  if (argc != 4) return fprintf(stderr, "usage: %s MODEL THREADS TEXT\n", argv[0]), 2;

  int failed = qwen_options_new(&options, &error) ||
               qwen_options_set_i64(options, "threads", atol(argv[2]), &error) ||
               qwen_options_set_i64(options, "context_length", 2048, &error) ||
               qwen_options_new(&request, &error) ||
               qwen_options_set_i64(request, "max_tokens", 1, &error) ||
               qwen_options_set_f64(request, "temperature", 0, &error) ||
               qwen_create(argv[1], options, &engine, &error) ||
               qwen_prompt_new(&prompt, &error) ||
               qwen_prompt_add_text(prompt, argv[3], strlen(argv[3]), &error) ||
               qwen_generate(engine, prompt, request, NULL, NULL, &result, &error) ||
               qwen_result_stats_get(result, &stats, &error) ||
               qwen_result_choice_get(result, 0, &choice, &error);
  if (failed)
    fprintf(stderr, "%s: %s\n", qwen_status_name(qwen_error_code(error)), qwen_error_message(error));
  else
    printf("{\"prompt_tokens\": %lld, \"tokens\": [%d]}\n", (long long)stats.prompt_tokens, choice.token_ids[0]);

  qwen_error_free(error);
  qwen_result_free(result);
  qwen_prompt_free(prompt);
  qwen_destroy(engine);
  qwen_options_free(request);
  qwen_options_free(options);
  return failed;
}
