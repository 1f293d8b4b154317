/* A host that loads the library with dlopen, in the ways in which libraries with C++ inside get into trouble. It prints what
 * was generated.
 *
 *   loads beside LIBRARY MODEL first|second NEIGHBOUR   beside NEIGHBOUR (neighbour.cpp), loaded before or after the library;
 *                                                       prints how often the library took memory from NEIGHBOUR's operator new
 *   loads twice LIBRARY MODEL                           two copies in one process, each in a namespace of its own
 *   loads again LIBRARY MODEL                           load, generate, destroy, dlclose, over and over; prints how often the
 *                                                       library had gone after dlclose */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <qwen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUNCTIONS(X)                                                                                                     \
  X(create) X(destroy) X(error_code) X(error_free) X(error_message) X(generate) X(options_free) X(options_new)           \
  X(options_set_f64) X(prompt_add_message) X(prompt_free) X(prompt_new) X(result_choice_get) X(result_free)

/* One loaded library. */
struct qwen {
#define FIELD(name) __typeof__(&qwen_##name) name;
  FUNCTIONS(FIELD)
};

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why ? why : "");
  exit(1);
}

static void *symbol(void *library, const char *name) {
  void *found = dlsym(library, name);
  if (!found) fail(name, dlerror());
  return found;
}

static struct qwen functions(void *library) {
  struct qwen q;
  if (!library) fail("dlopen", dlerror());
#define LOOK_UP(name) *(void **)&q.name = symbol(library, "qwen_" #name);
  FUNCTIONS(LOOK_UP)
  return q;
}

static void check(const struct qwen *q, int32_t status, qwen_error *error) {
  if (status != QWEN_OK) fail("qwen", q->error_message(error));
}

static qwen_engine *create(const struct qwen *q, const char *model) {
  qwen_engine *engine = NULL;
  qwen_error *error = NULL;
  /* What is refused was thrown and caught inside. */
  for (int i = 0; i < 100; ++i) {
    if (q->create("/no/such/model", NULL, &engine, &error) != QWEN_ERR_NOT_FOUND) fail("qwen_create", "no refusal");
    if (q->error_code(error) != QWEN_ERR_NOT_FOUND) fail("qwen_create", "another code");
    q->error_free(error);
    error = NULL;
  }
  check(q, q->create(model, NULL, &engine, &error), error);
  return engine;
}

static void answer(const struct qwen *q, qwen_engine *engine, char *text, size_t room) {
  static const char question[] = "What is 17 + 25?";
  qwen_options *options = NULL;
  qwen_prompt *prompt = NULL;
  qwen_result *result = NULL;
  qwen_error *error = NULL;
  qwen_choice choice = {.struct_size = sizeof choice};
  check(q, q->options_new(&options, &error), error);
  check(q, q->options_set_f64(options, "temperature", 0, &error), error);
  check(q, q->prompt_new(&prompt, &error), error);
  check(q, q->prompt_add_message(prompt, "user", question, strlen(question), &error), error);
  check(q, q->generate(engine, prompt, options, NULL, NULL, &result, &error), error);
  check(q, q->result_choice_get(result, 0, &choice, &error), error);
  snprintf(text, room, "%s", choice.text);
  q->result_free(result);
  q->prompt_free(prompt);
  q->options_free(options);
}

static void beside(const char *path, const char *model, int first, const char *neighbour_path) {
  char text[256];
  void *library = first ? NULL : dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void *neighbour = dlopen(neighbour_path, RTLD_NOW | RTLD_GLOBAL);
  if (!neighbour) fail(neighbour_path, dlerror());
  if (first) library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  struct qwen q = functions(library);
  void (*start)(void), (*stop)(void);
  long (*allocations)(void), (*exceptions)(void);
  *(void **)&start = symbol(neighbour, "neighbour_start");
  *(void **)&stop = symbol(neighbour, "neighbour_stop");
  *(void **)&allocations = symbol(neighbour, "neighbour_allocations");
  *(void **)&exceptions = symbol(neighbour, "neighbour_exceptions");

  start();
  while (exceptions() == 0) continue;
  const long before = allocations();
  qwen_engine *engine = create(&q, model);
  answer(&q, engine, text, sizeof text);
  q.destroy(engine);
  const long taken = allocations() - before;
  stop();
  printf("%s\n%ld\n", text, taken);
}

static void twice(const char *path, const char *model) {
  struct qwen q[2];
  qwen_engine *engines[2];
  char texts[2][256];
  for (int i = 0; i < 2; ++i) q[i] = functions(dlmopen(LM_ID_NEWLM, path, RTLD_NOW | RTLD_LOCAL));
  if (q[0].create == q[1].create) fail("dlmopen", "one copy only");
  for (int i = 0; i < 2; ++i) engines[i] = create(&q[i], model);
  for (int i = 0; i < 2; ++i) answer(&q[i], engines[i], texts[i], sizeof texts[i]);
  for (int i = 0; i < 2; ++i) q[i].destroy(engines[i]);
  for (int i = 0; i < 2; ++i) puts(texts[i]);
}

struct cycle {
  const char *path, *model;
  char text[256];
  int gone;
};

static void *load_and_unload(void *user) {
  struct cycle *cycle = user;
  void *library = dlopen(cycle->path, RTLD_NOW | RTLD_LOCAL);
  struct qwen q = functions(library);
  qwen_engine *engine = create(&q, cycle->model);
  answer(&q, engine, cycle->text, sizeof cycle->text);
  q.destroy(engine);
  if (dlclose(library) != 0) fail("dlclose", dlerror());
  void *left = dlopen(cycle->path, RTLD_NOW | RTLD_NOLOAD);
  if (left) dlclose(left);
  cycle->gone += !left;
  return NULL;
}

/* Each time in a thread that ends afterwards: what the library might have left for the end of threads would be called then. */
static void again(const char *path, const char *model) {
  struct cycle cycle = {.path = path, .model = model};
  char first[256] = "";
  for (int i = 0; i < 20; ++i) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, load_and_unload, &cycle) != 0) fail("pthread_create", NULL);
    pthread_join(thread, NULL);
    if (i == 0) strcpy(first, cycle.text);
    if (strcmp(first, cycle.text) != 0) fail("another answer", cycle.text);
  }
  printf("%s\n%d\n", cycle.text, cycle.gone);
}

int main(int argc, char **argv) {
  if (argc == 6 && strcmp(argv[1], "beside") == 0) beside(argv[2], argv[3], strcmp(argv[4], "first") == 0, argv[5]);
  else if (argc == 4 && strcmp(argv[1], "twice") == 0) twice(argv[2], argv[3]);
  else if (argc == 4 && strcmp(argv[1], "again") == 0) again(argv[2], argv[3]);
  else return 2;
  return 0;
}
