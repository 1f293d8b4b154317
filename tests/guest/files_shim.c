/* Preloaded into a host program: what it opens. Says so on stderr when something is opened for writing, or is of a GPU; and with
 * NO_PROC in the environment there is no /proc and no /sys, as in a bare chroot. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int refused(const char *path, int writes) {
  if (writes || strstr(path, "nvidia") || strstr(path, "libcuda")) fprintf(stderr, "opened %s\n", path);
  if (!getenv("NO_PROC") || (strncmp(path, "/proc", 5) != 0 && strncmp(path, "/sys", 4) != 0)) return 0;
  errno = ENOENT;
  return 1;
}

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))
#define WRITES(flags) (((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) != 0)

#define OPEN(name)                                                            \
  int name(const char *path, int flags, ...) {                                \
    va_list more;                                                             \
    va_start(more, flags);                                                    \
    const int mode = va_arg(more, int);                                       \
    va_end(more);                                                             \
    return refused(path, WRITES(flags)) ? -1 : REAL(name)(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                  \
  int name(int folder, const char *path, int flags, ...) {                            \
    va_list more;                                                                     \
    va_start(more, flags);                                                            \
    const int mode = va_arg(more, int);                                               \
    va_end(more);                                                                     \
    return refused(path, WRITES(flags)) ? -1 : REAL(name)(folder, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

FILE *fopen(const char *path, const char *mode) { return refused(path, mode[0] != 'r') ? NULL : REAL(fopen)(path, mode); }
FILE *fopen64(const char *path, const char *mode) { return refused(path, mode[0] != 'r') ? NULL : REAL(fopen64)(path, mode); }
DIR *opendir(const char *path) { return refused(path, 0) ? NULL : REAL(opendir)(path); }

void *dlopen(const char *path, int mode) {
  const int only_asks = mode & RTLD_NOLOAD;
  return path && !only_asks && refused(path, 0) ? NULL : REAL(dlopen)(path, mode);
}
