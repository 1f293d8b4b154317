/* The first token after a text, and the end: a whole process of llama.cpp with the least it can do, for bench_peers.py.
 *
 *     process_llama MODEL.gguf THREADS TEXT
 */
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 2048 };

static void quiet(enum ggml_log_level level, const char *text, void *user) {
  (void)user;
  if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static int32_t likeliest(const float *logits, int32_t count) {
  int32_t best = 0;
  for (int32_t i = 1; i < count; ++i)
    if (logits[i] > logits[best]) best = i;
  return best;
}

int main(int argc, char **argv) {
  if (argc != 4) return fprintf(stderr, "usage: %s MODEL.gguf THREADS TEXT\n", argv[0]), 2;
  llama_log_set(quiet, NULL);
  llama_backend_init();
  struct llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (model == NULL) return fprintf(stderr, "%s cannot be loaded\n", argv[1]), 1;
  struct llama_context_params parameters = llama_context_default_params();
  parameters.n_ctx = MOST;
  parameters.n_threads = parameters.n_threads_batch = atoi(argv[2]);
  struct llama_context *context = llama_init_from_model(model, parameters);
  if (context == NULL) return fputs("no context\n", stderr), 1;

  const struct llama_vocab *vocabulary = llama_model_get_vocab(model);
  llama_token ids[MOST];
  const int32_t count = llama_tokenize(vocabulary, argv[3], (int32_t)strlen(argv[3]), ids, MOST, true, true);
  if (count <= 0 || llama_decode(context, llama_batch_get_one(ids, count)) != 0) return fputs("not computed\n", stderr), 1;
  const int32_t token = likeliest(llama_get_logits_ith(context, -1), llama_vocab_n_tokens(vocabulary));
  char piece[256];
  if (llama_token_to_piece(vocabulary, token, piece, sizeof piece, 0, true) < 0) return fputs("no text\n", stderr), 1;
  printf("{\"prompt_tokens\": %d, \"tokens\": [%d]}\n", count, token);

  llama_free(context);
  llama_model_free(model);
  llama_backend_free();
  return 0;
}
