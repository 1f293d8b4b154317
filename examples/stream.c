/* Takes the answer event by event, without a callback; Ctrl-C ends it early and keeps what there is.
 *
 *     cc stream.c $(pkg-config --cflags --libs qwen) -o stream
 *     ./stream path/to/Qwen3-0.6B "Tell me a long story."
 */
#include <qwen.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static volatile sig_atomic_t interrupted = 0;

/* A handler may do next to nothing: the loop below sees the flag within its timeout. */
static void on_interrupt(int signal_number) {
  (void)signal_number;
  interrupted = 1;
}

/* Prints what comes until the last event is out; returns how the request ended. */
static int32_t print_events(qwen_request *request) {
  qwen_event event = {.struct_size = sizeof event};
  int32_t channel = -1; /* thoughts come first, then the answer */
  for (;;) {
    int32_t status = qwen_request_next(request, 100, &event, NULL);
    if (interrupted) qwen_request_cancel(request); /* any number of times; the DONE event follows soon */
    if (status == QWEN_ERR_TIMEOUT) continue;      /* nothing in these 100 ms: time for other things */
    if (status != QWEN_OK) return status;
    if (event.type == QWEN_EVENT_DONE) return event.status;
    if (event.text_length == 0) continue;
    if (channel >= 0 && event.channel != channel) fputs("\n\n", stdout);
    channel = event.channel;
    fwrite(event.text, 1, event.text_length, stdout);
    fflush(stdout);
  }
}

int main(int argc, char **argv) {
  qwen_engine *engine = NULL;
  qwen_prompt *prompt = NULL;
  qwen_request *request = NULL;
  qwen_result *result = NULL;
  qwen_error *error = NULL;
  qwen_stats stats = {.struct_size = sizeof stats};
  int32_t ended = QWEN_OK;
  if (argc != 3) return fprintf(stderr, "usage: %s MODEL_FOLDER QUESTION\n", argv[0]), 2;
  signal(SIGINT, on_interrupt);

  int failed = qwen_create(argv[1], NULL, &engine, &error) ||
               qwen_prompt_new(&prompt, &error) ||
               qwen_prompt_add_message(prompt, "user", argv[2], strlen(argv[2]), &error) ||
               qwen_submit(engine, prompt, NULL, NULL, 0, &request, &error);
  if (!failed) {
    ended = print_events(request);
    failed = qwen_request_result(request, &result, &error) || /* of a cancelled request as well */
             qwen_result_stats_get(result, &stats, &error);
  }
  if (failed)
    fprintf(stderr, "%s: %s\n", qwen_status_name(qwen_error_code(error)), qwen_error_message(error));
  else
    printf("\n[%lld tokens, %s]\n", (long long)stats.generated_tokens,
           ended == QWEN_OK ? "done" : ended == QWEN_ERR_CANCELLED ? "interrupted" : qwen_status_name(ended));

  qwen_error_free(error);
  qwen_result_free(result);
  qwen_request_free(request);
  qwen_prompt_free(prompt);
  qwen_destroy(engine);
  return failed || (ended != QWEN_OK && ended != QWEN_ERR_CANCELLED);
}
