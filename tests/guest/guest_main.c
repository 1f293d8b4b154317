/* guest_main TIMES HOST.so ARGUMENTS: loads a host and the library with it, runs it, and unloads both again, that many times;
 * whatever a library could change in its process must afterwards be as it was, at each of these points.
 *
 * UNUSUAL_HOST in the environment: a host with a decimal comma (locale "comma" of LOCPATH), that rounds upwards, flushes
 * denormals to zero and traps invalid operations and divisions by zero, with signal handlers, blocked signals and an alternate
 * stack of its own. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <limits.h>
#include <locale.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

extern char **environ;

typedef struct {
  int threads, descriptors, dumpable, timer_slack, priority;
  uint32_t float_control;
  uint64_t handlers, mask, environment, limits;
  char locale[1024], folder[PATH_MAX];
  mode_t umask;
  stack_t alternate_stack;
  cpu_set_t cores;
  struct itimerval timer;
} state;

static uint64_t digest(uint64_t hash, const void *data, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
  return hash;
}
static int entries(const char *folder) {
  DIR *open = opendir(folder);
  int count = 0;
  while (open && readdir(open)) ++count;
  if (open) closedir(open);
  return count;
}

static uint32_t float_control(void) {
#if defined(__x86_64__)
  unsigned short x87;
  __asm__ volatile("fnstcw %0" : "=m"(x87));
  return (__builtin_ia32_stmxcsr() & ~0x3fu) ^ (uint32_t)x87 << 16; /* without what has happened so far */
#else
  return 0;
#endif
}

static state look(void) {
  state now;
  memset(&now, 0, sizeof now);
  now.threads = entries("/proc/self/task");
  now.descriptors = entries("/proc/self/fd");
  now.dumpable = prctl(PR_GET_DUMPABLE);
  now.timer_slack = prctl(PR_GET_TIMERSLACK);
  now.priority = getpriority(PRIO_PROCESS, 0);
  now.float_control = float_control();
  for (int number = 1; number < NSIG; ++number) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    if (sigaction(number, NULL, &action) == 0) now.handlers = digest(now.handlers, &action.sa_handler, sizeof action.sa_handler);
    action.sa_flags &= ~0x04000000; /* SA_RESTORER, glibc's own affair */
    now.handlers = digest(now.handlers, &action.sa_flags, sizeof action.sa_flags);
  }
  sigset_t blocked;
  sigprocmask(SIG_SETMASK, NULL, &blocked);
  for (int number = 1; number < NSIG; ++number)
    if (sigismember(&blocked, number) == 1) now.mask = digest(now.mask, &number, sizeof number);
  for (char **variable = environ; *variable; ++variable) now.environment = digest(now.environment, *variable, strlen(*variable));
  for (int what = 0; what < RLIM_NLIMITS; ++what) {
    struct rlimit limit;
    if (getrlimit(what, &limit) == 0) now.limits = digest(now.limits, &limit, sizeof limit);
  }
  snprintf(now.locale, sizeof now.locale, "%s", setlocale(LC_ALL, NULL));
  if (!getcwd(now.folder, sizeof now.folder)) exit(2);
  umask(now.umask = umask(0));
  sigaltstack(NULL, &now.alternate_stack);
  sched_getaffinity(0, sizeof now.cores, &now.cores);
  getitimer(ITIMER_REAL, &now.timer);
  return now;
}

static int changed(const state *before, const state *now, const char *when) {
  int count = 0;
#define SAME(field)                                                            \
  if (memcmp(&before->field, &now->field, sizeof now->field) != 0)             \
  ++count, fprintf(stderr, "%s: %s is not what it was\n", when, #field)
  SAME(threads); SAME(descriptors); SAME(dumpable); SAME(timer_slack); SAME(priority); SAME(float_control);
  SAME(handlers); SAME(mask); SAME(environment); SAME(limits); SAME(locale); SAME(folder); SAME(umask);
  SAME(alternate_stack); SAME(cores); SAME(timer);
  if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD)) ++count, fprintf(stderr, "%s: libcuda is loaded\n", when);
  return count;
}

static void on_signal(int number) { (void)number; }

static void be_unusual(void) {
  static char stack[1 << 16];
  const stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
  sigset_t blocked;
  for (int number = 1; number < NSIG; ++number)
    if (number != SIGKILL && number != SIGSTOP) signal(number, on_signal);
  for (const int *crash = (const int[]){SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, 0}; *crash; ++crash) signal(*crash, SIG_DFL);
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR2);
  sigprocmask(SIG_BLOCK, &blocked, NULL);
  sigaltstack(&alternate, NULL);
  if (!setlocale(LC_NUMERIC, "comma") || strtod("0,5", NULL) != 0.5) exit((fprintf(stderr, "no locale 'comma'\n"), 2));
#if defined(__x86_64__)
  const unsigned short x87 = 0x0b7f; /* rounds upwards */
  __builtin_ia32_ldmxcsr((__builtin_ia32_stmxcsr() | 0x4000 | 0x8040) & ~0x280u);
  __asm__ volatile("fldcw %0" : : "m"(x87));
#endif
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  if (getenv("UNUSUAL_HOST")) be_unusual();
  const state before = look();
  for (int times = atoi(argv[1]); times > 0; --times) {
    void *host = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
    int (*host_main)(int, char **) = NULL;
    if (!host || !(*(void **)&host_main = dlsym(host, "host_main"))) return fprintf(stderr, "%s\n", dlerror()), 2;
    const state loaded = look();
    if (changed(&before, &loaded, "loaded")) return 1;
    const int status = host_main(argc - 2, argv + 2);
    if (status) return status;
    const state used = look();
    if (changed(&before, &used, "used")) return 1;
    if (dlclose(host)) return fprintf(stderr, "%s\n", dlerror()), 2;
    const state unloaded = look();
    if (changed(&before, &unloaded, "unloaded")) return 1;
  }
  return 0;
}
