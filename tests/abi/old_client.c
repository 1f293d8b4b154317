/* A program as it was written against the first released header (tests/abi/qwen-abi1.h). It is compiled with that header
 * and run on the library of today: what it uses, and the room its structs have, must go on working. */
#include <qwen.h>
#include <stdio.h>
#include <string.h>

static int fail(const char *what, qwen_error *error) {
  fprintf(stderr, "%s: %s\n", what, qwen_error_message(error));
  qwen_error_free(error);
  return 1;
}

static int32_t count_text(const qwen_event *event, void *user) {
  if (event->type == QWEN_EVENT_TEXT) *(size_t *)user += event->text_length;
  return 0;
}

/* The struct of today may be longer: what lies behind the program's own must stay as it was. */
struct guarded_info {
  qwen_model_info info;
  unsigned char guard[64];
};

int main(int argc, char **argv) {
  qwen_engine *engine = NULL;
  qwen_prompt *prompt = NULL;
  qwen_options *options = NULL;
  qwen_result *result = NULL;
  qwen_error *error = NULL;
  size_t text_bytes = 0;
  struct guarded_info room;
  unsigned char untouched[sizeof room.guard];

  if (argc != 2 || qwen_abi_version() < QWEN_ABI_VERSION) return 2;
  if (qwen_create(argv[1], NULL, &engine, &error)) return fail("qwen_create", error);

  memset(&room, 0x5a, sizeof room);
  memset(untouched, 0x5a, sizeof untouched);
  room.info.struct_size = sizeof room.info;
  if (qwen_model_info_get(qwen_engine_model(engine), &room.info, &error)) return fail("qwen_model_info_get", error);
  if (memcmp(room.guard, untouched, sizeof untouched) != 0) return fail("wrote behind the struct", NULL);
  if (room.info.vocab_size <= 0 || room.info.context_length <= 0) return fail("empty qwen_model_info", NULL);

  if (qwen_options_new(&options, &error) || qwen_options_set_i64(options, "max_tokens", 8, &error) ||
      qwen_options_set_f64(options, "temperature", 0, &error) || qwen_prompt_new(&prompt, &error) ||
      qwen_prompt_add_message(prompt, "user", "What is 1 + 1?", 14, &error) ||
      qwen_generate(engine, prompt, options, count_text, &text_bytes, &result, &error))
    return fail("qwen_generate", error);

  qwen_choice choice;
  choice.struct_size = sizeof choice;
  if (qwen_result_choice_get(result, 0, &choice, &error)) return fail("qwen_result_choice_get", error);
  if (text_bytes != choice.text_length + choice.reasoning_length) return fail("events and result differ", NULL);
  if (choice.token_count == 0 || choice.token_count > 8) return fail("token_count", NULL);

  qwen_result_free(result);
  qwen_options_free(options);
  qwen_prompt_free(prompt);
  qwen_destroy(engine);
  return 0;
}
