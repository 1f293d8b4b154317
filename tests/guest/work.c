/* A bit of everything, and what came out of it as one number. After each call the caller's float environment must be, to the
 * bit, what it was before; a callback runs in it as well. work MODEL [ERRORS]: with the latter, calls that fail, too. */
#include "guest.h"

static uint32_t float_state(void) {
#if defined(__x86_64__)
  unsigned short x87;
  __asm__ volatile("fnstcw %0" : "=m"(x87));
  return __builtin_ia32_stmxcsr() ^ (uint32_t)x87 << 16;
#else
  return 0;
#endif
}
static uint32_t host_floats;

#define CALL(call)                         \
  do {                                     \
    host_floats = float_state();           \
    MUST(call);                            \
    CHECK(float_state() == host_floats);   \
  } while (0)
#define WRONG(wanted, call)                                 \
  do {                                                      \
    qwen_error *error = NULL;                               \
    host_floats = float_state();                            \
    CHECK((call) == (wanted));                              \
    CHECK(float_state() == host_floats);                    \
    CHECK(strlen(qwen_error_message(error)) > 0);           \
    qwen_error_free(error);                                 \
  } while (0)

static int32_t on_event(const qwen_event *event, void *user) {
  CHECK(float_state() == host_floats);
  uint64_t *hash = user;
  *hash = digest(*hash, event->text, event->text_length);
  return 0;
}
static int32_t on_progress(double fraction, void *user) {
  (void)user;
  CHECK(float_state() == host_floats);
  CHECK(fraction >= 0);
  return 0;
}

static void wrong_calls(qwen_engine *engine, const qwen_prompt *prompt, qwen_options *options) {
  qwen_engine *none = NULL;
  qwen_tokenizer *tokenizer = NULL;
  WRONG(QWEN_ERR_NOT_FOUND, qwen_create("/nowhere", NULL, &none, &error));
  WRONG(QWEN_ERR_INVALID_ARGUMENT, qwen_create(NULL, NULL, &none, &error));
  WRONG(QWEN_ERR_INVALID_ARGUMENT, qwen_options_set_i64(options, "no such key", 1, &error));
  WRONG(QWEN_ERR_INVALID_ARGUMENT, qwen_options_set_f64(options, "temperature", -1, &error));
  WRONG(QWEN_ERR_INVALID_ARGUMENT, qwen_generate(engine, NULL, NULL, NULL, NULL, NULL, &error));
  WRONG(QWEN_ERR_NOT_FOUND, qwen_tokenizer_open("/nowhere/tokenizer.json", &tokenizer, &error));
  WRONG(QWEN_ERR_NOT_FOUND, qwen_engine_load_adapter(engine, "/nowhere", "a", &error));
  MUST(qwen_options_set_str(options, "adapter", "none", 4, &error));
  WRONG(QWEN_ERR_INVALID_ARGUMENT, qwen_generate(engine, prompt, options, NULL, NULL, NULL, &error));
}

int host_main(int argc, char **argv) {
  CHECK(argc >= 2);
  qwen_options *options = NULL, *sampling = request_options(24);
  qwen_engine *engine = NULL;
  qwen_prompt *prompt = NULL;
  qwen_result *result = NULL;
  qwen_inputs *inputs = NULL;
  qwen_tensors *tensors = NULL;
  qwen_queue *queue = NULL;
  qwen_request *request = NULL;
  qwen_tensor tensor = {.struct_size = sizeof tensor};
  uint64_t hash = DIGEST_BEGIN;

  CALL(qwen_options_new(&options, &error));
  CALL(qwen_options_set_i64(options, "threads", 2, &error));
  CALL(qwen_create(argv[1], options, &engine, &error)); /* the cache's size by default: looks at the machine's memory */
  CALL(qwen_prompt_new(&prompt, &error));
  CALL(qwen_prompt_add_message_json(prompt, "{\"role\": \"user\", \"content\": \"0.25, 1e-3\"}", 41, &error));
  CALL(qwen_generate(engine, prompt, sampling, on_event, &hash, &result, &error));
  uint64_t part = result_digest(result);
  hash = digest(hash, &part, sizeof part);

  CALL(qwen_queue_new(&queue, &error));
  CALL(qwen_submit(engine, prompt, sampling, queue, 1, &request, &error));
  CHECK(qwen_queue_fd(queue) > 2); /* even where 0, 1 and 2 are free */
  for (int done = 0; !done;) {
    size_t count = 0;
    CALL(qwen_queue_next(queue, -1, &count, &error));
    for (size_t i = 0; i < count; ++i) {
      qwen_event event = {.struct_size = sizeof event};
      CALL(qwen_queue_event(queue, i, &event, &error));
      hash = digest(hash, event.text, event.text_length);
      if (event.logprobs) hash = digest(hash, event.logprobs, event.token_count * sizeof *event.logprobs);
      done |= event.type == QWEN_EVENT_DONE;
    }
  }
  const int32_t ids[] = {5, 6, 7, 8, 9, 10};
  CALL(qwen_inputs_new(0, &inputs, &error));
  CALL(qwen_inputs_add_tokens(inputs, ids, 6, &error));
  CALL(qwen_inputs_add_tokens(inputs, ids, 2, &error));
  CALL(qwen_embed(engine, inputs, 0, NULL, on_progress, NULL, &tensors, &error));
  CALL(qwen_tensors_get(tensors, 0, "embeddings", &tensor, &error));
  hash = digest(hash, tensor.data, tensor.bytes);

  if (argc > 2) wrong_calls(engine, prompt, sampling);
  host_floats = float_state();
  qwen_tensors_free(tensors);
  qwen_inputs_free(inputs);
  qwen_request_free(request);
  qwen_queue_free(queue);
  qwen_result_free(result);
  qwen_prompt_free(prompt);
  qwen_destroy(engine);
  qwen_options_free(sampling);
  qwen_options_free(options);
  CHECK(float_state() == host_floats);
  printf("%016llx\n", (unsigned long long)hash);
  return 0;
}
