/* How fast this machine reads memory: THREADS threads sum MIB megabytes each, several times; prints the best GB/s.
 * cc -O3 -march=native read_bandwidth.c -lpthread -o read_bandwidth && ./read_bandwidth THREADS MIB */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS = 12, LANES = 64 };
static size_t words;
static pthread_barrier_t barrier;
static volatile uint64_t sink;

static void *read_all(void *data) {
  const uint64_t *p = data;
  for (int round = 0; round < ROUNDS; ++round) {
    uint64_t sums[LANES] = {0};
    pthread_barrier_wait(&barrier);
    for (size_t i = 0; i < words; i += LANES)
      for (int k = 0; k < LANES; ++k) sums[k] += p[i + k];
    for (int k = 0; k < LANES; ++k) sink += sums[k];
    pthread_barrier_wait(&barrier);
  }
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  const int threads = atoi(argv[1]);
  const size_t bytes = (size_t)atol(argv[2]) << 20;
  words = bytes / sizeof(uint64_t);
  pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
  for (int t = 0; t < threads; ++t) {
    void *data = NULL;
    pthread_t thread;
    if (posix_memalign(&data, 4096, bytes)) return 1;
    memset(data, 1, bytes); /* so that every page is there */
    if (pthread_create(&thread, NULL, read_all, data)) return 1;
  }
  double best = 0;
  for (int round = 0; round < ROUNDS; ++round) {
    struct timespec begin, end;
    pthread_barrier_wait(&barrier);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    pthread_barrier_wait(&barrier);
    clock_gettime(CLOCK_MONOTONIC, &end);
    const double seconds = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    const double rate = (double)bytes * threads / seconds / 1e9;
    if (rate > best) best = rate;
  }
  printf("%.2f\n", best);
  return 0;
}
