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
 *             that, so a program compiled against an older header keeps working, and no more than it knows, so a program
 *             that may meet an older library zeroes the struct first. In callbacks struct_size is the library's: look
 *             there before reading a field that came later. Fields are only ever appended.
 *   Quiet     The library never prints, exits, installs signal handlers or changes the locale; its threads take no signals
 *             but their own faults. How a thread of the host rounds and treats denormals makes no difference to results and
 *             is as it was when a call returns; event_fn, and progress_fn of qwen_embed and qwen_rerank, run in it too.
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
/* Key "progress": loading is `fraction` done, 0…1. Return 0 to go on, anything else cancels (QWEN_ERR_CANCELLED). The same
 * of qwen_embed and qwen_rerank. */
typedef int32_t (*qwen_progress_fn)(double fraction, void *user);

/* One step of an engine: a forward pass over rows of many requests. */
typedef struct qwen_step {
  uint32_t struct_size;
  int32_t sequences;       /* choices of requests that had rows in it */
  int64_t number;          /* 1, 2, … */
  int64_t prompt_rows;     /* tokens of prompts, and of answers that are computed again after a preemption */
  int64_t generate_rows;   /* one for each choice that generates */
  int64_t running;         /* choices, after the step */
  int64_t waiting;
  int64_t preempted;       /* choices that had to give their cache blocks back before the step */
  int64_t cache_blocks_used;
  double schedule_seconds; /* deciding what to compute */
  double forward_seconds;  /* computing it */
  double sample_seconds;   /* choosing tokens, making text and events */
} qwen_step;

/* Key "trace": called after every step on the engine's own thread, which waits for it. It must not call the engine. */
typedef void (*qwen_step_fn)(const qwen_step *step, void *user);

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

/* path: a tokenizer.json, a folder that holds one, or a GGUF file. Weights are not needed. */
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

/* path: the folder as published (config.json, *.safetensors, tokenizer.json), or a .gguf file (of a split one the first
 * part), which holds configuration, tokenizer and chat template too; a folder with nothing but one will do. The files are
 * mapped, not read; while the model lives they must not be truncated (option load = "read" copies them instead). Engine
 * options that matter here: device, dtype, load, tokenizer, progress. */
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
  /* What computing a token takes, for the dtype that the model was opened with: */
  int64_t active_parameters;   /* that a token is multiplied with: all but tables of embeddings and experts it does not choose */
  int64_t active_weight_bytes; /* theirs, as stored: what a step for one token reads */
  int64_t active_expert_bytes; /* of these, the chosen experts', all layers */
  int32_t num_experts;         /* in a layer that is a mixture of experts; 0: none is */
  int32_t num_experts_per_tok; /* that a token chooses there */
  int64_t cache_token_bytes;   /* keys and values of a token, in the layers that see all tokens before their own */
  int64_t window_token_bytes;  /* likewise, in the layers that see at most so many of them: */
  int64_t window_tokens;       /* the last ones, or those that an indexer picks; 0: there are no such layers */
  int64_t state_bytes;         /* of a sequence, in layers of linear attention */
} qwen_model_info;

QWEN_API int32_t qwen_model_info_get(const qwen_model *model, qwen_model_info *info, qwen_error **error);
/* Borrowed, lives as long as the model; NULL when the checkpoint has no tokenizer. */
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

/* Opens a model folder or .gguf file and an engine on it in one call. See the option table for device, dtype, threads, … */
QWEN_API int32_t qwen_create(const char *path, const qwen_options *options, qwen_engine **engine, qwen_error **error);
/* An engine on a model that is open already. The engine keeps a reference to the model. */
QWEN_API int32_t qwen_engine_new(const qwen_model *model, const qwen_options *options, qwen_engine **engine,
                                 qwen_error **error);
/* Ends every request in flight (they finish with QWEN_ERR_CLOSED), stops the engine's threads and frees it. Requests,
 * queues and results outlive it and are freed on their own. No other call may use the engine meanwhile or after, except
 * calls that are waiting inside it: they return. */
QWEN_API void qwen_destroy(qwen_engine *engine);
/* For a graceful end: from now on new requests are refused with QWEN_ERR_CLOSED, and the call waits up to timeout_ms (0: do
 * not wait, negative: forever) for those in flight. QWEN_ERR_TIMEOUT: some are still running; call again, or destroy. */
QWEN_API int32_t qwen_engine_drain(qwen_engine *engine, int64_t timeout_ms, qwen_error **error);
/* Borrowed, lives as long as the engine. */
QWEN_API const qwen_model *qwen_engine_model(const qwen_engine *engine);

typedef struct qwen_engine_stats {
  uint32_t struct_size;
  int32_t threads;            /* computing threads */
  int64_t running;            /* choices being computed: a request has one, or its option n */
  int64_t waiting;            /* choices queued */
  int64_t finished;           /* choices ended since the engine was made, for whatever reason */
  int64_t steps;              /* forward passes */
  int64_t prompt_tokens;      /* computed, all requests */
  int64_t generated_tokens;
  int64_t cache_blocks_total; /* blocks of cache_block_tokens tokens, all cache groups */
  int64_t cache_blocks_used;
  int64_t cache_block_tokens;
  int64_t cache_bytes;        /* memory of all blocks */
  const char *backend;        /* "cpu.avx512"; lives as long as the engine */
  int64_t cached_tokens;      /* of all prompts, taken from the prefix cache instead of computed */
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

/* ------------------------------------------------------------------ adapters
 *
 * LoRA adapters as PEFT saves them, any number beside each other. A request says by its option "adapter", a name, which one
 * answers it; rows of different adapters are computed together, and each request gets what it would get alone. Not for
 * embeddings, lm_head and the experts of mixtures; what else is not supported is an error that names file, key or tensor. */

typedef struct qwen_adapter_info {
  uint32_t struct_size;
  int32_t rank;       /* the largest of its matrices */
  int64_t parameters;
  const char *name;   /* texts live as long as the engine */
  const char *path;
} qwen_adapter_info;

/* path: a folder with adapter_config.json and adapter_model.safetensors; both are read, and may be changed afterwards. name:
 * not empty, and not in use. Any thread; requests under way go on meanwhile. */
QWEN_API int32_t qwen_engine_load_adapter(qwen_engine *engine, const char *path, const char *name, qwen_error **error);
/* From now on no request can name it; those that have, under way or not, go on with it. Its memory goes with the last of them.
 * QWEN_ERR_INVALID_ARGUMENT: there is none of this name. Any thread. */
QWEN_API int32_t qwen_engine_unload_adapter(qwen_engine *engine, const char *name, qwen_error **error);
/* The one behind the name `after` in the order of the names; NULL: the first. QWEN_ERR_NOT_FOUND past the last one. So a list
 * misses none, whatever other threads load and unload meanwhile. */
QWEN_API int32_t qwen_engine_adapter_info_get(const qwen_engine *engine, const char *after, qwen_adapter_info *info,
                                              qwen_error **error);

/* ------------------------------------------------------------------ prompt
 *
 * An ordered list of parts. Either messages, which the checkpoint's chat template renders (then the model answers as the
 * assistant), or text and tokens, which go in as they are; the two do not mix. Images, audio and embeddings will be
 * further kinds of parts. A prompt can be used for any number of requests; it is copied at submit. A const prompt may be
 * used by many threads at once. */

typedef struct qwen_prompt qwen_prompt;

QWEN_API int32_t qwen_prompt_new(qwen_prompt **prompt, qwen_error **error);
QWEN_API void qwen_prompt_free(qwen_prompt *prompt);
/* Raw text, special tokens in it are recognised. */
QWEN_API int32_t qwen_prompt_add_text(qwen_prompt *prompt, const char *text, size_t length, qwen_error **error);
QWEN_API int32_t qwen_prompt_add_tokens(qwen_prompt *prompt, const int32_t *ids, size_t count, qwen_error **error);
/* role: "system", "user", "assistant", or "tool". */
QWEN_API int32_t qwen_prompt_add_message(qwen_prompt *prompt, const char *role, const char *content, size_t length,
                                         qwen_error **error);
/* One message as a JSON object, or several as an array of objects, in the form of OpenAI's chat interface:
 *   {"role": "user", "content": "…"}                                content may be a list of {"type": "text", "text": "…"}
 *   {"role": "assistant", "content": "…" or null, "reasoning_content": "…",
 *    "tool_calls": [{"type": "function", "function": {"name": "…", "arguments": {…}}}]}
 *   {"role": "tool", "content": "…", "tool_call_id": "…"}
 * Members with the value null count as absent, a content that is absent beside tool_calls as ""; arguments may be given as
 * the text of a JSON object. What else stands in a message reaches the template as it is. */
QWEN_API int32_t qwen_prompt_add_message_json(qwen_prompt *prompt, const char *json, size_t length, qwen_error **error);
/* The tools the model may call: a JSON array of {"type": "function", "function": {"name", "description", "parameters"}}.
 * Replaces what was set before; "[]" takes them away. With tools set, calls are parsed out of the answer (JSON in
 * <tool_call> tags, and the <function=…> form of Qwen3-Coder and Qwen3.5): see QWEN_EVENT_TOOL_CALL. */
QWEN_API int32_t qwen_prompt_set_tools(qwen_prompt *prompt, const char *json, size_t length, qwen_error **error);
/* Further variables of the chat template: a JSON object, such as {"enable_thinking": false} or {"documents": […]}. They win
 * over what the options say. "add_generation_prompt": false renders the conversation without opening an answer. */
QWEN_API int32_t qwen_prompt_set_variables(qwen_prompt *prompt, const char *json, size_t length, qwen_error **error);
/* The text the model would be given: the rendered template, or the raw parts (token parts decoded). Sizes as in
 * qwen_tokenizer_decode. options: only "reasoning_mode" matters; NULL: defaults. */
QWEN_API int32_t qwen_prompt_render(const qwen_prompt *prompt, const qwen_model *model, const qwen_options *options,
                                    char *text, size_t capacity, size_t *length, qwen_error **error);
/* The token ids the model would be given. Sizes as in qwen_tokenizer_encode. */
QWEN_API int32_t qwen_prompt_encode(const qwen_prompt *prompt, const qwen_model *model, const qwen_options *options,
                                    int32_t *ids, size_t capacity, size_t *count, qwen_error **error);

/* ------------------------------------------------------------------ events and results */

enum {
  QWEN_EVENT_TEXT = 1,     /* new tokens of a choice and the text they completed (text may be empty) */
  QWEN_EVENT_FINISHED = 2, /* a choice ended: finish_reason says why */
  QWEN_EVENT_DONE = 3,     /* the last event of a request: status says how it ended, the result is ready */
  QWEN_EVENT_TOOL_CALL = 4 /* the model called a tool: tool_name and tool_arguments; its tags are in no text */
};

enum {
  QWEN_FINISH_NONE = 0,
  QWEN_FINISH_STOP = 1,      /* the model ended its answer, or a stop token or text came, or the host stopped it */
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
  const char *tool_name;    /* TOOL_CALL; NULL otherwise */
  size_t tool_name_length;
  const char *tool_arguments; /* TOOL_CALL: the text of a JSON object; NULL otherwise */
  size_t tool_arguments_length;
  const int32_t *top_token_ids; /* [token_count, top_count]: the likeliest tokens at each place, likeliest first; */
  const float *top_logprobs;    /* NULL unless top_logprobs asks for them */
  size_t top_count;
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
  double inter_token_p50_seconds; /* between one token of a choice and its next one: the median over all choices, */
  double inter_token_p99_seconds; /* the 99th percentile, */
  double inter_token_max_seconds; /* and the longest; 0 when no choice has two tokens */
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
  size_t tool_call_count;     /* see qwen_result_tool_call_get */
  const char *stop_text;      /* which of the texts in "stop" ended the answer, NULL: none did */
  size_t stop_text_length;
  const int32_t *top_token_ids; /* as in qwen_event */
  const float *top_logprobs;
  size_t top_count;
} qwen_choice;

typedef struct qwen_tool_call {
  uint32_t struct_size;
  int32_t reserved;
  const char *name;           /* memory lives as long as the result */
  size_t name_length;
  const char *arguments;      /* the text of a JSON object */
  size_t arguments_length;
} qwen_tool_call;

QWEN_API size_t qwen_result_choice_count(const qwen_result *result);
QWEN_API int32_t qwen_result_choice_get(const qwen_result *result, size_t index, qwen_choice *choice,
                                        qwen_error **error);
/* The index-th tool call of a choice, in the order they came; QWEN_ERR_NOT_FOUND past the last one. */
QWEN_API int32_t qwen_result_tool_call_get(const qwen_result *result, size_t choice, size_t index, qwen_tool_call *call,
                                           qwen_error **error);
QWEN_API int32_t qwen_result_stats_get(const qwen_result *result, qwen_stats *stats, qwen_error **error);
/* With the option prompt_logprobs: [prompt_tokens] natural logarithms of each prompt token's probability behind those
 * before it; the first one, which has none before it, is 0. NULL and 0 without the option. Borrowed from the result. */
QWEN_API int32_t qwen_result_prompt_logprobs_get(const qwen_result *result, const float **logprobs, size_t *count,
                                                 qwen_error **error);
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
 * came (a loop that polls passes NULL for error and needs not free one each time), QWEN_ERR_CLOSED after the DONE event was
 * taken. The event's memory is borrowed until the next call on this request. One thread at a time. */
QWEN_API int32_t qwen_request_next(qwen_request *request, int64_t timeout_ms, qwen_event *event, qwen_error **error);
/* Cancels, from any thread or signal handler, at any time, any number of times; takes effect within one step. The request
 * ends with QWEN_ERR_CANCELLED; what it had is still in its result. */
QWEN_API void qwen_request_cancel(qwen_request *request);
/* The same, but the request ends well: QWEN_OK, QWEN_FINISH_STOP, with what it has. */
QWEN_API void qwen_request_stop(qwen_request *request);
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
  QWEN_OUTPUT_LOGITS = 1,        /* "logits" [rows, vocab_size] */
  QWEN_OUTPUT_HIDDEN_STATES = 2, /* "hidden.0" (embeddings) … "hidden.L" (after the final norm), each [rows, hidden_size]; of a
                                    model with several residual streams the others hold all of them side by side */
  QWEN_OUTPUT_MTP_LOGITS = 4     /* "mtp_logits" [rows - 1, vocab_size]: row i is of token i + 2, by the multi-token-prediction
                                    head; needs option mtp = 1 */
};

typedef struct qwen_tensor {
  uint32_t struct_size;
  int32_t dtype;        /* QWEN_DTYPE_F32 */
  const void *data;     /* row-major; lives as long as the qwen_tensors */
  size_t bytes;
  uint64_t dimensions;
  int64_t shape[8];
} qwen_tensor;

/* One forward pass over `sequences` token lists laid end to end in token_ids, counts[i] tokens each; blocks until done.
 * It takes the same way through the engine as generation. outputs: QWEN_OUTPUT_… or-ed. first_rows[i]: the first token
 * of list i whose rows are wanted, all before it is context that the engine takes from its prefix cache where it can;
 * the tensors then have counts[i] - first_rows[i] rows. NULL: all zero. */
QWEN_API int32_t qwen_forward(qwen_engine *engine, const int32_t *token_ids, const size_t *counts,
                              const size_t *first_rows, size_t sequences, uint32_t outputs, const qwen_options *options,
                              qwen_tensors **tensors, qwen_error **error);
QWEN_API int32_t qwen_tensors_get(const qwen_tensors *tensors, size_t sequence, const char *name, qwen_tensor *tensor,
                                  qwen_error **error);
/* What it took: fills prompt_tokens and cached_tokens, of all sequences or inputs together; the other fields are 0. */
QWEN_API int32_t qwen_tensors_stats_get(const qwen_tensors *tensors, qwen_stats *stats, qwen_error **error);
QWEN_API void qwen_tensors_free(qwen_tensors *tensors);

/* ------------------------------------------------------------------ embeddings and relevance
 *
 * Searching with Qwen3-Embedding and Qwen3-Reranker, or models that were trained as they were; another model gives numbers
 * too, but they mean little. The inputs are a list, and each is computed as a request of its own, with the others and with
 * whatever else the engine is doing; the numbers of one do not depend on the others. */

typedef struct qwen_inputs qwen_inputs;

enum {
  QWEN_INPUTS_SPECIAL = 1 /* "<|im_end|>" in a text is the special token, as Hugging Face has it. Without this it is
                           * ordinary text: what somebody wrote into a document cannot end the document */
};

/* flags: QWEN_INPUTS_… or-ed. A list serves any number of calls; const, any number of threads at once. */
QWEN_API int32_t qwen_inputs_new(uint32_t flags, qwen_inputs **inputs, qwen_error **error);
QWEN_API void qwen_inputs_free(qwen_inputs *inputs);
/* Appends a text. Empty, or invalid UTF-8: QWEN_ERR_INVALID_ARGUMENT, which names the input by its place, from 0. */
QWEN_API int32_t qwen_inputs_add_text(qwen_inputs *inputs, const char *text, size_t length, qwen_error **error);
/* Appends token ids, which qwen_embed computes as they are; qwen_rerank takes texts only. */
QWEN_API int32_t qwen_inputs_add_tokens(qwen_inputs *inputs, const int32_t *ids, size_t count, qwen_error **error);
/* What the search is for, in one sentence, best in English; text NULL: "Given a web search query, retrieve relevant passages
 * that answer the query". To qwen_embed, inputs with an instruction are queries and those without one documents; qwen_rerank
 * takes the sentence above where none was set. */
QWEN_API int32_t qwen_inputs_set_instruction(qwen_inputs *inputs, const char *text, size_t length, qwen_error **error);
/* The token ids the model would be given of one input: by qwen_embed with query NULL, else by qwen_rerank. Sizes as in
 * qwen_tokenizer_encode. */
QWEN_API int32_t qwen_inputs_encode(const qwen_inputs *inputs, size_t index, const char *query, size_t query_length,
                                    const qwen_model *model, int32_t *ids, size_t capacity, size_t *count,
                                    qwen_error **error);

/* Embeds every input: a text, behind "Instruct: …\nQuery:" where an instruction was set, and <|endoftext|>; the hidden state
 * of the last token, after the final norm; of that the first `dimensions` values, 32 to hidden_size or 0 for all, scaled to
 * length 1. The tensor is "embeddings" [inputs, dimensions] of sequence 0; the dot product of two rows is their cosine.
 *
 * Blocks until done, or until a first failure, which names the input: too many tokens for the context, say. Any number of
 * inputs goes through the engine's queue, few at a time. Of the options adapter, priority (under 0: behind everybody
 * else's requests) and timeout_ms (for the whole call) matter. progress, which may be NULL, is called on this thread with how
 * much is done, after every input and at least every 50 ms; when it returns anything but 0 the call ends with QWEN_ERR_CANCELLED. It must
 * not destroy the engine. */
QWEN_API int32_t qwen_embed(qwen_engine *engine, const qwen_inputs *inputs, int64_t dimensions,
                            const qwen_options *options, qwen_progress_fn progress, void *user, qwen_tensors **tensors,
                            qwen_error **error);
/* Judges every input, a document, by how well it answers the query: the probability that the model says "yes" and not "no",
 * asked in the form that Qwen3-Reranker knows. The tensor is "scores" [inputs]. The rest is as in qwen_embed; what the
 * prompts begin with in common is taken from the prefix cache. A model without lm_head: QWEN_ERR_UNSUPPORTED. */
QWEN_API int32_t qwen_rerank(qwen_engine *engine, const char *query, size_t query_length, const qwen_inputs *inputs,
                             const qwen_options *options, qwen_progress_fn progress, void *user, qwen_tensors **tensors,
                             qwen_error **error);

/* ------------------------------------------------------------------ machine */

/* What bounds every engine on this machine: a token needs bytes that must be read and products that must be formed. */
typedef struct qwen_machine {
  uint32_t struct_size;
  int32_t threads;              /* that measured: those of the option, or as an engine would choose; a GPU's multiprocessors */
  double read_bytes_per_second; /* from memory, all threads together; the fastest of several passes */
  double flops_per_second;      /* likewise, in registers: a multiplication with its addition counts as two */
  int64_t buffer_bytes;         /* of the memory that was read */
  const char *level;            /* "amx", "sm_90"; both texts: static memory */
  const char *dtype;            /* "bf16": of the level's arithmetic, the kind that an engine of this dtype uses */
} qwen_machine;

/* Measures this machine and blocks for it, with threads of its own: about 0.6 seconds. Takes memory meanwhile, a quarter of
 * what is free, 64 to 512 MiB; of a GPU's at most 4 GiB. Of the engine options device, threads, cpu_isa and dtype matter; with
 * device = "auto" it is the first GPU that the library has kernels for, if there is one. What else runs on the machine
 * lowers the figures, so measure with no request under way. Any thread. */
QWEN_API int32_t qwen_measure_machine(const qwen_options *options, qwen_machine *machine, qwen_error **error);

/* qwen:end */

#ifdef __cplusplus
}
#endif

#endif /* QWEN_H */
