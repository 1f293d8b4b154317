/* One thousand requests over engines of the same and of another model at once, from four threads: each answer is that of a
 * process of its own. two_engines MODEL OTHER_MODEL */
#include <pthread.h>

#include "guest.h"

enum { ENGINES = 3, THREADS = 4, REQUESTS = 1000 };
static qwen_engine *engines[ENGINES];
static uint64_t right[ENGINES];

static void *work(void *given) {
  const int thread = *(const int *)given;
  for (int i = thread; i < REQUESTS; i += THREADS) CHECK(generate(engines[i % ENGINES], 6) == right[i % ENGINES]);
  return NULL;
}

int host_main(int argc, char **argv) {
  CHECK(argc == 3);
  for (int i = 0; i < ENGINES; ++i) {
    qwen_engine *alone = create(argv[1 + i % 2]);
    right[i] = generate(alone, 6);
    qwen_destroy(alone);
  }
  CHECK(right[0] == right[2] && right[0] != right[1]);
  for (int i = 0; i < ENGINES; ++i) engines[i] = create(argv[1 + i % 2]);
  pthread_t threads[THREADS];
  int numbers[THREADS];
  for (int i = 0; i < THREADS; ++i) {
    numbers[i] = i;
    CHECK(pthread_create(&threads[i], NULL, work, &numbers[i]) == 0);
  }
  for (int i = 0; i < THREADS; ++i) pthread_join(threads[i], NULL);
  for (int i = 0; i < ENGINES; ++i) qwen_destroy(engines[i]);
  return 0;
}
