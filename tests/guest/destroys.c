/* qwen_destroy from another thread than the one that created, while others wait inside: they all come back. destroys MODEL */
#define _GNU_SOURCE
#include <pthread.h>
#include <unistd.h>

#include "guest.h"

static qwen_engine *engine;
static qwen_request *request;
static int32_t status[5];

static void *in_generate(void *unused) {
  (void)unused;
  qwen_options *options = request_options(20000);
  qwen_prompt *prompt = token_prompt();
  status[0] = qwen_generate(engine, prompt, options, NULL, NULL, NULL, NULL);
  qwen_prompt_free(prompt);
  qwen_options_free(options);
  return NULL;
}
static void *in_next(void *unused) {
  (void)unused;
  qwen_event event = {.struct_size = sizeof event};
  int32_t got = QWEN_OK;
  while (got == QWEN_OK && event.type != QWEN_EVENT_DONE) got = qwen_request_next(request, -1, &event, NULL);
  status[1] = got == QWEN_OK ? event.status : got;
  return NULL;
}
static void *in_drain(void *unused) {
  (void)unused;
  status[2] = qwen_engine_drain(engine, -1, NULL);
  return NULL;
}
static void *in_forward(void *unused) {
  (void)unused;
  enum { LISTS = 100, LENGTH = 4000 };
  static int32_t ids[LISTS * LENGTH];
  static size_t counts[LISTS], last[LISTS];
  for (int i = 0; i < LISTS * LENGTH; ++i) ids[i] = (i % 499 + i / LENGTH) % 250;
  for (int i = 0; i < LISTS; ++i) counts[i] = LENGTH, last[i] = LENGTH - 1;
  qwen_tensors *tensors = NULL;
  status[3] = qwen_forward(engine, ids, counts, last, LISTS, QWEN_OUTPUT_LOGITS, NULL, &tensors, NULL);
  qwen_tensors_free(tensors);
  return NULL;
}
static void *in_embed(void *unused) {
  (void)unused;
  qwen_inputs *inputs = NULL;
  qwen_tensors *tensors = NULL;
  int32_t ids[400];
  MUST(qwen_inputs_new(0, &inputs, &error));
  for (int n = 0; n < 2000; ++n) {
    for (int i = 0; i < 400; ++i) ids[i] = (i * 31 + n) % 500;
    MUST(qwen_inputs_add_tokens(inputs, ids, 400, &error));
  }
  status[4] = qwen_embed(engine, inputs, 0, NULL, NULL, NULL, &tensors, NULL);
  qwen_tensors_free(tensors);
  qwen_inputs_free(inputs);
  return NULL;
}
static void *destroy(void *unused) {
  (void)unused;
  qwen_destroy(engine);
  return NULL;
}

int host_main(int argc, char **argv) {
  CHECK(argc == 2);
  alarm(60);
  void *(*const inside[])(void *) = {in_generate, in_next, in_drain, in_forward, in_embed};
  for (int turn = 0; turn < 8; ++turn) {
    /* From drain() on new requests are refused: it comes when the others are in, and not in every turn. */
    const int with_drain = turn % 2;
    pthread_t threads[5], last;
    qwen_options *options = request_options(20000);
    qwen_prompt *prompt = token_prompt();
    engine = create_large(argv[1]);
    MUST(qwen_submit(engine, prompt, options, NULL, 0, &request, &error));
    for (int i = 0; i < 5; ++i) {
      if (i == 2) continue;
      status[i] = -1;
      CHECK(pthread_create(&threads[i], NULL, inside[i], NULL) == 0);
    }
    wait_for(engine, 1 + 1 + 100 + 2); /* as many as generate, next, forward and embed have in flight together */
    if (with_drain) {
      qwen_request *refused = NULL;
      CHECK(pthread_create(&threads[2], NULL, in_drain, NULL) == 0);
      while (qwen_submit(engine, prompt, options, NULL, 0, &refused, NULL) == QWEN_OK) qwen_request_free(refused);
    }
    CHECK(pthread_create(&last, NULL, destroy, NULL) == 0);
    pthread_join(last, NULL);
    for (int i = 0; i < 5; ++i)
      if (i != 2 || with_drain) pthread_join(threads[i], NULL);
    for (int i = 0; i < 5; ++i)
      if (i != 2 && status[i] != QWEN_ERR_CLOSED) fprintf(stderr, "call %d: %s\n", i, qwen_status_name(status[i]));
    CHECK(status[0] == QWEN_ERR_CLOSED);
    CHECK(status[1] == QWEN_ERR_CLOSED);
    CHECK(!with_drain || status[2] == QWEN_OK || status[2] == QWEN_ERR_CLOSED); /* nothing is in flight any more */
    CHECK(status[3] == QWEN_ERR_CLOSED);
    CHECK(status[4] == QWEN_ERR_CLOSED);
    qwen_request_free(request); /* outlives it */
    qwen_prompt_free(prompt);
    qwen_options_free(options);
  }
  alarm(0);
  return 0;
}
