/* qwen.h for JavaScript: what index.js calls. Arguments come from there, in the types it makes sure of.
 *
 * Requests send their events to one qwen_queue per environment (the main thread or a worker); its descriptor is watched by
 * the event loop, which is never blocked. What blocks (loading, embedding, closing) runs on a thread of libuv's pool and ends in
 * a promise. The loop is kept alive while requests are under way, and no longer.
 */
#define NAPI_VERSION 8
#include <node_api.h>
#include <qwen.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

typedef struct {
  napi_env env;
  napi_ref error_class; /* QwenError(message, status, code) */
  napi_ref deliver;     /* deliver(events) */
  napi_async_context context;
  napi_async_cleanup_hook_handle cleanup;
  qwen_queue *queue;
  uv_poll_t poll;
  size_t running; /* requests whose DONE has not come */
} Addon;

typedef struct {
  qwen_engine *pointer;
} Engine;
typedef struct {
  qwen_request *pointer;
} Request;

static Addon *addon_of(napi_env env) {
  void *addon = NULL;
  napi_get_instance_data(env, &addon);
  return addon;
}

/* Zeroed memory. Without any, Node ends the process, as V8 does. */
static void *allocate(size_t count, size_t size) {
  void *memory = calloc(count ? count : 1, size);
  if (!memory) napi_fatal_error("qwen_node.c", NAPI_AUTO_LENGTH, "out of memory", NAPI_AUTO_LENGTH);
  return memory;
}

/* ------------------------------------------------------------------ values to JavaScript */

static napi_value number(napi_env env, double value) {
  napi_value made = NULL;
  napi_create_double(env, value, &made);
  return made;
}

static napi_value boolean(napi_env env, int32_t value) {
  napi_value made = NULL;
  napi_get_boolean(env, value != 0, &made);
  return made;
}

/* NULL: null. */
static napi_value text(napi_env env, const char *data, size_t length) {
  napi_value made = NULL;
  if (data) napi_create_string_utf8(env, data, length, &made);
  else napi_get_null(env, &made);
  return made;
}

static napi_value words(napi_env env, const char *data) { return text(env, data, data ? strlen(data) : 0); }

static void set(napi_env env, napi_value object, const char *name, napi_value value) {
  napi_set_named_property(env, object, name, value);
}

static napi_value ids(napi_env env, const int32_t *values, size_t count) {
  napi_value list;
  napi_create_array_with_length(env, count, &list);
  for (size_t i = 0; i < count; ++i) napi_set_element(env, list, (uint32_t)i, number(env, values[i]));
  return list;
}

/* NULL: null. */
static napi_value floats(napi_env env, const float *values, size_t count) {
  napi_value list;
  if (!values) return text(env, NULL, 0);
  napi_create_array_with_length(env, count, &list);
  for (size_t i = 0; i < count; ++i) napi_set_element(env, list, (uint32_t)i, number(env, (double)values[i]));
  return list;
}

/* For each token a list of [token id, log-probability]. */
static napi_value top(napi_env env, const int32_t *top_ids, const float *logprobs, size_t count, size_t top_count) {
  napi_value rows, row, pair;
  if (!logprobs) return text(env, NULL, 0);
  napi_create_array_with_length(env, count, &rows);
  for (size_t i = 0; i < count; ++i) {
    napi_create_array_with_length(env, top_count, &row);
    for (size_t place = 0; place < top_count; ++place) {
      napi_create_array_with_length(env, 2, &pair);
      napi_set_element(env, pair, 0, number(env, top_ids[i * top_count + place]));
      napi_set_element(env, pair, 1, number(env, (double)logprobs[i * top_count + place]));
      napi_set_element(env, row, (uint32_t)place, pair);
    }
    napi_set_element(env, rows, (uint32_t)i, row);
  }
  return rows;
}

static napi_value tool_call(napi_env env, const char *name, size_t name_length, const char *arguments, size_t length) {
  napi_value call;
  napi_create_object(env, &call);
  set(env, call, "name", text(env, name, name_length));
  set(env, call, "arguments", text(env, arguments, length));
  return call;
}

static napi_value finish(napi_env env, int32_t reason) {
  static const char *names[] = {"none", "stop", "length", "cancelled", "error"};
  return words(env, reason >= 0 && reason <= QWEN_FINISH_ERROR ? names[reason] : "none");
}

static napi_value new_error(napi_env env, int32_t status, const char *message) {
  napi_value constructor, made = NULL;
  napi_value arguments[] = {words(env, message), number(env, status), words(env, qwen_status_name(status))};
  napi_get_reference_value(env, addon_of(env)->error_class, &constructor);
  napi_new_instance(env, constructor, 3, arguments, &made);
  return made;
}

/* Throws a failure, and frees it. */
static napi_value throw(napi_env env, qwen_error *error) {
  napi_throw(env, new_error(env, qwen_error_code(error), qwen_error_message(error)));
  qwen_error_free(error);
  return NULL;
}

static napi_value choice_of(napi_env env, const qwen_result *result, size_t index) {
  qwen_choice raw = {.struct_size = sizeof raw};
  qwen_tool_call call = {.struct_size = sizeof call};
  napi_value choice, calls;
  napi_create_object(env, &choice);
  napi_create_array(env, &calls);
  if (qwen_result_choice_get(result, index, &raw, NULL)) return choice;
  for (size_t i = 0; qwen_result_tool_call_get(result, index, i, &call, NULL) == QWEN_OK; ++i)
    napi_set_element(env, calls, (uint32_t)i,
                     tool_call(env, call.name, call.name_length, call.arguments, call.arguments_length));
  set(env, choice, "text", text(env, raw.text, raw.text_length));
  set(env, choice, "reasoning", text(env, raw.reasoning, raw.reasoning_length));
  set(env, choice, "tokenIds", ids(env, raw.token_ids, raw.token_count));
  set(env, choice, "logprobs", floats(env, raw.logprobs, raw.token_count));
  set(env, choice, "topLogprobs", top(env, raw.top_token_ids, raw.top_logprobs, raw.token_count, raw.top_count));
  set(env, choice, "toolCalls", calls);
  set(env, choice, "finishReason", finish(env, raw.finish_reason));
  set(env, choice, "stopText", text(env, raw.stop_text, raw.stop_text_length));
  return choice;
}

static napi_value stats_of(napi_env env, const qwen_result *result) {
  qwen_stats raw = {.struct_size = sizeof raw};
  napi_value stats;
  napi_create_object(env, &stats);
  qwen_result_stats_get(result, &raw, NULL);
  set(env, stats, "promptTokens", number(env, (double)raw.prompt_tokens));
  set(env, stats, "cachedTokens", number(env, (double)raw.cached_tokens));
  set(env, stats, "generatedTokens", number(env, (double)raw.generated_tokens));
  set(env, stats, "queuedSeconds", number(env, raw.queued_seconds));
  set(env, stats, "promptSeconds", number(env, raw.prompt_seconds));
  set(env, stats, "generateSeconds", number(env, raw.generate_seconds));
  set(env, stats, "firstTokenSeconds", number(env, raw.first_token_seconds));
  set(env, stats, "seed", number(env, (double)raw.seed));
  return stats;
}

static napi_value answer_of(napi_env env, const qwen_request *request) {
  qwen_result *result = NULL;
  const float *logprobs = NULL;
  size_t count = 0;
  napi_value answer, choices;
  if (qwen_request_result(request, &result, NULL)) return text(env, NULL, 0);
  napi_create_object(env, &answer);
  napi_create_array(env, &choices);
  for (size_t i = 0; i < qwen_result_choice_count(result); ++i)
    napi_set_element(env, choices, (uint32_t)i, choice_of(env, result, i));
  qwen_result_prompt_logprobs_get(result, &logprobs, &count, NULL);
  set(env, answer, "choices", choices);
  set(env, answer, "promptLogprobs", floats(env, logprobs, count));
  set(env, answer, "stats", stats_of(env, result));
  qwen_result_free(result);
  return answer;
}

/* ------------------------------------------------------------------ events */

/* {tag, event}, or at the end of a request {tag, error, answer}. */
static napi_value delivery(napi_env env, const qwen_event *raw) {
  napi_value made, event;
  napi_create_object(env, &made);
  set(env, made, "tag", number(env, (double)raw->tag));
  if (raw->type == QWEN_EVENT_DONE) {
    set(env, made, "error", raw->status ? new_error(env, raw->status, raw->message) : text(env, NULL, 0));
    set(env, made, "answer", answer_of(env, raw->request));
    return made;
  }
  napi_create_object(env, &event);
  set(env, made, "event", event);
  set(env, event, "choice", number(env, raw->choice));
  set(env, event, "text", text(env, raw->text ? raw->text : "", raw->text_length));
  if (raw->type == QWEN_EVENT_FINISHED) {
    set(env, event, "type", words(env, "finished"));
    set(env, event, "finishReason", finish(env, raw->finish_reason));
  } else if (raw->type == QWEN_EVENT_TOOL_CALL) {
    set(env, event, "type", words(env, "tool_call"));
    set(env, event, "toolCall",
        tool_call(env, raw->tool_name, raw->tool_name_length, raw->tool_arguments, raw->tool_arguments_length));
  } else {
    set(env, event, "type", words(env, "text"));
    set(env, event, "channel", words(env, raw->channel == QWEN_CHANNEL_REASONING ? "reasoning" : "answer"));
    set(env, event, "tokenIds", ids(env, raw->token_ids, raw->token_count));
    set(env, event, "logprobs", floats(env, raw->logprobs, raw->token_count));
    set(env, event, "topLogprobs", top(env, raw->top_token_ids, raw->top_logprobs, raw->token_count, raw->top_count));
  }
  return made;
}

/* The loop has seen that events wait: all of them go to deliver() in one call. */
static void on_readable(uv_poll_t *poll, int status, int flags) {
  Addon *addon = poll->data;
  napi_env env = addon->env;
  napi_handle_scope scope;
  napi_value events, deliver, receiver, error;
  qwen_event event = {.struct_size = sizeof event};
  size_t count = 0;
  (void)status, (void)flags;
  if (qwen_queue_next(addon->queue, 0, &count, NULL)) return; /* they were of requests that have been freed meanwhile */
  napi_open_handle_scope(env, &scope);
  napi_create_array(env, &events);
  for (size_t i = 0; i < count; ++i) {
    if (qwen_queue_event(addon->queue, i, &event, NULL)) continue;
    napi_set_element(env, events, (uint32_t)i, delivery(env, &event));
    if (event.type == QWEN_EVENT_DONE && --addon->running == 0) uv_unref((uv_handle_t *)poll);
  }
  napi_get_reference_value(env, addon->deliver, &deliver);
  napi_get_global(env, &receiver);
  if (napi_make_callback(env, addon->context, receiver, deliver, 1, &events, NULL) == napi_pending_exception &&
      napi_get_and_clear_last_exception(env, &error) == napi_ok)
    napi_fatal_exception(env, error);
  napi_close_handle_scope(env, scope);
}

static void on_closed(uv_handle_t *poll) {
  Addon *addon = poll->data;
  napi_remove_async_cleanup_hook(addon->cleanup);
  free(addon);
}

/* The environment ends. Requests that still run have nobody left to tell. */
static void on_cleanup(napi_async_cleanup_hook_handle handle, void *data) {
  Addon *addon = data;
  (void)handle;
  qwen_queue *queue = addon->queue;
  uv_poll_stop(&addon->poll);
  qwen_queue_free(queue);
  uv_close((uv_handle_t *)&addon->poll, on_closed);
}

/* ------------------------------------------------------------------ values from JavaScript */

enum { MOST_ARGUMENTS = 6 };

static void take_arguments(napi_env env, napi_callback_info info, napi_value *arguments) {
  size_t count = MOST_ARGUMENTS;
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
}

static napi_valuetype type_of(napi_env env, napi_value value) {
  napi_valuetype type = napi_undefined;
  napi_typeof(env, value, &type);
  return type;
}

/* NULL unless the value is a string. The caller frees it. */
static char *take_text(napi_env env, napi_value value, size_t *length) {
  if (napi_get_value_string_utf8(env, value, NULL, 0, length) != napi_ok) return NULL;
  char *taken = allocate(*length + 1, 1);
  napi_get_value_string_utf8(env, value, taken, *length + 1, length);
  return taken;
}

/* The memory of an Int32Array or Float32Array, which lives as long as that does. */
static void *array(napi_env env, napi_value value, size_t *count) {
  void *data = NULL;
  *count = 0;
  napi_get_typedarray_info(env, value, NULL, count, &data, NULL, NULL);
  return data;
}

static void *external(napi_env env, napi_value value) {
  void *data = NULL;
  napi_get_value_external(env, value, &data);
  return data;
}

static napi_value element(napi_env env, napi_value list, uint32_t index) {
  napi_value value = NULL;
  napi_get_element(env, list, index, &value);
  return value;
}

static uint32_t length_of(napi_env env, napi_value list) {
  uint32_t length = 0;
  napi_get_array_length(env, list, &length);
  return length;
}

static int32_t set_texts(napi_env env, qwen_options *options, const char *key, napi_value list, qwen_error **error) {
  const uint32_t count = length_of(env, list);
  char **texts = allocate(count, sizeof *texts);
  size_t *lengths = allocate(count, sizeof *lengths);
  for (uint32_t i = 0; i < count; ++i) texts[i] = take_text(env, element(env, list, i), &lengths[i]);
  const int32_t status = qwen_options_set_str_array(options, key, (const char *const *)texts, lengths, count, error);
  for (uint32_t i = 0; i < count; ++i) free(texts[i]);
  free(texts);
  free(lengths);
  return status;
}

/* One of the entries that index.js makes of options: [type, key, value], of a bias [type, key, ids, biases]. */
static int32_t set_option(napi_env env, qwen_options *options, napi_value entry, qwen_error **error) {
  int32_t type = 0, status = QWEN_OK;
  int64_t whole = 0;
  double real = 0;
  size_t length = 0, count = 0;
  const napi_value value = element(env, entry, 2);
  char *key = take_text(env, element(env, entry, 1), &length), *string = NULL;
  napi_get_value_int32(env, element(env, entry, 0), &type);
  if (type == QWEN_OPTION_I64) {
    napi_get_value_int64(env, value, &whole);
    status = qwen_options_set_i64(options, key, whole, error);
  } else if (type == QWEN_OPTION_F64) {
    napi_get_value_double(env, value, &real);
    status = qwen_options_set_f64(options, key, real, error);
  } else if (type == QWEN_OPTION_STR) {
    string = take_text(env, value, &length);
    status = qwen_options_set_str(options, key, string, length, error);
  } else if (type == QWEN_OPTION_STR_ARRAY) {
    status = set_texts(env, options, key, value, error);
  } else if (type == QWEN_OPTION_I32_ARRAY) {
    const int32_t *values = array(env, value, &count);
    status = qwen_options_set_i32_array(options, key, values, count, error);
  } else if (type == QWEN_OPTION_BIAS) {
    const float *biases = array(env, element(env, entry, 3), &count);
    status = qwen_options_set_bias(options, key, array(env, value, &count), biases, count, error);
  }
  free(string);
  free(key);
  return status;
}

/* NULL: *error says why. */
static qwen_options *take_options(napi_env env, napi_value entries, qwen_error **error) {
  qwen_options *options = NULL;
  int32_t status = qwen_options_new(&options, error);
  for (uint32_t i = 0; i < length_of(env, entries) && !status; ++i)
    status = set_option(env, options, element(env, entries, i), error);
  if (!status) return options;
  qwen_options_free(options);
  return NULL;
}

typedef int32_t (*add_text)(qwen_prompt *, const char *, size_t, qwen_error **);

/* The prompt's member `name`, where it has one. */
static int32_t add_member(napi_env env, qwen_prompt *prompt, napi_value from, const char *name, add_text add,
                          qwen_error **error) {
  napi_value value;
  size_t length = 0;
  napi_get_named_property(env, from, name, &value);
  char *taken = take_text(env, value, &length);
  const int32_t status = taken ? add(prompt, taken, length, error) : QWEN_OK;
  free(taken);
  return status;
}

/* Of {text} or {tokens} or {messages, tools, variables}, the last three as JSON. NULL: *error says why. */
static qwen_prompt *take_prompt(napi_env env, napi_value from, qwen_error **error) {
  qwen_prompt *prompt = NULL;
  napi_value tokens;
  size_t count = 0;
  napi_get_named_property(env, from, "tokens", &tokens);
  const int32_t *values = array(env, tokens, &count);
  if (!(qwen_prompt_new(&prompt, error) ||
        (values && qwen_prompt_add_tokens(prompt, values, count, error)) ||
        add_member(env, prompt, from, "text", qwen_prompt_add_text, error) ||
        add_member(env, prompt, from, "messages", qwen_prompt_add_message_json, error) ||
        add_member(env, prompt, from, "tools", qwen_prompt_set_tools, error) ||
        add_member(env, prompt, from, "variables", qwen_prompt_set_variables, error)))
    return prompt;
  qwen_prompt_free(prompt);
  return NULL;
}

/* A list of strings and Int32Arrays; instruction: undefined none, null the library's own. NULL: *error says why. */
static qwen_inputs *take_inputs(napi_env env, napi_value list, napi_value instruction, qwen_error **error) {
  qwen_inputs *inputs = NULL;
  size_t length = 0, count = 0;
  int32_t status = qwen_inputs_new(0, &inputs, error);
  for (uint32_t i = 0; i < length_of(env, list) && !status; ++i) {
    const napi_value item = element(env, list, i);
    char *taken = take_text(env, item, &length);
    if (taken) {
      status = qwen_inputs_add_text(inputs, taken, length, error);
    } else {
      const int32_t *values = array(env, item, &count);
      status = qwen_inputs_add_tokens(inputs, values, count, error);
    }
    free(taken);
  }
  if (!status && type_of(env, instruction) != napi_undefined) {
    char *taken = take_text(env, instruction, &length);
    status = qwen_inputs_set_instruction(inputs, taken, taken ? length : 0, error);
    free(taken);
  }
  if (!status) return inputs;
  qwen_inputs_free(inputs);
  return NULL;
}

/* ------------------------------------------------------------------ what blocks */

typedef struct Job Job;
struct Job {
  void (*work)(Job *);                 /* on a thread of the pool */
  napi_value (*made)(napi_env, Job *); /* what the promise becomes */
  napi_async_work handle;
  napi_deferred deferred;
  napi_ref kept;   /* the arguments, so that what is borrowed from them lives */
  int32_t *cancel; /* an Int32Array's first number: index.js sets it to 1 */
  int32_t status;
  qwen_error *error;
  Engine *engine;
  char *name; /* open: the path; rerank: the query */
  size_t name_length;
  qwen_options *options;
  qwen_inputs *inputs;
  int64_t dimensions;
  qwen_tensors *tensors;
};

static int32_t progress(double fraction, void *user) {
  (void)fraction;
  return __atomic_load_n(((Job *)user)->cancel, __ATOMIC_RELAXED);
}

static void work_open(Job *job);

static void execute(napi_env env, void *data) {
  (void)env;
  ((Job *)data)->work(data);
}

static void complete(napi_env env, napi_status status, void *data) {
  Job *job = data;
  if (status == napi_ok && !job->error) napi_resolve_deferred(env, job->deferred, job->made(env, job));
  else
    napi_reject_deferred(env, job->deferred,
                         new_error(env, job->error ? qwen_error_code(job->error) : QWEN_ERR_CANCELLED,
                                   job->error ? qwen_error_message(job->error) : "the environment ends"));
  if (job->error && job->work == work_open) free(job->engine);
  if (job->handle) napi_delete_async_work(env, job->handle);
  napi_delete_reference(env, job->kept);
  qwen_error_free(job->error);
  qwen_options_free(job->options);
  qwen_inputs_free(job->inputs);
  qwen_tensors_free(job->tensors);
  free(job->name);
  free(job);
}

/* Starts the job and returns its promise; one that has an error already only ends. */
static napi_value start(napi_env env, Job *job, napi_value *arguments) {
  napi_value promise, list;
  napi_create_promise(env, &job->deferred, &promise);
  napi_create_array(env, &list);
  for (uint32_t i = 0; i < MOST_ARGUMENTS; ++i) napi_set_element(env, list, i, arguments[i]);
  napi_create_reference(env, list, 1, &job->kept);
  if (job->error) complete(env, napi_ok, job);
  else if (napi_create_async_work(env, NULL, words(env, "qwen"), execute, complete, job, &job->handle) == napi_ok)
    napi_queue_async_work(env, job->handle);
  return promise;
}

static void free_engine(napi_env env, void *data, void *hint) {
  (void)env, (void)hint;
  qwen_destroy(((Engine *)data)->pointer);
  free(data);
}

static void work_open(Job *job) {
  qwen_options_set_callback(job->options, "progress", (qwen_callback_fn)progress, job, NULL, &job->error);
  if (!job->error) qwen_create(job->name, job->options, &job->engine->pointer, &job->error);
}

/* {engine, info} */
static napi_value made_open(napi_env env, Job *job) {
  qwen_model_info raw = {.struct_size = sizeof raw};
  napi_value opened, info, engine;
  napi_create_object(env, &opened);
  napi_create_object(env, &info);
  napi_create_external(env, job->engine, free_engine, NULL, &engine);
  set(env, opened, "engine", engine);
  set(env, opened, "info", info);
  qwen_model_info_get(qwen_engine_model(job->engine->pointer), &raw, NULL);
  set(env, info, "architecture", words(env, raw.architecture));
  set(env, info, "path", words(env, raw.path));
  set(env, info, "vocabSize", number(env, raw.vocab_size));
  set(env, info, "hiddenSize", number(env, raw.hidden_size));
  set(env, info, "contextLength", number(env, (double)raw.context_length));
  set(env, info, "parameters", number(env, (double)raw.parameters));
  set(env, info, "hasTokenizer", boolean(env, raw.has_tokenizer));
  set(env, info, "hasChatTemplate", boolean(env, raw.has_chat_template));
  return opened;
}

static void work_close(Job *job) {
  qwen_destroy(job->engine->pointer);
  job->engine->pointer = NULL;
}

static napi_value made_nothing(napi_env env, Job *job) {
  (void)job;
  return text(env, NULL, 0);
}

static void work_embed(Job *job) {
  qwen_embed(job->engine->pointer, job->inputs, job->dimensions, job->options, progress, job, &job->tensors, &job->error);
}

static void work_rerank(Job *job) {
  qwen_rerank(job->engine->pointer, job->name, job->name_length, job->inputs, job->options, progress, job, &job->tensors,
              &job->error);
}

/* A Float32Array per row; of scores only one. */
static napi_value made_rows(napi_env env, Job *job) {
  qwen_tensor raw = {.struct_size = sizeof raw};
  napi_value rows, buffer, row;
  void *data;
  napi_create_array(env, &rows);
  if (qwen_tensors_get(job->tensors, 0, job->name ? "scores" : "embeddings", &raw, NULL)) return rows;
  const size_t width = (size_t)raw.shape[raw.dimensions - 1], bytes = width * sizeof(float);
  for (size_t i = 0; i < raw.bytes / bytes; ++i) {
    napi_create_arraybuffer(env, bytes, &data, &buffer);
    memcpy(data, (const char *)raw.data + i * bytes, bytes);
    napi_create_typedarray(env, napi_float32_array, width, buffer, 0, &row);
    napi_set_element(env, rows, (uint32_t)i, row);
  }
  return rows;
}

/* ------------------------------------------------------------------ functions */

/* open(path, options, cancel) -> promise of {engine, info} */
static napi_value open_engine(napi_env env, napi_callback_info info) {
  napi_value arguments[MOST_ARGUMENTS];
  size_t count;
  take_arguments(env, info, arguments);
  Job *job = allocate(1, sizeof *job);
  job->work = work_open;
  job->made = made_open;
  job->engine = allocate(1, sizeof *job->engine);
  job->name = take_text(env, arguments[0], &job->name_length);
  job->options = take_options(env, arguments[1], &job->error);
  job->cancel = array(env, arguments[2], &count);
  return start(env, job, arguments);
}

/* close(engine) -> promise; index.js makes sure that no job uses the engine. */
static napi_value close_engine(napi_env env, napi_callback_info info) {
  napi_value arguments[MOST_ARGUMENTS];
  take_arguments(env, info, arguments);
  Job *job = allocate(1, sizeof *job);
  job->work = work_close;
  job->made = made_nothing;
  job->engine = external(env, arguments[0]);
  return start(env, job, arguments);
}

static Job *search(napi_env env, napi_value *arguments) {
  Job *job = allocate(1, sizeof *job);
  size_t count;
  job->made = made_rows;
  job->engine = external(env, arguments[0]);
  job->inputs = take_inputs(env, arguments[1], arguments[2], &job->error);
  if (!job->error) job->options = take_options(env, arguments[3], &job->error);
  job->cancel = array(env, arguments[4], &count);
  return job;
}

/* embed(engine, inputs, instruction, options, cancel, dimensions) -> promise of Float32Arrays */
static napi_value embed(napi_env env, napi_callback_info info) {
  napi_value arguments[MOST_ARGUMENTS];
  take_arguments(env, info, arguments);
  Job *job = search(env, arguments);
  job->work = work_embed;
  napi_get_value_int64(env, arguments[5], &job->dimensions);
  return start(env, job, arguments);
}

/* rerank(engine, documents, instruction, options, cancel, query) -> promise of one Float32Array in a list */
static napi_value rerank(napi_env env, napi_callback_info info) {
  napi_value arguments[MOST_ARGUMENTS];
  take_arguments(env, info, arguments);
  Job *job = search(env, arguments);
  job->work = work_rerank;
  job->name = take_text(env, arguments[5], &job->name_length);
  return start(env, job, arguments);
}

static void free_request(napi_env env, void *data, void *hint) {
  (void)env, (void)hint;
  qwen_request_free(((Request *)data)->pointer);
  free(data);
}

/* submit(engine, prompt, options, tag) -> request */
static napi_value submit(napi_env env, napi_callback_info info) {
  napi_value arguments[MOST_ARGUMENTS], made;
  qwen_error *error = NULL;
  double tag = 0;
  take_arguments(env, info, arguments);
  Addon *addon = addon_of(env);
  Engine *engine = external(env, arguments[0]);
  Request *request = allocate(1, sizeof *request);
  qwen_prompt *prompt = take_prompt(env, arguments[1], &error);
  qwen_options *options = prompt ? take_options(env, arguments[2], &error) : NULL;
  napi_get_value_double(env, arguments[3], &tag);
  if (options) qwen_submit(engine->pointer, prompt, options, addon->queue, (uint64_t)tag, &request->pointer, &error);
  qwen_prompt_free(prompt);
  qwen_options_free(options);
  if (error) {
    free(request);
    return throw(env, error);
  }
  if (addon->running++ == 0) uv_ref((uv_handle_t *)&addon->poll);
  napi_create_external(env, request, free_request, NULL, &made);
  return made;
}

/* cancel(request), stop(request), free(request): the last one when its end has been delivered */
static napi_value cancel_request(napi_env env, napi_callback_info info) {
  napi_value arguments[MOST_ARGUMENTS];
  take_arguments(env, info, arguments);
  qwen_request_cancel(((Request *)external(env, arguments[0]))->pointer);
  return NULL;
}
static napi_value stop_request(napi_env env, napi_callback_info info) {
  napi_value arguments[MOST_ARGUMENTS];
  take_arguments(env, info, arguments);
  qwen_request_stop(((Request *)external(env, arguments[0]))->pointer);
  return NULL;
}
static napi_value release_request(napi_env env, napi_callback_info info) {
  napi_value arguments[MOST_ARGUMENTS];
  take_arguments(env, info, arguments);
  Request *request = external(env, arguments[0]);
  qwen_request_free(request->pointer);
  request->pointer = NULL;
  return NULL;
}

/* encode(engine, prompt, options) -> token ids */
static napi_value encode(napi_env env, napi_callback_info info) {
  napi_value arguments[MOST_ARGUMENTS], made = NULL;
  qwen_error *error = NULL;
  size_t count = 0, capacity = 1024;
  take_arguments(env, info, arguments);
  Engine *engine = external(env, arguments[0]);
  qwen_prompt *prompt = take_prompt(env, arguments[1], &error);
  qwen_options *options = prompt ? take_options(env, arguments[2], &error) : NULL;
  const qwen_model *model = qwen_engine_model(engine->pointer);
  int32_t *room = allocate(capacity, sizeof *room);
  if (options) qwen_prompt_encode(prompt, model, options, room, capacity, &count, &error);
  if (!error && count > capacity) {
    capacity = count;
    free(room);
    room = allocate(capacity, sizeof *room);
    qwen_prompt_encode(prompt, model, options, room, capacity, &count, &error);
  }
  if (!error) made = ids(env, room, count);
  free(room);
  qwen_prompt_free(prompt);
  qwen_options_free(options);
  return error ? throw(env, error) : made;
}

/* setup(QwenError, deliver): once, first of all */
static napi_value setup(napi_env env, napi_callback_info info) {
  napi_value arguments[MOST_ARGUMENTS];
  take_arguments(env, info, arguments);
  Addon *addon = addon_of(env);
  napi_create_reference(env, arguments[0], 1, &addon->error_class);
  napi_create_reference(env, arguments[1], 1, &addon->deliver);
  return NULL;
}

NAPI_MODULE_INIT() {
  const struct {
    const char *name;
    napi_callback function;
  } functions[] = {{"setup", setup},   {"open", open_engine},      {"close", close_engine}, {"submit", submit},
                   {"encode", encode}, {"cancel", cancel_request}, {"stop", stop_request},  {"free", release_request},
                   {"embed", embed},   {"rerank", rerank}};
  Addon *addon = allocate(1, sizeof *addon);
  qwen_error *error = NULL;
  uv_loop_t *loop = NULL;
  addon->env = env;
  if (qwen_queue_new(&addon->queue, &error) || qwen_queue_fd(addon->queue) < 0) {
    napi_throw_error(env, NULL, error ? qwen_error_message(error) : "no file descriptor is left for the queue of events");
    qwen_error_free(error);
    qwen_queue_free(addon->queue);
    free(addon);
    return NULL;
  }
  napi_set_instance_data(env, addon, NULL, NULL); /* on_closed frees it */
  napi_async_init(env, NULL, words(env, "qwen"), &addon->context);
  napi_get_uv_event_loop(env, &loop);
  uv_poll_init(loop, &addon->poll, qwen_queue_fd(addon->queue));
  addon->poll.data = addon;
  uv_poll_start(&addon->poll, UV_READABLE, on_readable);
  uv_unref((uv_handle_t *)&addon->poll);
  napi_add_async_cleanup_hook(env, on_cleanup, addon, &addon->cleanup);
  for (size_t i = 0; i < sizeof functions / sizeof *functions; ++i) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].function, NULL, &function);
    set(env, exports, functions[i].name, function);
  }
  set(env, exports, "version", words(env, qwen_version()));
  return exports;
}
