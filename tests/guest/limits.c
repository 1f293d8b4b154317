/* Descriptors and address space run out: at each size of the limit there is the right answer or an error that says so.
 * limits MODEL */
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "guest.h"

static void set_limit(int what, rlim_t value) {
  struct rlimit limit;
  CHECK(getrlimit(what, &limit) == 0);
  limit.rlim_cur = value;
  CHECK(setrlimit(what, &limit) == 0);
}

static rlim_t address_space(void) {
  FILE *file = fopen("/proc/self/statm", "r");
  long pages = 0;
  CHECK(file && fscanf(file, "%ld", &pages) == 1);
  fclose(file);
  return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

/* A whole program; the status of what failed, and the answer. */
static int32_t attempt(const char *model, const qwen_options *options, uint64_t *hash, char *message, size_t size) {
  qwen_engine *engine = NULL;
  qwen_error *error = NULL;
  qwen_options *sampling = request_options(8);
  qwen_prompt *prompt = token_prompt();
  qwen_result *result = NULL;
  int32_t status = qwen_create(model, options, &engine, &error);
  if (status == QWEN_OK) status = qwen_generate(engine, prompt, sampling, NULL, NULL, &result, &error);
  if (status == QWEN_OK) *hash = result_digest(result);
  snprintf(message, size, "%s", qwen_error_message(error));
  qwen_error_free(error);
  qwen_result_free(result);
  qwen_destroy(engine);
  qwen_prompt_free(prompt);
  qwen_options_free(sampling);
  return status;
}

int host_main(int argc, char **argv) {
  CHECK(argc == 2);
  char message[512];
  uint64_t right = 0, hash = 0;
  struct rlimit before;
  qwen_options *small = engine_options();
  CHECK(attempt(argv[1], small, &right, message, sizeof message) == QWEN_OK);

  /* No descriptor left, then one. */
  CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
  const int lowest = open("/dev/null", O_RDONLY);
  close(lowest);
  qwen_queue *queue = NULL;
  MUST(qwen_queue_new(&queue, &error));
  set_limit(RLIMIT_NOFILE, (rlim_t)lowest);
  const int32_t refused = attempt(argv[1], small, &hash, message, sizeof message);
  if (refused != QWEN_ERR_IO || !strstr(message, "Too many open files")) {
    fprintf(stderr, "without descriptors: %d, %s\n", refused, message);
    return 1;
  }
  CHECK(qwen_queue_fd(queue) == -1);
  set_limit(RLIMIT_NOFILE, (rlim_t)lowest + 2); /* one more: a folder is open while its files are looked at */
  CHECK(attempt(argv[1], small, &hash, message, sizeof message) == QWEN_OK && hash == right);
  CHECK(qwen_queue_fd(queue) == lowest);
  set_limit(RLIMIT_NOFILE, before.rlim_cur);
  qwen_queue_free(queue);

  /* Address space, a little more each time. */
  CHECK(getrlimit(RLIMIT_AS, &before) == 0);
  qwen_options *usual = NULL;
  MUST(qwen_options_new(&usual, &error));
  int worked = 0, failed = 0;
  const rlim_t base = address_space();
  for (rlim_t more = 0; more <= 96u << 20; more += more < (16u << 20) ? 64 << 10 : 4 << 20) {
    set_limit(RLIMIT_AS, base + more);
    const int32_t status = attempt(argv[1], more % 3 ? small : usual, &hash, message, sizeof message);
    set_limit(RLIMIT_AS, before.rlim_cur);
    if (status != QWEN_OK && status != QWEN_ERR_OUT_OF_MEMORY) {
      fprintf(stderr, "with %llu bytes more: %d, %s\n", (unsigned long long)more, status, message);
      return 1;
    }
    if (status == QWEN_OK) CHECK(hash == right);
    ++*(status == QWEN_OK ? &worked : &failed);
  }
  CHECK(worked > 3 && failed > 10);
  CHECK(attempt(argv[1], small, &hash, message, sizeof message) == QWEN_OK && hash == right);
  qwen_options_free(usual);
  qwen_options_free(small);
  return 0;
}
