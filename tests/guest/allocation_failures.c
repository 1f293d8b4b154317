/* One run of a program after the other, and in each of them the k-th thing that the library asks the system for is refused:
 * memory, a mapping, a thread. Each call then fails with QWEN_ERR_OUT_OF_MEMORY or goes on to the right answer; nothing is kept
 * when everything is freed; and the process goes on. Under LD_PRELOAD of shim.c.
 *
 * allocation_failures MODEL ADAPTER|- FIRST STRIDE MOST: k = FIRST, FIRST + STRIDE, … until a run is refused nothing, for each
 * of: one refusal, and refusals from the k-th until the end, destruction included. MOST bounds the number of runs, 0: no bound. */
#include <dlfcn.h>
#include <signal.h>
#include <unistd.h>

#include "guest.h"
#include "shim.h"

static void (*inside)(int);
static void (*refuse)(long, long);
static long (*points)(void);
static long (*refused)(void);
static long (*live)(void);

static const char *model, *adapter;
static long now_k, now_count;
static const char *now_call = "nothing";

/* Says what was refused when the library crashes, hangs or is aborted. */
static void last_words(int signal_number) {
  char text[256];
  const int length = snprintf(text, sizeof text, "signal %d, k = %ld, count = %ld, last call: %s\n", signal_number, now_k,
                              now_count, now_call);
  if (write(2, text, (size_t)length) < 0) _exit(3);
  _exit(3);
}

typedef struct {
  int32_t status; /* of the first call that failed */
  uint64_t hash;  /* of all that was generated */
  char message[200];
} outcome;

static int32_t keep(outcome *out, int32_t status, qwen_error *error) {
  if (out->status == QWEN_OK && status != QWEN_OK) {
    out->status = status;
    snprintf(out->message, sizeof out->message, "%s: %s", now_call, qwen_error_message(error));
  }
  qwen_error_free(error);
  return status;
}
/* What went well so far goes on with the next call. */
#define TRY(call)                                                                      \
  (out->status == QWEN_OK && (now_call = #call, error = NULL, status = (call), keep(out, status, error) == QWEN_OK))

static int32_t on_event(const qwen_event *event, void *user) {
  uint64_t *hash = user;
  *hash = digest(*hash, event->text, event->text_length);
  *hash = digest(*hash, event->token_ids, event->token_count * sizeof *event->token_ids);
  *hash = digest(*hash, &event->finish_reason, sizeof event->finish_reason);
  return 0;
}
typedef struct {
  long steps, destroyed;
} trace;
static void on_step(const qwen_step *step, void *user) {
  if (step->struct_size > 0) ++((trace *)user)->steps;
}
static void on_destroy(void *user) { ++((trace *)user)->destroyed; }
static int32_t on_progress(double fraction, void *user) { return fraction < 0 ? *(int *)user : 0; }
static void on_log(int32_t level, const char *message, size_t length, void *user) {
  if (level < 1 || message[length] != '\0') *(int *)user = 1;
}

/* Two answers to one conversation with tools, as events of a queue. */
static void stream(qwen_engine *engine, outcome *out) {
  static const char kTools[] =
      "[{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"parameters\": {\"type\": \"object\", \"properties\":"
      " {\"city\": {\"type\": \"string\"}, \"days\": {\"type\": \"integer\"}}}}}]";
  static const char kSystem[] = "{\"role\": \"system\", \"content\": \"You are brief.\"}";
  int32_t status;
  qwen_error *error = NULL;
  qwen_prompt *prompt = NULL;
  qwen_options *options = NULL;
  qwen_queue *queue = NULL;
  qwen_request *request = NULL;
  qwen_result *result = NULL;
  const char *stops[] = {"never"};
  const size_t lengths[] = {5};
  (void)(TRY(qwen_prompt_new(&prompt, &error)) && TRY(qwen_prompt_add_message_json(prompt, kSystem, strlen(kSystem), &error)) &&
      TRY(qwen_prompt_add_message(prompt, "user", "Is it warm?", 11, &error)) &&
      TRY(qwen_prompt_set_tools(prompt, kTools, strlen(kTools), &error)) && TRY(qwen_options_new(&options, &error)) &&
      TRY(qwen_options_set_i64(options, "max_tokens", 70, &error)) && TRY(qwen_options_set_i64(options, "n", 2, &error)) &&
      TRY(qwen_options_set_i64(options, "seed", 5, &error)) && TRY(qwen_options_set_f64(options, "temperature", 0.5, &error)) &&
      TRY(qwen_options_set_i64(options, "logprobs", 1, &error)) && TRY(qwen_options_set_i64(options, "top_logprobs", 2, &error)) &&
      TRY(qwen_options_set_str_array(options, "stop", stops, lengths, 1, &error)) &&
      (!adapter || TRY(qwen_options_set_str(options, "adapter", "a", 1, &error))) && TRY(qwen_queue_new(&queue, &error)) &&
      TRY(qwen_submit(engine, prompt, options, queue, 7, &request, &error)));
  uint64_t of_choice[2] = {DIGEST_BEGIN, DIGEST_BEGIN};
  for (int done = out->status != QWEN_OK; !done;) {
    size_t count = 0;
    if (!TRY(qwen_queue_next(queue, -1, &count, &error))) break; /* freeing the request cancels it */
    for (size_t i = 0; i < count; ++i) {
      qwen_event event = {.struct_size = sizeof event};
      must(qwen_queue_event(queue, i, &event, NULL), NULL, "qwen_queue_event");
      CHECK(event.tag == 7);
      if (event.type == QWEN_EVENT_DONE) {
        done = 1;
        now_call = "a request in a queue";
        if (out->status == QWEN_OK && event.status != QWEN_OK)
          snprintf(out->message, sizeof out->message, "%s: %s", now_call, event.message), out->status = event.status;
      } else {
        on_event(&event, &of_choice[event.choice]);
      }
    }
  }
  if (TRY(qwen_request_result(request, &result, &error))) of_choice[0] = digest(of_choice[0], of_choice, sizeof of_choice);
  if (result) {
    const uint64_t whole = result_digest(result);
    out->hash = digest(digest(out->hash, of_choice, sizeof of_choice), &whole, sizeof whole);
  }
  qwen_result_free(result);
  qwen_request_free(request);
  qwen_queue_free(queue);
  qwen_options_free(options);
  qwen_prompt_free(prompt);
}

/* A callback's answer, logits, an embedding. */
static void blocking_calls(qwen_engine *engine, outcome *out) {
  static const int32_t kIds[] = {11, 12, 13, 14, 15, 16, 17, 18};
  static const size_t kCounts[] = {5, 3};
  int32_t status;
  qwen_error *error = NULL;
  qwen_prompt *prompt = NULL;
  qwen_options *options = NULL;
  qwen_result *result = NULL;
  qwen_inputs *inputs = NULL;
  qwen_tensors *tensors = NULL, *embeddings = NULL;
  qwen_tensor tensor = {.struct_size = sizeof tensor};
  uint64_t hash = DIGEST_BEGIN;
  int progress = 0;
  if (TRY(qwen_prompt_new(&prompt, &error)) && TRY(qwen_prompt_add_text(prompt, "one two three four five", 23, &error)) &&
      TRY(qwen_options_new(&options, &error)) && TRY(qwen_options_set_i64(options, "max_tokens", 20, &error)) &&
      TRY(qwen_options_set_i64(options, "ignore_eos", 1, &error)) && TRY(qwen_options_set_i64(options, "prompt_logprobs", 1, &error)) &&
      TRY(qwen_options_set_f64(options, "temperature", 0, &error)) &&
      TRY(qwen_options_set_f64(options, "repetition_penalty", 1.1, &error)) &&
      TRY(qwen_options_set_i64(options, "timeout_ms", 60000, &error)) &&
      TRY(qwen_generate(engine, prompt, options, on_event, &hash, &result, &error))) {
    const uint64_t whole = result_digest(result);
    out->hash = digest(digest(out->hash, &hash, sizeof hash), &whole, sizeof whole);
  }
  if (TRY(qwen_forward(engine, kIds, kCounts, NULL, 2, QWEN_OUTPUT_LOGITS | QWEN_OUTPUT_HIDDEN_STATES, NULL, &tensors, &error)) &&
      TRY(qwen_tensors_get(tensors, 1, "logits", &tensor, &error)))
    out->hash = digest(out->hash, tensor.data, tensor.bytes);
  if (TRY(qwen_inputs_new(0, &inputs, &error)) && TRY(qwen_inputs_add_tokens(inputs, kIds, 8, &error)) &&
      TRY(qwen_inputs_add_tokens(inputs, kIds, 3, &error)) &&
      TRY(qwen_embed(engine, inputs, 32, NULL, on_progress, &progress, &embeddings, &error)) &&
      TRY(qwen_tensors_get(embeddings, 0, "embeddings", &tensor, &error)))
    out->hash = digest(out->hash, tensor.data, tensor.bytes);
  qwen_tensors_free(embeddings);
  qwen_tensors_free(tensors);
  qwen_inputs_free(inputs);
  qwen_result_free(result);
  qwen_options_free(options);
  qwen_prompt_free(prompt);
}

static outcome run(void) {
  outcome outcome_now = {.status = QWEN_OK, .hash = DIGEST_BEGIN, .message = ""}, *out = &outcome_now;
  int32_t status;
  qwen_error *error = NULL;
  qwen_options *options = NULL;
  qwen_engine *engine = NULL;
  trace traced = {0, 0};
  long taken = 0; /* over: from then on the library destroys it */
  inside(1);
  (void)(TRY(qwen_options_new(&options, &error)) && TRY(qwen_options_set_i64(options, "threads", 2, &error)) &&
      TRY(qwen_options_set_i64(options, "max_batch_tokens", 32, &error)) &&
      TRY(qwen_options_set_i64(options, "kv_cache_bytes", 4 << 20, &error)) &&
      TRY(qwen_options_set_callback(options, "trace", (qwen_callback_fn)on_step, &traced, on_destroy, &error)) &&
      (taken = 1) && TRY(qwen_create(model, options, &engine, &error)) &&
      (!adapter || TRY(qwen_engine_load_adapter(engine, adapter, "a", &error))));
  if (engine) stream(engine, out);
  if (engine) blocking_calls(engine, out);
  now_call = "qwen_destroy(engine)";
  qwen_destroy(engine);
  qwen_options_free(options);
  now_call = "nothing";
  inside(0);
  CHECK(traced.destroyed == taken);
  return outcome_now;
}

static void *named(const char *name) {
  void *found = dlsym(RTLD_DEFAULT, name);
  if (!found) exit((fprintf(stderr, "no %s: run this under LD_PRELOAD of shim.c\n", name), 2));
  return found;
}

int host_main(int argc, char **argv) {
  static const long kForever = 1000000000;
  int wrong_log = 0;
  CHECK(argc == 6);
  model = argv[1];
  adapter = strcmp(argv[2], "-") == 0 ? NULL : argv[2];
  const long first = atol(argv[3]), stride = atol(argv[4]), most = atol(argv[5]);
  *(void **)&inside = named("shim_inside");
  *(void **)&refuse = named("shim_refuse");
  *(void **)&points = named("shim_points");
  *(void **)&refused = named("shim_refused");
  *(void **)&live = named("shim_live");
  static const int kSignals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGALRM};
  enum { SIGNALS = sizeof kSignals / sizeof *kSignals };
  const struct sigaction action = {.sa_handler = last_words};
  struct sigaction before[SIGNALS];
  for (int i = 0; i < SIGNALS; ++i) sigaction(kSignals[i], &action, &before[i]);

  MUST(qwen_log_set(on_log, &wrong_log, QWEN_LOG_DEBUG, &error)); /* messages are made, too */
  long runs = 0, failed = 0, unharmed = 0, leaks = 0;
  for (int cold = 0; cold < 3; ++cold) { /* before anything is made that lives as long as the process */
    alarm(30);
    refuse(now_k = first + cold * (stride + 1), now_count = 1);
    const outcome got = run();
    if (got.status != QWEN_OK && got.status != QWEN_ERR_OUT_OF_MEMORY)
      return fprintf(stderr, "cold, k = %ld: %s\n", now_k, got.message), 1;
  }
  refuse(now_k = 0, 0);
  const outcome expected = run();
  const long all = points();
  if (expected.status != QWEN_OK) return fprintf(stderr, "nothing was refused: %s\n", expected.message), 1;
  const long kept = live();
  int mistakes = 0;
  for (long k = first, refused_now = 1; refused_now && (most == 0 || runs < most); k += stride) {
    refused_now = 0;
    for (int forever = 0; forever < 2; ++forever) {
      alarm(30);
      refuse(now_k = k, now_count = forever ? kForever : 1);
      const outcome got = run();
      const long count = refused();
      refuse(0, 0);
      ++runs;
      refused_now |= count > 0;
      failed += got.status != QWEN_OK;
      unharmed += got.status == QWEN_OK && count > 0;
      const int right = got.status == QWEN_ERR_OUT_OF_MEMORY ? count > 0 && got.message[0] != '\0'
                                                              : got.status == QWEN_OK && got.hash == expected.hash;
      if (!right)
        fprintf(stderr, "k = %ld, %ld refused: status %d, %s, %s\n", k, count, got.status, got.message,
                got.hash == expected.hash ? "the right answer" : "another answer");
      if (live() != kept) {
        fprintf(stderr, "k = %ld, %ld refused: %ld blocks are kept (%s)\n", k, count, live() - kept, got.message);
        ++leaks;
        return 1;
      }
      mistakes += !right;
      if (mistakes > 20) return 1;
    }
  }
  alarm(30);
  const outcome after = run();
  CHECK(after.status == QWEN_OK && after.hash == expected.hash && live() == kept);
  MUST(qwen_log_set(NULL, NULL, 0, &error));
  CHECK(!wrong_log);
  alarm(0);
  for (int i = 0; i < SIGNALS; ++i) sigaction(kSignals[i], &before[i], NULL);
  printf("%ld points, %ld runs, %ld failed, %ld were unharmed\n", all, runs, failed, unharmed);
  return mistakes != 0;
}
