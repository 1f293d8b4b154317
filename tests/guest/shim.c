/* Preloaded into a host program: the malloc family, mmap and pthread_create, which refuse what a test wants refused.
 *
 * Whether a call is the library's is a matter of the thread that makes it: the host says when it is inside, and a thread that
 * was made inside is the library's for life. So it makes no difference how the library is linked. */
#define _GNU_SOURCE
#include "shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* glibc's own, which an interposed malloc may call at any moment. */
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

static __thread int inside __attribute__((tls_model("initial-exec")));
static atomic_long points, first_refused, last_refused, refused;

void shim_inside(int on) { inside = on; }

void shim_refuse(long k, long count) {
  atomic_store(&last_refused, 0); /* none, while the others change */
  atomic_store(&points, 0);
  atomic_store(&refused, 0);
  atomic_store(&first_refused, k);
  atomic_store(&last_refused, k > 0 ? k + count - 1 : 0);
}
long shim_points(void) { return atomic_load(&points); }
long shim_refused(void) { return atomic_load(&refused); }

static int refuse(void) {
  if (!inside) return 0;
  const long point = atomic_fetch_add(&points, 1) + 1;
  if (point > atomic_load(&last_refused) || point < atomic_load(&first_refused)) return 0;
  atomic_fetch_add(&refused, 1);
  return 1;
}

/* The addresses that are live: open addressing, linear probing. */
enum { SLOTS = 1 << 20 };
static uintptr_t live[SLOTS];
static long live_count;
static atomic_flag live_lock = ATOMIC_FLAG_INIT;

static size_t home(uintptr_t address) { return (address >> 4) * 0x9E3779B97F4A7C15u >> 44; }
static void lock(void) {
  while (atomic_flag_test_and_set(&live_lock)) {
  }
}
static void *note(void *memory) {
  if (!memory || !inside) return memory;
  lock();
  size_t at = home((uintptr_t)memory);
  while (live[at]) at = (at + 1) % SLOTS;
  live[at] = (uintptr_t)memory;
  ++live_count;
  atomic_flag_clear(&live_lock);
  return memory;
}
static void forget(void *memory) {
  if (!memory) return;
  lock();
  size_t at = home((uintptr_t)memory);
  while (live[at] && live[at] != (uintptr_t)memory) at = (at + 1) % SLOTS;
  if (live[at]) {
    --live_count;
    for (size_t next = (at + 1) % SLOTS; live[next]; next = (next + 1) % SLOTS) { /* close the gap */
      if ((next - home(live[next])) % SLOTS < (next - at) % SLOTS) continue;
      live[at] = live[next];
      at = next;
    }
    live[at] = 0;
  }
  atomic_flag_clear(&live_lock);
}
long shim_live(void) {
  lock();
  const long count = live_count;
  atomic_flag_clear(&live_lock);
  return count;
}

static void *no_memory(void) {
  errno = ENOMEM;
  return NULL;
}

void *malloc(size_t size) { return refuse() ? no_memory() : note(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return refuse() ? no_memory() : note(__libc_calloc(count, size)); }
void *memalign(size_t alignment, size_t size) { return refuse() ? no_memory() : note(__libc_memalign(alignment, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void **memory, size_t alignment, size_t size) {
  void *got = memalign(alignment, size);
  if (!got) return ENOMEM;
  *memory = got;
  return 0;
}
void free(void *memory) {
  forget(memory);
  __libc_free(memory);
}
void *realloc(void *memory, size_t size) {
  if (size == 0) return free(memory), NULL;
  if (refuse()) return no_memory();
  forget(memory);
  void *moved = __libc_realloc(memory, size);
  return note(moved ? moved : memory) == moved ? moved : NULL;
}

void *mmap(void *address, size_t length, int protection, int flags, int file, off_t offset) {
  if (refuse()) return errno = ENOMEM, MAP_FAILED;
  void *got = (void *)syscall(SYS_mmap, address, length, protection, flags, file, offset);
  if (got != MAP_FAILED) note(got);
  return got;
}
void *mmap64(void *address, size_t length, int protection, int flags, int file, off_t offset) {
  return mmap(address, length, protection, flags, file, offset);
}
int munmap(void *address, size_t length) {
  forget(address);
  return (int)syscall(SYS_munmap, address, length);
}

struct start {
  void *(*routine)(void *);
  void *argument;
};
static void *start_inside(void *given) {
  const struct start start = *(struct start *)given;
  __libc_free(given);
  inside = 1;
  return start.routine(start.argument);
}
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*routine)(void *), void *argument) {
  typedef int (*create_fn)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  static create_fn create;
  if (!create) create = (create_fn)dlsym(RTLD_NEXT, "pthread_create");
  if (!inside) return create(thread, attributes, routine, argument);
  if (refuse()) return EAGAIN;
  struct start *start = __libc_malloc(sizeof *start);
  *start = (struct start){routine, argument};
  const int failed = create(thread, attributes, start_inside, start);
  if (failed) __libc_free(start);
  return failed;
}
