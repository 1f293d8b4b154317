/* The first qwen.h (commit 2bc71f0), without qwen_forward, which got one more parameter before anybody used it. Programs of
 * that day must run on every later library; so nothing in here is ever changed. */
/*
 * qwen.h - run Qwen models in your process.                            libqwen, Apache-2.0
 *
 * The whole public interface of libqwen.so, in C99. A first program:
 *
 *     qwen_engine *engine = NULL;
 *     qwen_error *error = NULL;
 *     if (qwen_create("path/to/Qwen3-0.6B", NULL, &engine, &error) != QWEN_OK) {
 *         fprintf(stderr, "%s\n", qwen_error_message(error));
 *         qwen_error_free(error);
 *         return 1;
 *     }
 *     qwen_prompt *prompt = NULL;
 *     qwen_prompt_new(&prompt, NULL);
 *     qwen_prompt_add_message(prompt, "user", "Hello!", 6, NULL);
 *     qwen_generate(engine, prompt, NULL, on_event, NULL, NULL, &error);     on_event prints event->text
 *     qwen_prompt_free(prompt);
 *     qwen_destroy(engine);
 *
 * Rules that hold for every function:
 *
 *   Errors    A function that can fail returns a status (QWEN_OK is 0) and takes `qwen_error **error` last. NULL is
 *             allowed there; otherwise *error receives an object that the caller frees with qwen_error_free. A failed
 *             call leaves its other out-parameters untouched and owes nothing. Messages name the file, key or value
 *             and what would be right. NULL where a handle or pointer is required is QWEN_ERR_INVALID_ARGUMENT.
 *   Text      UTF-8, pointer + length in bytes. Text the library hands out is NUL-terminated as well.
 *   Memory    What a function creates has its own _free (accepts NULL). Borrowed memory says how long it lives.
 *   Threads   A const handle may be used by many threads at once. An engine may be shared by any number of threads:
 *             their requests are computed together. Other non-const handles: one thread at a time, unless said.
 *   Structs   Only the library fills them. Set struct_size = sizeof(the struct) first; the library writes no more than
 *             that, so a program compiled against an older header keeps working. Fields are only ever appended.
 *   Quiet     The library never prints, exits, installs signal handlers or changes the locale.
 *   Forks     Engines, requests and queues do not survive fork(): in a child their calls fail with QWEN_ERR_FORKED, and
 *             freeing them there leaves the parent's alone. Models, tokenizers, options and results may be used on.
 */
#ifndef QWEN_H
#define QWEN_H

#include <stddef.h>
#include <stdint.h>

#ifndef QWEN_API
#if defined(_WIN32)
#define QWEN_API
#else
#define QWEN_API __attribute__((visibility("default")))
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* qwen:begin - from here to qwen:end the declarations, QWEN_API removed, are what cffi's parser reads. */

/* ------------------------------------------------------------------ versions */

/* The interface this header describes. It grows by appending; a program needs
 * qwen_abi_version() >= the QWEN_ABI_VERSION it was compiled with. */
enum { QWEN_ABI_VERSION = 1 };

QWEN_API uint32_t qwen_abi_version(void);
/* "0.1.0"; static memory. */
QWEN_API const char *qwen_version(void);
/* One line of JSON: version, compiler, backends compiled in, instruction set levels this machine offers. Static memory. */
QWEN_API const char *qwen_build_info(void);

/* ------------------------------------------------------------------ status and errors */

enum {
  QWEN_OK = 0,
  QWEN_ERR_INVALID_ARGUMENT = 1, /* an argument, option key or value is not acceptable */
  QWEN_ERR_NOT_FOUND = 2,        /* a file or folder does not exist */
  QWEN_ERR_IO = 3,               /* the operating system refused to read */
  QWEN_ERR_INVALID_FILE = 4,     /* a file exists but is broken or contradicts itself */
  QWEN_ERR_UNSUPPORTED = 5,      /* well-formed, but this version, build or machine cannot do it */
  QWEN_ERR_OUT_OF_MEMORY = 6,    /* says what was asked for; the engine stays usable */
  QWEN_ERR_CANCELLED = 7,        /* the request was cancelled */
  QWEN_ERR_CLOSED = 8,           /* the engine was destroyed meanwhile */
  QWEN_ERR_TIMEOUT = 9,          /* nothing happened within timeout_ms; call again */
  QWEN_ERR_CALLBACK = 10,        /* the host's own callback returned a negative number */
  QWEN_ERR_FORKED = 11,          /* used in a child of the process that made the handle */
  QWEN_ERR_BUSY = 12,            /* the engine's bounded queue is full; try again later */
  QWEN_ERR_INTERNAL = 13         /* a defect of this library: please report it */
};

typedef struct qwen_error qwen_error;

/* An error object may be read by any thread. code of NULL is QWEN_OK, message of NULL is "". */
QWEN_API int32_t qwen_error_code(const qwen_error *error);
/* Borrowed, lives as long as the error. */
QWEN_API const char *qwen_error_message(const qwen_error *error);
QWEN_API void qwen_error_free(qwen_error *error);
/* "QWEN_ERR_NOT_FOUND"; "unknown status" for any other number. Static memory. */
QWEN_API const char *qwen_status_name(int32_t status);

/* ------------------------------------------------------------------ log */

enum { QWEN_LOG_ERROR = 1, QWEN_LOG_WARNING = 2, QWEN_LOG_INFO = 3, QWEN_LOG_DEBUG = 4 };

/* Called from any thread of the library, one call at a time; message is valid during the call. It must not call back
 * into the library. */
typedef void (*qwen_log_fn)(int32_t level, const char *message, size_t length, void *user);

/* Sends messages up to `level` to `sink`, for the whole process; NULL switches the log off (the state at start).
 * When it returns, the previous sink is not running and will not be called again. Any thread. */
QWEN_API int32_t qwen_log_set(qwen_log_fn sink, void *user, int32_t level, qwen_error **error);

/* ------------------------------------------------------------------ options
 *
 * Every engine option and sampling parameter is one row of one table: qwen_option_info_get lists them. An unknown key, a
 * value of another type or out of bounds, an engine option given to a request or the reverse: an error that says what is
 * allowed. Precedence: set here > environment
 * (QWEN_ and the key in capitals, engine options only) > the checkpoint's generation_config.json > default.
 * Options are copied where they are used: change or free the object at once afterwards. NULL options mean all defaults. */

enum {
  QWEN_OPTION_I64 = 1,       /* integers; booleans are 0 / 1 */
  QWEN_OPTION_F64 = 2,
  QWEN_OPTION_STR = 3,
  QWEN_OPTION_I32_ARRAY = 4, /* e.g. token ids */
  QWEN_OPTION_STR_ARRAY = 5,
  QWEN_OPTION_BIAS = 6,      /* pairs of token id and bias */
  QWEN_OPTION_CALLBACK = 7
};

enum { QWEN_SCOPE_ENGINE = 1, QWEN_SCOPE_REQUEST = 2 };

typedef struct qwen_options qwen_options;
typedef void (*qwen_callback_fn)(void);   /* any function; the key says which type it really has */
typedef void (*qwen_destroy_fn)(void *user);
/* Key "progress": loading is `fraction` done, 0…1. Return 0 to go on, anything else cancels (QWEN_ERR_CANCELLED). */
typedef int32_t (*qwen_progress_fn)(double fraction, void *user);

QWEN_API int32_t qwen_options_new(qwen_options **options, qwen_error **error);
QWEN_API void qwen_options_free(qwen_options *options);
QWEN_API int32_t qwen_options_set_i64(qwen_options *options, const char *key, int64_t value, qwen_error **error);
QWEN_API int32_t qwen_options_set_f64(qwen_options *options, const char *key, double value, qwen_error **error);
QWEN_API int32_t qwen_options_set_str(qwen_options *options, const char *key, const char *text, size_t length,
                                      qwen_error **error);
QWEN_API int32_t qwen_options_set_i32_array(qwen_options *options, const char *key, const int32_t *values, size_t count,
                                            qwen_error **error);
QWEN_API int32_t qwen_options_set_str_array(qwen_options *options, const char *key, const char *const *texts,
                                            const size_t *lengths, size_t count, qwen_error **error);
QWEN_API int32_t qwen_options_set_bias(qwen_options *options, const char *key, const int32_t *ids, const float *biases,
                                       size_t count, qwen_error **error);
/* destroy(user) is called once, when the last copy of the options is gone; NULL: never. */
QWEN_API int32_t qwen_options_set_callback(qwen_options *options, const char *key, qwen_callback_fn fn, void *user,
                                           qwen_destroy_fn destroy, qwen_error **error);

typedef struct qwen_option_info {
  uint32_t struct_size;
  int32_t type;             /* QWEN_OPTION_… */
  int32_t scope;            /* QWEN_SCOPE_… */
  int32_t has_bounds;       /* minimum and maximum are meaningful */
  double minimum;           /* inclusive */
  double maximum;           /* inclusive */
  const char *key;          /* all texts: static memory */
  const char *default_text; /* the default as text, "" for none */
  const char *choices;      /* for texts: the allowed values separated by '|', "" for any */
  const char *unit;         /* "tokens", "bytes", "" … */
  const char *help;         /* one sentence */
} qwen_option_info;

/* index 0, 1, … ; QWEN_ERR_NOT_FOUND past the last one. */
QWEN_API int32_t qwen_option_info_get(size_t index, qwen_option_info *info, qwen_error **error);

/* ------------------------------------------------------------------ tokenizer */

typedef struct qwen_tokenizer qwen_tokenizer;

/* path: a tokenizer.json or a folder that holds one. Weights are not needed. */
QWEN_API int32_t qwen_tokenizer_open(const char *path, qwen_tokenizer **tokenizer, qwen_error **error);
QWEN_API void qwen_tokenizer_free(qwen_tokenizer *tokenizer);

enum {
  QWEN_ENCODE_PLAIN = 1,     /* "<|im_end|>" in the text is ordinary text, not the special token: for untrusted text */
  QWEN_DECODE_SKIP_SPECIAL = 1 /* leave special tokens such as <|im_end|> out of the text */
};

/* Text to token ids. Writes min(capacity, needed) ids and sets *count to the number needed: call again with more room
 * when *count > capacity. Invalid UTF-8 is QWEN_ERR_INVALID_ARGUMENT with the byte offset. flags: QWEN_ENCODE_… */
QWEN_API int32_t qwen_tokenizer_encode(const qwen_tokenizer *tokenizer, const char *text, size_t length, uint32_t flags,
                                       int32_t *ids, size_t capacity, size_t *count, qwen_error **error);
/* Token ids to text, the same way; the text is NUL-terminated when there is room (*length does not count the NUL).
 * Bytes that form no UTF-8 become U+FFFD. An id outside the vocabulary is QWEN_ERR_INVALID_ARGUMENT. */
QWEN_API int32_t qwen_tokenizer_decode(const qwen_tokenizer *tokenizer, const int32_t *ids, size_t count, uint32_t flags,
                                       char *text, size_t capacity, size_t *length, qwen_error **error);
/* Highest token id + 1. A model's vocab_size may be larger (padding). */
QWEN_API int32_t qwen_tokenizer_size(const qwen_tokenizer *tokenizer);
/* The id of a special or added token by its exact text, -1: there is none. */
QWEN_API int32_t qwen_tokenizer_token_id(const qwen_tokenizer *tokenizer, const char *text, size_t length);

/* ------------------------------------------------------------------ model
 *
 * Weights, tokenizer and template of one checkpoint: immutable, shared by any number of engines. */

typedef struct qwen_model qwen_model;
typedef struct qwen_weights qwen_weights;

/* path: the folder as published (config.json, *.safetensors, tokenizer.json). The files are mapped, not read; while the
 * model lives they must not be truncated (option load = "read" copies them instead). Engine options that matter here:
 * device, dtype, load, progress. */
QWEN_API int32_t qwen_model_open(const char *path, const qwen_options *options, qwen_model **model, qwen_error **error);
/* One more reference, released by one more qwen_model_free. Any thread. */
QWEN_API void qwen_model_retain(const qwen_model *model);
/* Drops the caller's reference; the model goes when the last engine that uses it has gone. */
QWEN_API void qwen_model_free(qwen_model *model);

typedef struct qwen_model_info {
  uint32_t struct_size;
  int32_t vocab_size;        /* width of a logits row */
  int32_t hidden_size;
  int32_t num_hidden_layers;
  int32_t num_attention_heads;
  int32_t num_key_value_heads;
  int32_t head_dim;
  int32_t has_tokenizer;     /* 0 / 1 */
  int32_t has_chat_template; /* 0 / 1: qwen_prompt_add_message works */
  int64_t context_length;    /* longest prompt + answer, tokens */
  int64_t parameters;
  int64_t weight_bytes;      /* of the tensors in use, as stored */
  const char *architecture;  /* "Qwen3ForCausalLM"; texts live as long as the model */
  const char *path;          /* "" for weights from memory */
} qwen_model_info;

QWEN_API int32_t qwen_model_info_get(const qwen_model *model, qwen_model_info *info, qwen_error **error);
/* Borrowed, lives as long as the model; NULL when the folder has no tokenizer.json. */
QWEN_API const qwen_tokenizer *qwen_model_tokenizer(const qwen_model *model);

enum {
  QWEN_DTYPE_F32 = 1,
  QWEN_DTYPE_F16 = 2,
  QWEN_DTYPE_BF16 = 3
};

/* Weights that live in the host's memory instead of files. config: the text of a config.json. released(user) is called
 * once, when no model uses the memory any longer (from any thread; it must not call the library); NULL: never. */
QWEN_API int32_t qwen_weights_new(const char *config, size_t length, qwen_destroy_fn released, void *user,
                                  qwen_weights **weights, qwen_error **error);
/* Adds one tensor, row-major; the memory is borrowed until released(user). name: as in the published files. */
QWEN_API int32_t qwen_weights_add(qwen_weights *weights, const char *name, int32_t dtype, const int64_t *shape,
                                  size_t dimensions, const void *data, size_t bytes, qwen_error **error);
QWEN_API void qwen_weights_free(qwen_weights *weights);
/* tokenizer may be NULL (token prompts only); it is shared, not taken. The weights object may be freed afterwards. */
QWEN_API int32_t qwen_model_from_weights(const qwen_weights *weights, const qwen_tokenizer *tokenizer,
                                         const qwen_options *options, qwen_model **model, qwen_error **error);

/* ------------------------------------------------------------------ engine */

typedef struct qwen_engine qwen_engine;

/* Opens a model folder and an engine on it in one call. See the option table for device, dtype, threads, … */
QWEN_API int32_t qwen_create(const char *path, const qwen_options *options, qwen_engine **engine, qwen_error **error);
/* An engine on a model that is open already. The engine keeps a reference to the model. */
QWEN_API int32_t qwen_engine_new(const qwen_model *model, const qwen_options *options, qwen_engine **engine,
                                 qwen_error **error);
/* Ends every request in flight (they finish with QWEN_ERR_CLOSED), stops the engine's threads and frees it. Requests,
 * queues and results outlive it and are freed on their own. No other call may use the engine meanwhile or after, except
 * calls that are waiting inside it: they return. */
QWEN_API void qwen_destroy(qwen_engine *engine);
/* Borrowed, lives as long as the engine. */
QWEN_API const qwen_model *qwen_engine_model(const qwen_engine *engine);

typedef struct qwen_engine_stats {
  uint32_t struct_size;
  int32_t threads;            /* computing threads */
  int64_t running;            /* requests being computed */
  int64_t waiting;            /* requests queued */
  int64_t finished;           /* requests ended since the engine was made, for whatever reason */
  int64_t steps;              /* forward passes */
  int64_t prompt_tokens;      /* computed, all requests */
  int64_t generated_tokens;
  int64_t cache_blocks_total; /* blocks of cache_block_tokens tokens, all cache groups */
  int64_t cache_blocks_used;
  int64_t cache_block_tokens;
  int64_t cache_bytes;        /* memory of all blocks */
  const char *backend;        /* "cpu.avx512"; lives as long as the engine */
} qwen_engine_stats;

QWEN_API int32_t qwen_engine_stats_get(const qwen_engine *engine, qwen_engine_stats *stats, qwen_error **error);

/* How often each kernel has run, e.g. "linear.bf16.avx512": what run-time dispatch really chose. */
typedef struct qwen_counter {
  uint32_t struct_size;
  int32_t reserved;
  int64_t value;
  const char *name; /* lives as long as the engine */
} qwen_counter;

/* index 0, 1, … ; QWEN_ERR_NOT_FOUND past the last one. */
QWEN_API int32_t qwen_engine_counter_get(const qwen_engine *engine, size_t index, qwen_counter *counter,
                                         qwen_error **error);

/* ------------------------------------------------------------------ prompt
 *
 * An ordered list of parts. Either messages, which the checkpoint's chat template renders (then the model answers as the
 * assistant), or text and tokens, which go in as they are; the two do not mix. Images, audio and embeddings will be
 * further kinds of parts. A prompt can be used for any number of requests; it is copied at submit. */

typedef struct qwen_prompt qwen_prompt;

QWEN_API int32_t qwen_prompt_new(qwen_prompt **prompt, qwen_error **error);
QWEN_API void qwen_prompt_free(qwen_prompt *prompt);
/* Raw text, special tokens in it are recognised. */
QWEN_API int32_t qwen_prompt_add_text(qwen_prompt *prompt, const char *text, size_t length, qwen_error **error);
QWEN_API int32_t qwen_prompt_add_tokens(qwen_prompt *prompt, const int32_t *ids, size_t count, qwen_error **error);
/* role: "system", "user", "assistant", or "tool". */
QWEN_API int32_t qwen_prompt_add_message(qwen_prompt *prompt, const char *role, const char *content, size_t length,
                                         qwen_error **error);

/* ------------------------------------------------------------------ events and results */

enum {
  QWEN_EVENT_TEXT = 1,     /* new tokens of a choice and the text they completed (text may be empty) */
  QWEN_EVENT_FINISHED = 2, /* a choice ended: finish_reason says why */
  QWEN_EVENT_DONE = 3      /* the last event of a request: status says how it ended, the result is ready */
};

enum {
  QWEN_FINISH_NONE = 0,
  QWEN_FINISH_STOP = 1,      /* the model ended its answer, or a stop token came, or the host stopped it */
  QWEN_FINISH_LENGTH = 2,    /* max_tokens or the context was reached */
  QWEN_FINISH_CANCELLED = 3,
  QWEN_FINISH_ERROR = 4      /* see status and message */
};

enum { QWEN_CHANNEL_ANSWER = 0, QWEN_CHANNEL_REASONING = 1 };

typedef struct qwen_request qwen_request;
typedef struct qwen_queue qwen_queue;
typedef struct qwen_result qwen_result;

typedef struct qwen_event {
  uint32_t struct_size;
  int32_t type;             /* QWEN_EVENT_… */
  int32_t choice;           /* 0 … n-1 */
  int32_t channel;          /* QWEN_CHANNEL_… of the text */
  int32_t finish_reason;    /* FINISHED */
  int32_t status;           /* DONE: QWEN_OK or why the request failed */
  uint64_t tag;             /* the number given to qwen_submit */
  const char *text;         /* whole code points only */
  size_t text_length;
  const int32_t *token_ids; /* the new tokens */
  const float *logprobs;    /* natural logarithm of each token's probability before temperature; NULL unless asked for */
  size_t token_count;
  const char *message;      /* DONE: the error's message, "" if none */
  const qwen_request *request; /* whose event it is */
} qwen_event;

/* Returns 0 to go on, 1 to stop the request and keep what it has, 2 to cancel it, negative for a failure of the host's
 * own: generation ends with QWEN_ERR_CALLBACK. Called on the thread that is inside qwen_generate, with no lock held; the
 * event's memory is valid during the call. It may use the library, but not destroy the engine. */
typedef int32_t (*qwen_event_fn)(const qwen_event *event, void *user);

typedef struct qwen_stats {
  uint32_t struct_size;
  int32_t reserved;
  int64_t prompt_tokens;
  int64_t cached_tokens;      /* of the prompt, taken from the prefix cache */
  int64_t generated_tokens;   /* all choices */
  double queued_seconds;      /* submit to first computation */
  double prompt_seconds;      /* first computation to first token */
  double generate_seconds;    /* first token to last token */
  double first_token_seconds; /* submit to first token */
  uint64_t seed;              /* the seed that was used: given, or drawn */
} qwen_stats;

typedef struct qwen_choice {
  uint32_t struct_size;
  int32_t finish_reason;
  const char *text;           /* the answer; all memory here lives as long as the result */
  size_t text_length;
  const char *reasoning;      /* what the model thought first, "" if nothing */
  size_t reasoning_length;
  const int32_t *token_ids;   /* every generated token, the end token included */
  const float *logprobs;      /* as in qwen_event, NULL unless asked for */
  size_t token_count;
} qwen_choice;

QWEN_API size_t qwen_result_choice_count(const qwen_result *result);
QWEN_API int32_t qwen_result_choice_get(const qwen_result *result, size_t index, qwen_choice *choice,
                                        qwen_error **error);
QWEN_API int32_t qwen_result_stats_get(const qwen_result *result, qwen_stats *stats, qwen_error **error);
QWEN_API void qwen_result_free(qwen_result *result);

/* ------------------------------------------------------------------ generate */

/* Generates and blocks until done. on_event may be NULL; result may be NULL, otherwise *result is the caller's to free.
 * Any number of threads may be in here with one engine. If the host cancels (event_fn returns 2) the status is
 * QWEN_ERR_CANCELLED. Empty prompt, prompt + max_tokens beyond the context: QWEN_ERR_INVALID_ARGUMENT. */
QWEN_API int32_t qwen_generate(qwen_engine *engine, const qwen_prompt *prompt, const qwen_options *options,
                               qwen_event_fn on_event, void *user, qwen_result **result, qwen_error **error);

/* The same without blocking. Events go to `queue`, or with queue NULL to qwen_request_next. tag comes back in every
 * event. The caller frees the request; freeing it early cancels it. */
QWEN_API int32_t qwen_submit(qwen_engine *engine, const qwen_prompt *prompt, const qwen_options *options,
                             qwen_queue *queue, uint64_t tag, qwen_request **request, qwen_error **error);
/* Waits up to timeout_ms (0: do not wait, negative: forever) for the request's next event. QWEN_ERR_TIMEOUT when none
 * came, QWEN_ERR_CLOSED after the DONE event was taken. The event's memory is borrowed until the next call on this
 * request. One thread at a time. */
QWEN_API int32_t qwen_request_next(qwen_request *request, int64_t timeout_ms, qwen_event *event, qwen_error **error);
/* Cancels, from any thread, at any time, any number of times; takes effect within one step. */
QWEN_API void qwen_request_cancel(qwen_request *request);
/* The result so far; complete once the DONE event is out. The caller frees it. */
QWEN_API int32_t qwen_request_result(const qwen_request *request, qwen_result **result, qwen_error **error);
QWEN_API void qwen_request_free(qwen_request *request);

/* Where the events of many requests meet, for event loops. */
QWEN_API int32_t qwen_queue_new(qwen_queue **queue, qwen_error **error);
/* Requests that still send events to it are not cancelled; their further events are dropped. */
QWEN_API void qwen_queue_free(qwen_queue *queue);
/* A file descriptor that polls readable while events wait (an eventfd; do not read from or close it). -1 for NULL. */
QWEN_API int32_t qwen_queue_fd(const qwen_queue *queue);
/* Takes what has come, waiting up to timeout_ms for the first event as in qwen_request_next, and sets *count. The batch is
 * read with qwen_queue_event and borrowed until the next qwen_queue_next. One thread at a time. */
QWEN_API int32_t qwen_queue_next(qwen_queue *queue, int64_t timeout_ms, size_t *count, qwen_error **error);
QWEN_API int32_t qwen_queue_event(const qwen_queue *queue, size_t index, qwen_event *event, qwen_error **error);

/* ------------------------------------------------------------------ tensors in, tensors out */

typedef struct qwen_tensors qwen_tensors;

enum {
  QWEN_OUTPUT_LOGITS = 1,       /* "logits" [tokens, vocab_size] */
  QWEN_OUTPUT_HIDDEN_STATES = 2 /* "hidden.0" (embeddings) … "hidden.L" (after the final norm), each [tokens, hidden_size] */
};

typedef struct qwen_tensor {
  uint32_t struct_size;
  int32_t dtype;        /* QWEN_DTYPE_F32 */
  const void *data;     /* row-major; lives as long as the qwen_tensors */
  size_t bytes;
  uint64_t dimensions;
  int64_t shape[8];
} qwen_tensor;

QWEN_API int32_t qwen_tensors_get(const qwen_tensors *tensors, size_t sequence, const char *name, qwen_tensor *tensor,
                                  qwen_error **error);
QWEN_API void qwen_tensors_free(qwen_tensors *tensors);

/* qwen:end */

#ifdef __cplusplus
}
#endif

#endif /* QWEN_H */
