/* Every function of qwen.h with NULL and with nonsense: a status and a message come back, out-parameters stay as they
 * were, nothing crashes. argv[1]: a model folder, for the calls that need real handles.
 *
 * REFUSED(code, call) makes the call twice: with a place for the error, which must carry the same code and a message, and
 * with NULL in its place. `E` stands for that last argument. */
#include <qwen.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static int failures, calls;

static void complain(int line, const char *call, const char *what) {
  fprintf(stderr, "null_calls.c:%d: %s: %s\n", line, call, what);
  ++failures;
}

static void check_refusal(int line, const char *call, int32_t wanted, int32_t status, int32_t quiet_status,
                          qwen_error *error) {
  calls += 2;
  if (status != wanted) {
    complain(line, call, qwen_status_name(status));
    if (error) complain(line, call, qwen_error_message(error));
  } else if (error == NULL) {
    complain(line, call, "no error object");
  } else if (qwen_error_code(error) != status) {
    complain(line, call, "the error has another code than the call");
  } else if (qwen_error_message(error)[0] == '\0') {
    complain(line, call, "the message is empty");
  }
  if (quiet_status != status) complain(line, call, "another status without an error object");
  qwen_error_free(error);
}

#define REFUSED(code, call)                                                    \
  do {                                                                         \
    qwen_error *error_ = NULL, **E = &error_;                                  \
    int32_t status_ = (call);                                                  \
    E = NULL;                                                                  \
    check_refusal(__LINE__, #call, QWEN_ERR_##code, status_, (call), error_);  \
  } while (0)

#define TRUE(condition)                                                        \
  do {                                                                         \
    ++calls;                                                                   \
    if (!(condition)) complain(__LINE__, #condition, "not so");                \
  } while (0)

static const char *const unset = "unset";
#define UNSET(type) ((type *)(uintptr_t)unset)

/* One of each handle, made without a model. */
static qwen_options *options;
static qwen_prompt *prompt;
static qwen_queue *queue;
static qwen_inputs *inputs;

static void texts_and_errors(void) {
  TRUE(qwen_abi_version() >= QWEN_ABI_VERSION);
  TRUE(strchr(qwen_version(), '.') != NULL);
  TRUE(qwen_build_info()[0] == '{');
  TRUE(qwen_error_code(NULL) == QWEN_OK);
  TRUE(strcmp(qwen_error_message(NULL), "") == 0);
  qwen_error_free(NULL);
  TRUE(strcmp(qwen_status_name(QWEN_OK), "QWEN_OK") == 0);
  TRUE(strcmp(qwen_status_name(-1), "unknown status") == 0);
  TRUE(strcmp(qwen_status_name(INT32_MAX), "unknown status") == 0);
  TRUE(qwen_log_set(NULL, NULL, 0, NULL) == QWEN_OK);
}

static void option_calls(void) {
  const char *text = "x";
  const size_t one = 1;
  const int32_t id = 0;
  const float bias = 0;
  qwen_option_info info;

  REFUSED(INVALID_ARGUMENT, qwen_options_new(NULL, E));
  qwen_options_free(NULL);
  REFUSED(INVALID_ARGUMENT, qwen_options_set_i64(NULL, "max_tokens", 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_i64(options, NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_i64(options, "", 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_i64(options, "no_such_key", 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_i64(options, "max_tokens", INT64_MIN, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_f64(NULL, "temperature", 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_f64(options, NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_f64(options, "temperature", -1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_f64(options, "temperature", NAN, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_str(NULL, "device", text, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_str(options, NULL, text, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_str(options, "device", NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_str(options, "device", "abacus", 6, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_str(options, "temperature", text, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_i32_array(NULL, "stop_token_ids", &id, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_i32_array(options, NULL, &id, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_i32_array(options, "stop_token_ids", NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_i32_array(options, "stop", &id, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_str_array(NULL, "stop", &text, &one, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_str_array(options, NULL, &text, &one, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_str_array(options, "stop", NULL, &one, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_str_array(options, "stop", &text, NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_bias(NULL, "logit_bias", &id, &bias, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_bias(options, NULL, &id, &bias, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_bias(options, "logit_bias", NULL, &bias, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_bias(options, "logit_bias", &id, NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_callback(NULL, "progress", NULL, NULL, NULL, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_callback(options, NULL, NULL, NULL, NULL, E));
  REFUSED(INVALID_ARGUMENT, qwen_options_set_callback(options, "max_tokens", NULL, NULL, NULL, E));
  REFUSED(INVALID_ARGUMENT, qwen_option_info_get(0, NULL, E));
  info.struct_size = 0;
  REFUSED(INVALID_ARGUMENT, qwen_option_info_get(0, &info, E));
  info.struct_size = sizeof info;
  REFUSED(NOT_FOUND, qwen_option_info_get(SIZE_MAX, &info, E));
}

static void tokenizer_calls(void) {
  qwen_tokenizer *tokenizer = UNSET(qwen_tokenizer);
  int32_t id = 0;
  size_t count = 77;
  char letter = 'x';

  REFUSED(INVALID_ARGUMENT, qwen_tokenizer_open(NULL, &tokenizer, E));
  REFUSED(INVALID_ARGUMENT, qwen_tokenizer_open("/", NULL, E));
  REFUSED(NOT_FOUND, qwen_tokenizer_open("/no/such/folder", &tokenizer, E));
  TRUE(tokenizer == UNSET(qwen_tokenizer));
  qwen_tokenizer_free(NULL);
  REFUSED(INVALID_ARGUMENT, qwen_tokenizer_encode(NULL, "x", 1, 0, &id, 1, &count, E));
  REFUSED(INVALID_ARGUMENT, qwen_tokenizer_decode(NULL, &id, 1, 0, &letter, 1, &count, E));
  TRUE(count == 77 && letter == 'x' && id == 0);
  TRUE(qwen_tokenizer_size(NULL) <= 0);
  TRUE(qwen_tokenizer_token_id(NULL, "x", 1) == -1);
}

static void machine_calls(void) {
  qwen_machine machine = {.struct_size = sizeof machine, .threads = 77};
  qwen_machine unsized = {.struct_size = 0};
  qwen_options *wrong = NULL;

  REFUSED(INVALID_ARGUMENT, qwen_measure_machine(NULL, NULL, E));
  REFUSED(INVALID_ARGUMENT, qwen_measure_machine(NULL, &unsized, E));
  TRUE(qwen_options_new(&wrong, NULL) == QWEN_OK);
  TRUE(qwen_options_set_i64(wrong, "max_tokens", 5, NULL) == QWEN_OK); /* a request's */
  REFUSED(INVALID_ARGUMENT, qwen_measure_machine(wrong, &machine, E));
  qwen_options_free(wrong);
  TRUE(machine.threads == 77 && machine.level == NULL);
}

static void model_calls(void) {
  qwen_model *model = UNSET(qwen_model);
  qwen_weights *weights = UNSET(qwen_weights);
  qwen_model_info info = {.struct_size = sizeof info};
  const int64_t shape = 1;
  const float value = 0;

  REFUSED(INVALID_ARGUMENT, qwen_model_open(NULL, NULL, &model, E));
  REFUSED(INVALID_ARGUMENT, qwen_model_open("/", NULL, NULL, E));
  REFUSED(NOT_FOUND, qwen_model_open("/no/such/folder", NULL, &model, E));
  REFUSED(NOT_FOUND, qwen_model_open("", NULL, &model, E));
  qwen_model_retain(NULL);
  qwen_model_free(NULL);
  REFUSED(INVALID_ARGUMENT, qwen_model_info_get(NULL, &info, E));
  TRUE(qwen_model_tokenizer(NULL) == NULL);
  REFUSED(INVALID_ARGUMENT, qwen_weights_new(NULL, 1, NULL, NULL, &weights, E));
  REFUSED(INVALID_ARGUMENT, qwen_weights_new("{}", 2, NULL, NULL, NULL, E));
  REFUSED(INVALID_ARGUMENT, qwen_weights_add(NULL, "w", QWEN_DTYPE_F32, &shape, 1, &value, 4, E));
  qwen_weights_free(NULL);
  REFUSED(INVALID_ARGUMENT, qwen_model_from_weights(NULL, NULL, NULL, &model, E));
  TRUE(model == UNSET(qwen_model) && weights == UNSET(qwen_weights));
}

static void engine_calls(void) {
  qwen_engine *engine = UNSET(qwen_engine);
  qwen_engine_stats stats = {.struct_size = sizeof stats};
  qwen_counter counter = {.struct_size = sizeof counter};

  REFUSED(INVALID_ARGUMENT, qwen_create(NULL, NULL, &engine, E));
  REFUSED(INVALID_ARGUMENT, qwen_create("/", NULL, NULL, E));
  REFUSED(NOT_FOUND, qwen_create("/no/such/folder", NULL, &engine, E));
  REFUSED(INVALID_ARGUMENT, qwen_engine_new(NULL, NULL, &engine, E));
  TRUE(engine == UNSET(qwen_engine));
  qwen_destroy(NULL);
  TRUE(qwen_engine_model(NULL) == NULL);
  REFUSED(INVALID_ARGUMENT, qwen_engine_stats_get(NULL, &stats, E));
  REFUSED(INVALID_ARGUMENT, qwen_engine_counter_get(NULL, 0, &counter, E));
  qwen_adapter_info adapter = {.struct_size = sizeof adapter};
  REFUSED(INVALID_ARGUMENT, qwen_engine_load_adapter(NULL, "/", "name", E));
  REFUSED(INVALID_ARGUMENT, qwen_engine_unload_adapter(NULL, "name", E));
  REFUSED(INVALID_ARGUMENT, qwen_engine_adapter_info_get(NULL, NULL, &adapter, E));
}

static void prompt_calls(void) {
  const int32_t id = 0;
  REFUSED(INVALID_ARGUMENT, qwen_prompt_new(NULL, E));
  qwen_prompt_free(NULL);
  REFUSED(INVALID_ARGUMENT, qwen_prompt_add_text(NULL, "x", 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_add_text(prompt, NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_add_text(prompt, "\xff", 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_add_tokens(NULL, &id, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_add_tokens(prompt, NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_add_message(NULL, "user", "x", 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_add_message(prompt, NULL, "x", 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_add_message(prompt, "user", NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_add_message(prompt, "emperor", "x", 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_add_message_json(NULL, "[]", 2, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_add_message_json(prompt, NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_add_message_json(prompt, "", 0, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_add_message_json(prompt, "{}", 2, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_set_tools(NULL, "[]", 2, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_set_tools(prompt, NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_set_tools(prompt, "{}", 2, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_set_tools(prompt, "[", 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_set_variables(NULL, "{}", 2, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_set_variables(prompt, NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_set_variables(prompt, "[]", 2, E));
  size_t needed = 7;
  REFUSED(INVALID_ARGUMENT, qwen_prompt_render(NULL, NULL, NULL, NULL, 0, &needed, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_render(prompt, NULL, NULL, NULL, 0, &needed, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_encode(NULL, NULL, NULL, NULL, 0, &needed, E));
  REFUSED(INVALID_ARGUMENT, qwen_prompt_encode(prompt, NULL, NULL, NULL, 0, &needed, E));
  TRUE(needed == 7);
}

static void request_calls(void) {
  qwen_result *result = UNSET(qwen_result);
  qwen_request *request = UNSET(qwen_request);
  qwen_tensors *tensors = UNSET(qwen_tensors);
  qwen_choice choice = {.struct_size = sizeof choice};
  qwen_stats stats = {.struct_size = sizeof stats};
  qwen_event event = {.struct_size = sizeof event};
  qwen_tensor tensor = {.struct_size = sizeof tensor};
  const int32_t id = 0;
  size_t count = 77;
  const size_t one = 1;

  TRUE(qwen_result_choice_count(NULL) == 0);
  REFUSED(INVALID_ARGUMENT, qwen_result_choice_get(NULL, 0, &choice, E));
  REFUSED(INVALID_ARGUMENT, qwen_result_stats_get(NULL, &stats, E));
  qwen_tool_call call = {.struct_size = sizeof call};
  REFUSED(INVALID_ARGUMENT, qwen_result_tool_call_get(NULL, 0, 0, &call, E));
  const float *logprobs = NULL;
  REFUSED(INVALID_ARGUMENT, qwen_result_prompt_logprobs_get(NULL, &logprobs, &count, E));
  TRUE(logprobs == NULL && count == 77);
  REFUSED(INVALID_ARGUMENT, qwen_engine_drain(NULL, 0, E));
  qwen_result_free(NULL);
  REFUSED(INVALID_ARGUMENT, qwen_generate(NULL, prompt, NULL, NULL, NULL, &result, E));
  REFUSED(INVALID_ARGUMENT, qwen_submit(NULL, prompt, NULL, NULL, 0, &request, E));
  REFUSED(INVALID_ARGUMENT, qwen_request_next(NULL, 0, &event, E));
  qwen_request_cancel(NULL);
  qwen_request_stop(NULL);
  REFUSED(INVALID_ARGUMENT, qwen_request_result(NULL, &result, E));
  qwen_request_free(NULL);
  TRUE(result == UNSET(qwen_result) && request == UNSET(qwen_request));

  REFUSED(INVALID_ARGUMENT, qwen_queue_new(NULL, E));
  qwen_queue_free(NULL);
  TRUE(qwen_queue_fd(NULL) == -1);
  TRUE(qwen_queue_fd(queue) >= 0);
  REFUSED(INVALID_ARGUMENT, qwen_queue_next(NULL, 0, &count, E));
  REFUSED(INVALID_ARGUMENT, qwen_queue_next(queue, 0, NULL, E));
  REFUSED(TIMEOUT, qwen_queue_next(queue, 0, &count, E));
  TRUE(count == 77);
  REFUSED(INVALID_ARGUMENT, qwen_queue_event(NULL, 0, &event, E));
  REFUSED(NOT_FOUND, qwen_queue_event(queue, 0, &event, E));

  REFUSED(INVALID_ARGUMENT, qwen_forward(NULL, &id, &one, NULL, 1, QWEN_OUTPUT_LOGITS, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_tensors_get(NULL, 0, "logits", &tensor, E));
  TRUE(tensors == UNSET(qwen_tensors));
  qwen_tensors_free(NULL);
}

static void input_calls(void) {
  qwen_inputs *made = UNSET(qwen_inputs);
  qwen_tensors *tensors = UNSET(qwen_tensors);
  qwen_stats stats = {.struct_size = sizeof stats};
  const int32_t id = 0;
  size_t count = 77;

  REFUSED(INVALID_ARGUMENT, qwen_inputs_new(0, NULL, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_new(0x80000000u, &made, E));
  TRUE(made == UNSET(qwen_inputs));
  qwen_inputs_free(NULL);
  REFUSED(INVALID_ARGUMENT, qwen_inputs_add_text(NULL, "x", 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_add_text(inputs, NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_add_text(inputs, NULL, 0, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_add_text(inputs, "a\xff", 2, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_add_tokens(NULL, &id, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_add_tokens(inputs, NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_add_tokens(inputs, NULL, 0, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_set_instruction(NULL, "x", 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_set_instruction(inputs, NULL, 1, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_set_instruction(inputs, "", 0, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_encode(NULL, 0, NULL, 0, NULL, NULL, 0, &count, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_encode(inputs, 0, NULL, 0, NULL, NULL, 0, &count, E));
  TRUE(count == 77);
  REFUSED(INVALID_ARGUMENT, qwen_embed(NULL, inputs, 0, NULL, NULL, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_rerank(NULL, "x", 1, inputs, NULL, NULL, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_tensors_stats_get(NULL, &stats, E));
  TRUE(tensors == UNSET(qwen_tensors));
}

/* Real handles, wrong everything else. */
static void calls_on_a_model(const char *folder) {
  qwen_engine *engine = NULL;
  qwen_error *error = NULL;
  qwen_result *result = UNSET(qwen_result);
  qwen_request *request = UNSET(qwen_request);
  qwen_tensors *tensors = UNSET(qwen_tensors);
  qwen_prompt *empty = NULL, *outside = NULL;
  qwen_model_info info = {.struct_size = 0};
  qwen_engine_stats stats = {.struct_size = 3};
  qwen_counter counter = {.struct_size = sizeof counter};
  const size_t one = 1, huge = SIZE_MAX;
  const int32_t negative = -1, beyond = INT32_MAX, zero = 0;
  int32_t id = 0;
  size_t count = 77;

  if (qwen_create(folder, NULL, &engine, &error)) {
    complain(__LINE__, "qwen_create", qwen_error_message(error));
    qwen_error_free(error);
    return;
  }
  const qwen_model *model = qwen_engine_model(engine);
  const qwen_tokenizer *tokenizer = qwen_model_tokenizer(model);
  REFUSED(INVALID_ARGUMENT, qwen_model_info_get(model, NULL, E));
  REFUSED(INVALID_ARGUMENT, qwen_model_info_get(model, &info, E));
  REFUSED(INVALID_ARGUMENT, qwen_engine_stats_get(engine, NULL, E));
  REFUSED(INVALID_ARGUMENT, qwen_engine_stats_get(engine, &stats, E));
  REFUSED(NOT_FOUND, qwen_engine_counter_get(engine, SIZE_MAX, &counter, E));
  qwen_adapter_info adapter = {.struct_size = sizeof adapter};
  REFUSED(INVALID_ARGUMENT, qwen_engine_load_adapter(engine, NULL, "name", E));
  REFUSED(INVALID_ARGUMENT, qwen_engine_load_adapter(engine, folder, NULL, E));
  REFUSED(INVALID_ARGUMENT, qwen_engine_load_adapter(engine, folder, "", E));
  REFUSED(NOT_FOUND, qwen_engine_load_adapter(engine, "/no/such/folder", "name", E));
  REFUSED(NOT_FOUND, qwen_engine_load_adapter(engine, folder, "name", E)); /* a model is no adapter */
  REFUSED(INVALID_ARGUMENT, qwen_engine_unload_adapter(engine, NULL, E));
  REFUSED(INVALID_ARGUMENT, qwen_engine_unload_adapter(engine, "name", E));
  REFUSED(NOT_FOUND, qwen_engine_adapter_info_get(engine, NULL, &adapter, E));
  REFUSED(NOT_FOUND, qwen_engine_adapter_info_get(engine, "x", &adapter, E));
  REFUSED(INVALID_ARGUMENT, qwen_engine_new(model, NULL, NULL, E));

  REFUSED(INVALID_ARGUMENT, qwen_tokenizer_encode(tokenizer, NULL, 1, 0, &id, 1, &count, E));
  REFUSED(INVALID_ARGUMENT, qwen_tokenizer_encode(tokenizer, "x", 1, 0, NULL, 1, &count, E));
  REFUSED(INVALID_ARGUMENT, qwen_tokenizer_encode(tokenizer, "x", 1, 0, &id, 1, NULL, E));
  REFUSED(INVALID_ARGUMENT, qwen_tokenizer_encode(tokenizer, "x", 1, 0x80000000u, &id, 1, &count, E));
  REFUSED(INVALID_ARGUMENT, qwen_tokenizer_encode(tokenizer, "a\xff", 2, 0, &id, 1, &count, E));
  REFUSED(INVALID_ARGUMENT, qwen_tokenizer_decode(tokenizer, NULL, 1, 0, NULL, 0, &count, E));
  REFUSED(INVALID_ARGUMENT, qwen_tokenizer_decode(tokenizer, &negative, 1, 0, NULL, 0, &count, E));
  REFUSED(INVALID_ARGUMENT, qwen_tokenizer_decode(tokenizer, &beyond, 1, 0, NULL, 0, &count, E));
  TRUE(count == 77);
  TRUE(qwen_tokenizer_token_id(tokenizer, NULL, 1) == -1);
  TRUE(qwen_tokenizer_token_id(tokenizer, "no such token", 13) == -1);

  TRUE(qwen_prompt_new(&empty, NULL) == QWEN_OK && qwen_prompt_new(&outside, NULL) == QWEN_OK);
  TRUE(qwen_prompt_add_tokens(outside, &beyond, 1, NULL) == QWEN_OK);
  REFUSED(INVALID_ARGUMENT, qwen_generate(engine, NULL, NULL, NULL, NULL, &result, E));
  REFUSED(INVALID_ARGUMENT, qwen_generate(engine, empty, NULL, NULL, NULL, &result, E));
  REFUSED(INVALID_ARGUMENT, qwen_generate(engine, outside, NULL, NULL, NULL, &result, E));
  REFUSED(INVALID_ARGUMENT, qwen_submit(engine, NULL, NULL, NULL, 0, &request, E));
  REFUSED(INVALID_ARGUMENT, qwen_submit(engine, empty, NULL, NULL, 0, &request, E));
  REFUSED(INVALID_ARGUMENT, qwen_submit(engine, prompt, NULL, NULL, 0, NULL, E));
  TRUE(result == UNSET(qwen_result) && request == UNSET(qwen_request));

  REFUSED(INVALID_ARGUMENT, qwen_forward(engine, NULL, &one, NULL, 1, QWEN_OUTPUT_LOGITS, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_forward(engine, &zero, NULL, NULL, 1, QWEN_OUTPUT_LOGITS, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_forward(engine, &zero, &one, NULL, 0, QWEN_OUTPUT_LOGITS, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_forward(engine, &zero, &one, NULL, 1, 0, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_forward(engine, &zero, &one, NULL, 1, 0x80000000u, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_forward(engine, &zero, &one, NULL, 1, QWEN_OUTPUT_LOGITS, NULL, NULL, E));
  REFUSED(INVALID_ARGUMENT, qwen_forward(engine, &negative, &one, NULL, 1, QWEN_OUTPUT_LOGITS, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_forward(engine, &beyond, &one, NULL, 1, QWEN_OUTPUT_LOGITS, NULL, &tensors, E));
  static const size_t behind = 1;
  REFUSED(INVALID_ARGUMENT, qwen_forward(engine, &zero, &one, &behind, 1, QWEN_OUTPUT_LOGITS, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_forward(engine, &zero, &huge, NULL, 1, QWEN_OUTPUT_LOGITS, NULL, &tensors, E));
  TRUE(tensors == UNSET(qwen_tensors));

  REFUSED(INVALID_ARGUMENT, qwen_embed(engine, NULL, 0, NULL, NULL, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_embed(engine, inputs, 0, NULL, NULL, NULL, &tensors, E)); /* none in it yet */
  REFUSED(INVALID_ARGUMENT, qwen_rerank(engine, "x", 1, inputs, NULL, NULL, NULL, &tensors, E));
  TRUE(qwen_inputs_add_text(inputs, "x", 1, NULL) == QWEN_OK);
  REFUSED(INVALID_ARGUMENT, qwen_embed(engine, inputs, 0, NULL, NULL, NULL, NULL, E));
  REFUSED(INVALID_ARGUMENT, qwen_embed(engine, inputs, -1, NULL, NULL, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_embed(engine, inputs, INT64_MAX, NULL, NULL, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_rerank(engine, NULL, 1, inputs, NULL, NULL, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_rerank(engine, "", 0, inputs, NULL, NULL, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_rerank(engine, "x", 1, NULL, NULL, NULL, NULL, &tensors, E));
  REFUSED(INVALID_ARGUMENT, qwen_rerank(engine, "x", 1, inputs, NULL, NULL, NULL, NULL, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_encode(inputs, 0, "", 0, model, NULL, 0, &count, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_encode(inputs, 0, NULL, 1, model, NULL, 0, &count, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_encode(inputs, 0, NULL, 0, model, NULL, 1, &count, E));
  REFUSED(INVALID_ARGUMENT, qwen_inputs_encode(inputs, 0, NULL, 0, model, NULL, 0, NULL, E));
  REFUSED(NOT_FOUND, qwen_inputs_encode(inputs, 1, NULL, 0, model, NULL, 0, &count, E));
  TRUE(tensors == UNSET(qwen_tensors));

  /* After all that the engine still works. */
  TRUE(qwen_forward(engine, &zero, &one, NULL, 1, QWEN_OUTPUT_LOGITS, NULL, &tensors, NULL) == QWEN_OK);
  if (tensors != UNSET(qwen_tensors)) {
    qwen_tensor tensor = {.struct_size = sizeof tensor};
    REFUSED(INVALID_ARGUMENT, qwen_tensors_get(tensors, 0, NULL, &tensor, E));
    REFUSED(INVALID_ARGUMENT, qwen_tensors_get(tensors, 0, "logits", NULL, E));
    REFUSED(NOT_FOUND, qwen_tensors_get(tensors, 0, "no such tensor", &tensor, E));
    REFUSED(NOT_FOUND, qwen_tensors_get(tensors, 1, "logits", &tensor, E));
    REFUSED(INVALID_ARGUMENT, qwen_tensors_stats_get(tensors, NULL, E));
    qwen_tensors_free(tensors);
    REFUSED(INVALID_ARGUMENT, qwen_engine_counter_get(engine, 0, NULL, E)); /* by now a kernel has run */
  }
  qwen_prompt_free(empty);
  qwen_prompt_free(outside);
  qwen_destroy(engine);
}

int main(int argc, char **argv) {
  TRUE(qwen_options_new(&options, NULL) == QWEN_OK);
  TRUE(qwen_prompt_new(&prompt, NULL) == QWEN_OK);
  TRUE(qwen_prompt_add_text(prompt, "x", 1, NULL) == QWEN_OK);
  TRUE(qwen_queue_new(&queue, NULL) == QWEN_OK);
  TRUE(qwen_inputs_new(0, &inputs, NULL) == QWEN_OK);
  texts_and_errors();
  option_calls();
  tokenizer_calls();
  machine_calls();
  model_calls();
  engine_calls();
  prompt_calls();
  request_calls();
  input_calls();
  if (argc > 1) calls_on_a_model(argv[1]);
  qwen_options_free(options);
  qwen_prompt_free(prompt);
  qwen_queue_free(queue);
  qwen_inputs_free(inputs);
  if (failures == 0) printf("%d calls\n", calls);
  return failures != 0;
}
