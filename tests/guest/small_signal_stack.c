/* MODEL: a host whose thread has a signal stack that is too small for the frames of a process that uses AMX tiles. Linux refuses
 * such a process the tiles: the library then does without them. Prints the backend, and why `cpu_isa` = `amx` is refused. */
#include <signal.h>

#include "guest.h"

int host_main(int argc, char** argv) {
  CHECK(argc == 2);
  static char memory[8192]; /* SIGSTKSZ as it was for decades */
  const stack_t small = {.ss_sp = memory, .ss_size = sizeof memory};
  stack_t before;
  CHECK(sigaltstack(&small, &before) == 0);

  qwen_engine* engine = create(argv[1]);
  qwen_engine_stats stats = {.struct_size = sizeof stats};
  MUST(qwen_engine_stats_get(engine, &stats, &error));
  printf("%s\n", stats.backend);
  CHECK(generate(engine, 8) != 0);
  qwen_destroy(engine);

  qwen_options* options = engine_options();
  MUST(qwen_options_set_str(options, "cpu_isa", "amx", 3, &error));
  qwen_error* error = NULL;
  CHECK(qwen_create(argv[1], options, &engine, &error) == QWEN_ERR_UNSUPPORTED);
  printf("%s\n", qwen_error_message(error));
  qwen_error_free(error);
  qwen_options_free(options);
  CHECK(sigaltstack(&before, NULL) == 0);
  return 0;
}
