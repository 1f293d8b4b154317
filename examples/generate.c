/* Asks a model one question and prints the answer as it comes.
 *
 *     cc generate.c $(pkg-config --cflags --libs qwen) -o generate
 *     ./generate path/to/Qwen3-0.6B "Why is the sky blue?"
 */
#include <qwen.h>
#include <stdio.h>
#include <string.h>

static int32_t on_event(const qwen_event *event, void *user) {
  int32_t *channel = user; /* thoughts come first, then the answer */
  if (event->text_length == 0) return 0;
  if (*channel >= 0 && event->channel != *channel) fputs("\n\n", stdout);
  *channel = event->channel;
  fwrite(event->text, 1, event->text_length, stdout);
  fflush(stdout);
  return 0; /* go on */
}

int main(int argc, char **argv) {
  qwen_engine *engine = NULL;
  qwen_prompt *prompt = NULL;
  qwen_result *result = NULL;
  qwen_error *error = NULL;
  qwen_stats stats = {.struct_size = sizeof stats};
  int32_t channel = -1;
  if (argc != 3) return fprintf(stderr, "usage: %s MODEL_FOLDER QUESTION\n", argv[0]), 2;

  int failed = qwen_create(argv[1], NULL, &engine, &error) ||
               qwen_prompt_new(&prompt, &error) ||
               qwen_prompt_add_message(prompt, "user", argv[2], strlen(argv[2]), &error) ||
               qwen_generate(engine, prompt, NULL, on_event, &channel, &result, &error) ||
               qwen_result_stats_get(result, &stats, &error);
  if (failed)
    fprintf(stderr, "%s: %s\n", qwen_status_name(qwen_error_code(error)), qwen_error_message(error));
  else /* the first token came with the prompt: the others took generate_seconds */
    printf("\n[%lld tokens, %.1f tokens/s]\n", (long long)stats.generated_tokens,
           stats.generate_seconds > 0 ? (double)(stats.generated_tokens - 1) / stats.generate_seconds : 0.0);

  qwen_error_free(error);
  qwen_result_free(result);
  qwen_prompt_free(prompt);
  qwen_destroy(engine);
  return failed;
}
