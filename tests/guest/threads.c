/* The library's threads, seen from the host: their names, stacks and signals. threads MODEL */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest.h"

static volatile sig_atomic_t elsewhere, arrived;
static pid_t host_thread;
static size_t stack_bytes;

static void on_interrupt(int number) {
  (void)number;
  ++arrived;
  if ((pid_t)syscall(SYS_gettid) != host_thread) ++elsewhere;
}

static void on_step(const qwen_step *step, void *user) {
  (void)step, (void)user;
  pthread_attr_t attributes;
  void *stack;
  CHECK(pthread_getattr_np(pthread_self(), &attributes) == 0);
  CHECK(pthread_attr_getstack(&attributes, &stack, &stack_bytes) == 0);
  pthread_attr_destroy(&attributes);
}

static int32_t on_event(const qwen_event *event, void *user) {
  (void)event, (void)user;
  kill(getpid(), SIGINT); /* as the terminal sends it: to any thread that takes it */
  return 0;
}

int host_main(int argc, char **argv) {
  CHECK(argc == 2);
  host_thread = (pid_t)syscall(SYS_gettid);
  struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART}, before;
  sigaction(SIGINT, &action, &before);
  qwen_options *options = engine_options(), *sampling = request_options(50);
  qwen_engine *engine = NULL;
  qwen_prompt *prompt = token_prompt();
  MUST(qwen_options_set_i64(options, "threads", 3, &error));
  MUST(qwen_options_set_callback(options, "trace", (qwen_callback_fn)on_step, NULL, NULL, &error));
  MUST(qwen_create(argv[1], options, &engine, &error));

  int named = 0;
  DIR *tasks = opendir("/proc/self/task");
  CHECK(tasks);
  for (struct dirent *task; (task = readdir(tasks));) {
    char path[300], line[256], name[64] = "";
    if (task->d_name[0] == '.' || atoi(task->d_name) == (int)host_thread) continue;
    snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
    unsigned long long blocked = 0;
    for (int turn = 0; turn < 1000; ++turn) { /* a thread names itself shortly after it has begun */
      FILE *status = fopen(path, "r");
      CHECK(status);
      while (fgets(line, sizeof line, status)) {
        if (sscanf(line, "Name: %63s", name) != 1) sscanf(line, "SigBlk: %llx", &blocked);
      }
      fclose(status);
      if (strncmp(name, "qwen-", 5) == 0) break;
      usleep(1000);
    }
    CHECK(strcmp(name, "qwen-step") == 0 || strcmp(name, "qwen-cpu-1") == 0 || strcmp(name, "qwen-cpu-2") == 0);
    ++named;
    for (int number = 1; number < 32; ++number) {
      const int fault = number == SIGSEGV || number == SIGBUS || number == SIGFPE || number == SIGILL || number == SIGTRAP ||
                        number == SIGSYS;
      const int never = number == SIGKILL || number == SIGSTOP;
      CHECK((int)(blocked >> (number - 1) & 1) == !(fault || never));
    }
  }
  closedir(tasks);
  CHECK(named == 3);

  MUST(qwen_generate(engine, prompt, sampling, on_event, NULL, NULL, &error));
  CHECK(arrived > 10 && elsewhere == 0);
  CHECK(stack_bytes == 2 << 20);
  qwen_destroy(engine);
  qwen_prompt_free(prompt);
  qwen_options_free(sampling);
  qwen_options_free(options);
  sigaction(SIGINT, &before, NULL);
  return 0;
}
