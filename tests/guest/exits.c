/* A process ends while the library works for it. exits MODEL HOW; MODEL's answers are long. */
#define _GNU_SOURCE
#include <pthread.h>
#include <unistd.h>

#include "guest.h"

static qwen_engine *engine;
static const char *how;
static volatile int steps;

static void *generate_forever(void *unused) {
  (void)unused;
  qwen_options *options = request_options(20000);
  qwen_prompt *prompt = token_prompt();
  while (qwen_generate(engine, prompt, options, NULL, NULL, NULL, NULL) == QWEN_OK) {
  }
  return NULL;
}
static void *exit_soon(void *unused) {
  (void)unused;
  usleep(20000);
  exit(0);
}
static void on_step(const qwen_step *step, void *user) {
  (void)user;
  steps = (int)step->number;
  if (strcmp(how, "exit on the library's thread") == 0 && step->number > 5) exit(0);
}
static int32_t exit_in_callback(const qwen_event *event, void *user) {
  (void)event, (void)user;
  exit(0);
}

int host_main(int argc, char **argv) {
  CHECK(argc == 3);
  how = argv[2];
  alarm(20);
  qwen_options *options = large_engine_options(), *sampling = request_options(20000);
  qwen_prompt *prompt = token_prompt();
  qwen_queue *queue = NULL;
  qwen_request *requests[4];
  pthread_t threads[3], last;
  MUST(qwen_options_set_callback(options, "trace", (qwen_callback_fn)on_step, NULL, NULL, &error));
  MUST(qwen_create(argv[1], options, &engine, &error));
  MUST(qwen_queue_new(&queue, &error));
  for (int i = 0; i < 4; ++i) MUST(qwen_submit(engine, prompt, sampling, queue, 0, &requests[i], &error));
  for (int i = 0; i < 3; ++i) CHECK(pthread_create(&threads[i], NULL, generate_forever, NULL) == 0);
  wait_for(engine, 7);
  while (steps < 3) usleep(1000);
  if (strcmp(how, "exit") == 0) exit(0);
  if (strcmp(how, "_exit") == 0) _exit(0);
  if (strcmp(how, "quick_exit") == 0) quick_exit(0);
  if (strcmp(how, "exit on the library's thread") == 0) pause();
  if (strcmp(how, "exit in a callback") == 0) qwen_generate(engine, prompt, sampling, exit_in_callback, NULL, NULL, NULL);
  if (strcmp(how, "pthread_exit of main") == 0) {
    CHECK(pthread_create(&last, NULL, exit_soon, NULL) == 0);
    pthread_exit(NULL);
  }
  if (strcmp(how, "destroy, then all threads end") == 0) {
    qwen_destroy(engine); /* those who wait inside come back */
    for (int i = 0; i < 3; ++i) pthread_join(threads[i], NULL);
    pthread_exit(NULL);
  }
  CHECK(strcmp(how, "return") == 0);
  exit(0 * printf("%s", "")); /* what the C runtime does when main returns */
}
