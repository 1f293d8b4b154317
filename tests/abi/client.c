/* A program of another day than the library it runs on. It is compiled with the first header, with the baseline, and with
 * headers whose structs have grown since (-DGROWN: every struct ends with a field that this library does not know). What it
 * uses, and the room its structs have, must work with all of them. */
#include <qwen.h>
#include <stdio.h>
#include <string.h>

static int fail(const char *what, qwen_error *error) {
  fprintf(stderr, "%s: %s\n", what, qwen_error_message(error));
  qwen_error_free(error);
  return 1;
}

#define CALL(call)                              \
  do {                                          \
    qwen_error *error = NULL;                   \
    if (call) return fail(#call, error);        \
  } while (0)
#define CHECK(condition)                        \
  do {                                          \
    if (!(condition)) return fail(#condition, NULL); \
  } while (0)

/* The library's own struct may be longer or shorter than the program's: what lies behind the one, and behind the other,
 * stays as it was. READ fills `out` by `call`. */
#ifdef GROWN
#define UNTOUCHED(room) ((room).out.of_the_future == 0x5a5a5a5a5a5a5a5a && behind((room).behind, sizeof(room).behind))
#else
#define UNTOUCHED(room) behind((room).behind, sizeof(room).behind)
#endif
#define ROOM(type) struct { type out; unsigned char behind[64]; }
#define READ(room, call)                        \
  do {                                          \
    memset(&(room), 0x5a, sizeof(room));        \
    (room).out.struct_size = sizeof(room).out;  \
    CALL(call);                                 \
    CHECK((room).out.struct_size == sizeof(room).out); \
    CHECK(UNTOUCHED(room));                     \
  } while (0)

static int behind(const unsigned char *bytes, size_t count) {
  while (count > 0 && bytes[count - 1] == 0x5a) --count;
  return count == 0;
}

struct heard {
  size_t text_bytes;
  int wrong_sizes;
};

/* Here the struct is the library's: its struct_size says how much of it there is. */
static int32_t on_event(const qwen_event *event, void *user) {
  struct heard *heard = user;
#ifdef GROWN
  if (event->struct_size > offsetof(qwen_event, of_the_future)) heard->wrong_sizes += 1;
#else
  if (event->struct_size < sizeof *event) heard->wrong_sizes += 1;
#endif
  if (event->type == QWEN_EVENT_TEXT) heard->text_bytes += event->text_length;
  return 0;
}

int main(int argc, char **argv) {
  qwen_engine *engine = NULL;
  qwen_prompt *prompt = NULL;
  qwen_options *options = NULL;
  qwen_result *result = NULL;
  qwen_request *request = NULL;
  struct heard heard = {0, 0};
  size_t polled_bytes = 0;
  ROOM(qwen_option_info) option;
  ROOM(qwen_model_info) info;
  ROOM(qwen_engine_stats) engine_stats;
  ROOM(qwen_counter) counter;
  ROOM(qwen_event) event;
  ROOM(qwen_choice) choice;
  ROOM(qwen_stats) stats;

  if (argc != 2 || qwen_abi_version() < QWEN_ABI_VERSION) return 2;
  READ(option, qwen_option_info_get(0, &option.out, &error));
  CHECK(option.out.key[0] && option.out.help[0]);
  CALL(qwen_create(argv[1], NULL, &engine, &error));
  READ(info, qwen_model_info_get(qwen_engine_model(engine), &info.out, &error));
  CHECK(info.out.vocab_size > 0 && info.out.context_length > 0 && info.out.path[0]);

  CALL(qwen_options_new(&options, &error));
  CALL(qwen_options_set_i64(options, "max_tokens", 8, &error));
  CALL(qwen_options_set_f64(options, "temperature", 0, &error));
  CALL(qwen_prompt_new(&prompt, &error));
  CALL(qwen_prompt_add_message(prompt, "user", "What is 1 + 1?", 14, &error));

  CALL(qwen_generate(engine, prompt, options, on_event, &heard, &result, &error));
  CHECK(heard.wrong_sizes == 0);
  READ(choice, qwen_result_choice_get(result, 0, &choice.out, &error));
  CHECK(choice.out.text_length + choice.out.reasoning_length == heard.text_bytes);
  CHECK(choice.out.token_count > 0 && choice.out.token_count <= 8);
  READ(stats, qwen_result_stats_get(result, &stats.out, &error));
  CHECK(stats.out.generated_tokens == (int64_t)choice.out.token_count);
  qwen_result_free(result);

  CALL(qwen_submit(engine, prompt, options, NULL, 7, &request, &error));
  do {
    READ(event, qwen_request_next(request, -1, &event.out, &error));
    CHECK(event.out.tag == 7);
    if (event.out.type == QWEN_EVENT_TEXT) polled_bytes += event.out.text_length;
  } while (event.out.type != QWEN_EVENT_DONE);
  CHECK(polled_bytes == heard.text_bytes);
  qwen_request_free(request);

  READ(counter, qwen_engine_counter_get(engine, 0, &counter.out, &error));
  CHECK(counter.out.name[0] && counter.out.value >= 0);
  READ(engine_stats, qwen_engine_stats_get(engine, &engine_stats.out, &error));
  CHECK(engine_stats.out.finished == 2 && engine_stats.out.backend[0]);
#ifdef GROWN
  CHECK(qwen_of_the_future == NULL); /* weak: a program can ask whether the library has it */
#endif

  qwen_options_free(options);
  qwen_prompt_free(prompt);
  qwen_destroy(engine);
  return 0;
}
