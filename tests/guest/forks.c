/* fork() before and after the library has threads. forks MODEL */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

static int in_child(void (*body)(void *), void *argument) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(20); /* a hang is a death by signal */
    body(argument);
    exit(0); /* with all that runs at an exit */
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static const char *model;
static uint64_t right;

static void whole_program(void *unused) {
  (void)unused;
  qwen_engine *engine = create(model);
  CHECK(generate(engine, 8) == right);
  qwen_destroy(engine);
}

typedef struct {
  qwen_engine *engine;
  qwen_queue *queue;
  qwen_request *queued, *own;
} handles;

#define FORKED(call)                                           \
  do {                                                         \
    qwen_error *error = NULL;                                  \
    CHECK((call) == QWEN_ERR_FORKED);                          \
    CHECK(strstr(qwen_error_message(error), "child") != NULL); \
    qwen_error_free(error);                                    \
  } while (0)

/* Every function that works on an engine, a request or a queue. */
static void inherited_handles(void *given) {
  const handles *const made = given;
  qwen_prompt *prompt = token_prompt();
  qwen_request *request = NULL;
  qwen_result *result = NULL;
  qwen_inputs *inputs = NULL;
  qwen_tensors *tensors = NULL;
  qwen_event event = {.struct_size = sizeof event};
  qwen_engine_stats stats = {.struct_size = sizeof stats};
  qwen_counter counter = {.struct_size = sizeof counter};
  qwen_adapter_info adapter = {.struct_size = sizeof adapter};
  qwen_model_info info = {.struct_size = sizeof info};
  const int32_t ids[] = {1, 2, 3};
  const size_t three = 3;
  size_t count;
  MUST(qwen_inputs_new(0, &inputs, &error));
  MUST(qwen_inputs_add_tokens(inputs, ids, 3, &error));
  FORKED(qwen_generate(made->engine, prompt, NULL, NULL, NULL, &result, &error));
  FORKED(qwen_submit(made->engine, prompt, NULL, NULL, 0, &request, &error));
  FORKED(qwen_submit(made->engine, prompt, NULL, made->queue, 0, &request, &error));
  FORKED(qwen_forward(made->engine, ids, &three, NULL, 1, QWEN_OUTPUT_LOGITS, NULL, &tensors, &error));
  FORKED(qwen_embed(made->engine, inputs, 0, NULL, NULL, NULL, &tensors, &error));
  FORKED(qwen_rerank(made->engine, "q", 1, inputs, NULL, NULL, NULL, &tensors, &error));
  FORKED(qwen_engine_drain(made->engine, -1, &error));
  FORKED(qwen_engine_stats_get(made->engine, &stats, &error));
  FORKED(qwen_engine_counter_get(made->engine, 0, &counter, &error));
  FORKED(qwen_engine_load_adapter(made->engine, "/nowhere", "a", &error));
  FORKED(qwen_engine_unload_adapter(made->engine, "a", &error));
  FORKED(qwen_engine_adapter_info_get(made->engine, NULL, &adapter, &error));
  FORKED(qwen_request_next(made->own, -1, &event, &error));
  FORKED(qwen_request_result(made->own, &result, &error));
  FORKED(qwen_queue_next(made->queue, -1, &count, &error));
  FORKED(qwen_queue_event(made->queue, 0, &event, &error));
  CHECK(qwen_queue_fd(made->queue) == -1);
  CHECK(!request && !result && !tensors);
  qwen_request_cancel(made->own);
  qwen_request_stop(made->own);
  MUST(qwen_model_info_get(qwen_engine_model(made->engine), &info, &error)); /* models may be used on */
  qwen_engine *engine = NULL;
  qwen_options *options = engine_options();
  MUST(qwen_engine_new(qwen_engine_model(made->engine), options, &engine, &error));
  CHECK(generate(engine, 8) == right);
  qwen_destroy(engine);
  qwen_options_free(options);
  qwen_inputs_free(inputs);
  qwen_prompt_free(prompt);
  qwen_request_free(made->own); /* all harmless */
  qwen_request_free(made->queued);
  qwen_queue_free(made->queue);
  qwen_destroy(made->engine);
}

static int log_ready[2];

static void slow_sink(int32_t level, const char *message, size_t length, void *user) {
  (void)level, (void)message, (void)length;
  if (getpid() != *(pid_t *)user) return;
  CHECK(write(log_ready[1], "x", 1) == 1);
  usleep(300000);
}
static void *create_and_destroy(void *unused) {
  (void)unused;
  qwen_destroy(create(model));
  return NULL;
}

int host_main(int argc, char **argv) {
  CHECK(argc == 2);
  model = argv[1];
  { /* not a byte of the library has run yet but qwen_create, elsewhere */
    int result[2];
    CHECK(pipe(result) == 0);
    const pid_t child = fork();
    if (child == 0) {
      qwen_engine *engine = create(model);
      const uint64_t hash = generate(engine, 8);
      qwen_destroy(engine);
      _exit(write(result[1], &hash, sizeof hash) == sizeof hash ? 0 : 1);
    }
    CHECK(read(result[0], &right, sizeof right) == sizeof right);
    CHECK(waitpid(child, NULL, 0) == child);
    close(result[0]), close(result[1]);
  }
  handles made = {.engine = create(model)};
  qwen_prompt *prompt = token_prompt();
  qwen_options *options = request_options(400);
  MUST(qwen_queue_new(&made.queue, &error));
  const int fd = qwen_queue_fd(made.queue);
  for (int turn = 0; turn < 10; ++turn) {
    MUST(qwen_submit(made.engine, prompt, options, made.queue, 1, &made.queued, &error));
    MUST(qwen_submit(made.engine, prompt, options, NULL, 2, &made.own, &error));
    CHECK(in_child(inherited_handles, &made) == 0); /* while the engine computes */
    CHECK(in_child(whole_program, NULL) == 0);
    CHECK(qwen_queue_fd(made.queue) == fd);
    int32_t type = 0;
    for (qwen_event event = {.struct_size = sizeof event}; type != QWEN_EVENT_DONE; type = event.type)
      MUST(qwen_request_next(made.own, 20000, &event, &error));
    CHECK(generate(made.engine, 8) == right);
    qwen_request_free(made.own);
    qwen_request_free(made.queued);
  }
  /* A child of a process in which a message is being written. */
  pid_t own = getpid();
  pthread_t writer;
  char byte;
  CHECK(pipe(log_ready) == 0);
  MUST(qwen_log_set(slow_sink, &own, QWEN_LOG_INFO, &error));
  CHECK(pthread_create(&writer, NULL, create_and_destroy, NULL) == 0);
  CHECK(read(log_ready[0], &byte, 1) == 1);
  CHECK(in_child(whole_program, NULL) == 0);
  pthread_join(writer, NULL);
  MUST(qwen_log_set(NULL, NULL, 0, &error));
  close(log_ready[0]), close(log_ready[1]);
  qwen_options_free(options);
  qwen_prompt_free(prompt);
  qwen_queue_free(made.queue);
  qwen_destroy(made.engine);
  return 0;
}
