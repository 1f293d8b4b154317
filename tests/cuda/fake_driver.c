/* A libcuda.so.1 for machines without a GPU: memory is the host's, copies to it are made when somebody waits, kernels are looked for
 * in the code that libqwen carries, checked and counted, and do nothing. It insists on what a driver may forgive: that a context is
 * current, that a copy stays inside of an allocation, that nothing is freed while a copy needs it, that what was made is destroyed
 * while its context is there, that a thread that captures does nothing else meanwhile.
 *
 * The environment says what it is: FAKE_VERSION (13000 is CUDA 13.0), FAKE_GPUS, FAKE_NAME, FAKE_CAPABILITY (90) or,
 * of GPU N, FAKE_CAPABILITY_N, FAKE_MULTIPROCESSORS, FAKE_MEMORY (bytes). FAKE_LOG is a file to which each launch is appended ("launch …",
 * "dependent launch …"), and each misuse, and what is left when the last hold on the context goes. A test says which call is to fail by
 * fake_fail().
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum {
  OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_CONTEXT = 201, NOT_FOUND = 500,
  ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901
};

struct block { char *data; size_t size; int host; struct block *next; };
struct graph { int alive; long launches; char *log; size_t length; int broken; };
struct stream { int alive, after_launch; }; /* given a kernel last, or something that waits for all before it */
struct kernel { const char *name; int threads, most_shared; struct kernel *next; };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static __thread void *current;
static __thread struct stream *capturing;
static __thread struct graph *captured;
static int holds, initialised, lost, streams, events, graphs, misused;
static long launches;
static size_t used;
static struct block *blocks;
static struct kernel *kernels;
static char context; /* the one context there is */

static long number(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text && *text ? atol(text) : otherwise;
}
static size_t memory(void) { return (size_t)number("FAKE_MEMORY", 1L << 30); }

static void say(const char *format, ...) {
  const char *path = getenv("FAKE_LOG");
  FILE *file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  va_list values;
  va_start(values, format);
  vfprintf(file, format, values);
  va_end(values);
  fclose(file);
}

static int misuse(int status, const char *name, const char *what) {
  ++misused;
  say("misuse: %s: %s\n", name, what);
  return status;
}

static const char *failing;
static long calls_before;
static int failure;

/* The call of that name behind so many others fails with that status, once; after one of a lost context (700 to 799) everything
 * does. NULL: all is well again. The name stays the caller's. */
EXPORT void fake_fail(const char *name, long before, int status) {
  pthread_mutex_lock(&mutex);
  failing = name, calls_before = before, failure = status, lost = 0;
  pthread_mutex_unlock(&mutex);
}
/* Whether that call has come. */
EXPORT int fake_failed(void) { return calls_before < 0; }
EXPORT int fake_holds(void) { return holds; } /* on the context */

static int wanted(const char *name) {
  if (!failing || calls_before < 0 || strcmp(name, failing) != 0 || calls_before-- > 0) return OK;
  if (failure >= ILLEGAL_ADDRESS && failure < 800) lost = failure;
  return failure;
}

/* Of a call that needs a current context. Leaves the mutex locked where it succeeds. */
static int begin(const char *name, int needs_context) {
  pthread_mutex_lock(&mutex);
  int status = wanted(name);
  if (status == OK && lost) status = lost;
  if (status == OK && !initialised) status = misuse(NOT_INITIALIZED, name, "before cuInit");
  if (status == OK && needs_context && (current != &context || holds == 0))
    status = misuse(INVALID_CONTEXT, name, "no context is current");
  if (status == OK && capturing && strncmp(name, "cuLaunchKernel", 14) != 0 && strcmp(name, "cuStreamEndCapture") != 0) {
    status = misuse(CAPTURE_UNSUPPORTED, name, "while this thread captures");
    captured->broken = 1;
  }
  if (status != OK) pthread_mutex_unlock(&mutex);
  return status;
}
static int end(int status) {
  pthread_mutex_unlock(&mutex);
  return status;
}
#define BEGIN(needs_context)                                    \
  const int begun = begin(__func__, needs_context);             \
  if (begun != OK) return begun

/* ------------------------------------------------------------------------------------------------------------ the driver */

EXPORT int cuDriverGetVersion(int *version) {
  *version = (int)number("FAKE_VERSION", 99000);
  return OK;
}
EXPORT int cuInit(unsigned flags) {
  (void)flags;
  pthread_mutex_lock(&mutex);
  const int status = wanted(__func__);
  if (status == OK) initialised = 1;
  return end(status != OK ? status : number("FAKE_GPUS", 1) > 0 ? OK : NO_DEVICE);
}
EXPORT int cuGetErrorName(int status, const char **name) {
  *name = status == OUT_OF_MEMORY     ? "CUDA_ERROR_OUT_OF_MEMORY"
          : status == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
                                      : "CUDA_ERROR_OTHER";
  return OK;
}
EXPORT int cuGetErrorString(int status, const char **text) {
  *text = status == OUT_OF_MEMORY     ? "out of memory"
          : status == ILLEGAL_ADDRESS ? "an illegal memory access was encountered"
                                      : "another error";
  return OK;
}

/* ------------------------------------------------------------------------------------------------- devices and their context */

EXPORT int cuDeviceGetCount(int *count) {
  *count = (int)number("FAKE_GPUS", 1);
  return OK;
}
EXPORT int cuDeviceGet(int *device, int ordinal) {
  if (!initialised || ordinal < 0 || ordinal >= number("FAKE_GPUS", 1)) return INVALID_VALUE;
  *device = ordinal;
  return OK;
}
EXPORT int cuDeviceGetName(char *name, int length, int device) {
  (void)device;
  const char *chosen = getenv("FAKE_NAME");
  snprintf(name, (size_t)length, "%s", chosen ? chosen : "Fake GPU");
  return OK;
}
EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
  char of_one[32];
  snprintf(of_one, sizeof of_one, "FAKE_CAPABILITY_%d", device);
  const int capability = (int)number(of_one, number("FAKE_CAPABILITY", 90));
  switch (attribute) {
    case 16: *value = (int)number("FAKE_MULTIPROCESSORS", 132); return OK;
    case 75: *value = capability / 10; return OK; /* compute capability */
    case 76: *value = capability % 10; return OK;
    case 97: *value = 227 << 10; return OK; /* shared memory of a block, at most */
    default: return misuse(INVALID_VALUE, __func__, "an attribute that this does not know");
  }
}
EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  (void)device;
  *bytes = memory();
  return OK;
}
EXPORT int cuDevicePrimaryCtxRetain(void **handle, int device) {
  (void)device;
  BEGIN(0);
  ++holds;
  *handle = &context;
  return end(OK);
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
  (void)device;
  pthread_mutex_lock(&mutex);
  if (holds == 0) return end(misuse(INVALID_CONTEXT, __func__, "nobody holds it"));
  if (--holds == 0) {
    int left = 0;
    for (struct block *b = blocks; b; b = b->next) ++left;
    say("context gone: %d allocations, %d streams, %d events, %d graphs left; %ld launches, %d misuses\n", left, streams, events, graphs,
        launches, misused);
  }
  return end(OK);
}
EXPORT int cuCtxGetCurrent(void **handle) {
  *handle = current;
  return OK;
}
EXPORT int cuCtxSetCurrent(void *handle) {
  pthread_mutex_lock(&mutex);
  const int status = wanted(__func__);
  if (status == OK) current = handle;
  return end(status);
}

/* ---------------------------------------------------------------------------------------------------------------- memory */

/* Copies to the GPU that nobody has waited for yet. */
struct pending { char *to; const char *from; size_t bytes; struct pending *next; };
static struct pending *copies, **last_copy = &copies;

static void make_copies(void) {
  while (copies) {
    struct pending *const first = copies;
    memmove(first->to, first->from, first->bytes);
    copies = first->next;
    free(first);
  }
  last_copy = &copies;
}
static int needed(const struct block *b) {
  for (const struct pending *c = copies; c; c = c->next)
    if ((c->to < b->data + b->size && b->data < c->to + c->bytes) || (c->from < b->data + b->size && b->data < c->from + c->bytes))
      return 1;
  return 0;
}

static int allocate(char **data, size_t bytes, int host) {
  if (!host && bytes > memory() - used) return OUT_OF_MEMORY;
  struct block *const b = malloc(sizeof *b);
  *b = (struct block){aligned_alloc(256, (bytes + 255) / 256 * 256), bytes, host, blocks};
  memset(b->data, 0, bytes); /* the sum of nothing: what kernels would have computed */
  blocks = b;
  if (!host) used += bytes;
  *data = b->data;
  return OK;
}
static int release(const char *name, char *data, int host) {
  for (struct block **at = &blocks; *at; at = &(*at)->next) {
    struct block *const b = *at;
    if (b->data != data || b->host != host) continue;
    if (needed(b)) misuse(0, name, "a copy needs it");
    *at = b->next;
    if (!host) used -= b->size;
    free(b->data);
    free(b);
    return OK;
  }
  return misuse(INVALID_VALUE, name, "no such allocation");
}
static int inside(const char *data, size_t bytes, int host) {
  for (const struct block *b = blocks; b; b = b->next)
    if (b->host == host && data >= b->data && data + bytes <= b->data + b->size) return 1;
  return 0;
}
EXPORT int cuMemGetInfo_v2(size_t *available, size_t *total) {
  BEGIN(1);
  *total = memory();
  *available = *total - used;
  return end(OK);
}
EXPORT int cuMemAlloc_v2(char **data, size_t bytes) {
  BEGIN(1);
  return end(allocate(data, bytes, 0));
}
EXPORT int cuMemFree_v2(char *data) {
  BEGIN(1);
  return end(release(__func__, data, 0));
}
EXPORT int cuMemHostAlloc(char **data, size_t bytes, unsigned flags) {
  (void)flags;
  BEGIN(1);
  return end(allocate(data, bytes, 1));
}
EXPORT int cuMemFreeHost(char *data) {
  BEGIN(1);
  return end(release(__func__, data, 1));
}
static int copy(const char *name, char *to, int to_host, const char *from, int from_host, size_t bytes, struct stream *stream) {
  if (!stream || !stream->alive) return misuse(INVALID_VALUE, name, "no such stream");
  stream->after_launch = 0;
  if (!inside(to, bytes, to_host) || !inside(from, bytes, from_host)) return misuse(ILLEGAL_ADDRESS, name, "outside of an allocation");
  if (from_host) {
    *last_copy = malloc(sizeof **last_copy);
    **last_copy = (struct pending){to, from, bytes, NULL};
    last_copy = &(*last_copy)->next;
    return OK;
  }
  make_copies();
  memmove(to, from, bytes);
  return OK;
}
EXPORT int cuMemcpyHtoDAsync_v2(char *to, const char *from, size_t bytes, struct stream *stream) {
  BEGIN(1);
  return end(copy(__func__, to, 0, from, 1, bytes, stream));
}
EXPORT int cuMemcpyDtoHAsync_v2(char *to, const char *from, size_t bytes, struct stream *stream) {
  BEGIN(1);
  return end(copy(__func__, to, 1, from, 0, bytes, stream));
}
EXPORT int cuMemcpyDtoDAsync_v2(char *to, const char *from, size_t bytes, struct stream *stream) {
  BEGIN(1);
  return end(copy(__func__, to, 0, from, 0, bytes, stream));
}
EXPORT int cuMemsetD8Async(char *to, unsigned char value, size_t bytes, struct stream *stream) {
  BEGIN(1);
  if (!stream || !stream->alive || !inside(to, bytes, 0)) return end(misuse(ILLEGAL_ADDRESS, __func__, "outside of an allocation"));
  make_copies();
  memset(to, value, bytes);
  stream->after_launch = 0;
  return end(OK);
}

/* --------------------------------------------------------------------------------------------------------- streams, events */

static int make(struct stream **made, int *count) {
  *made = calloc(1, sizeof **made);
  (*made)->alive = 1;
  ++*count;
  return OK;
}
static int destroy(const char *name, struct stream *it, int *count) {
  if (!it || !it->alive) return misuse(INVALID_VALUE, name, "no such thing");
  it->alive = 0; /* kept, so that a second time is seen */
  --*count;
  return OK;
}
static int use(const char *name, const struct stream *a, const struct stream *b) {
  return a && a->alive && b && b->alive ? OK : misuse(INVALID_VALUE, name, "no such thing");
}
EXPORT int cuStreamCreate(struct stream **stream, unsigned flags) {
  BEGIN(1);
  if (flags != 1) return end(misuse(INVALID_VALUE, __func__, "it would wait for the default stream"));
  return end(make(stream, &streams));
}
EXPORT int cuStreamDestroy_v2(struct stream *stream) {
  BEGIN(1);
  return end(destroy(__func__, stream, &streams));
}
EXPORT int cuStreamQuery(struct stream *stream) {
  BEGIN(1);
  return end(use(__func__, stream, stream));
}
EXPORT int cuStreamSynchronize(struct stream *stream) {
  BEGIN(1);
  make_copies();
  return end(use(__func__, stream, stream));
}
EXPORT int cuStreamWaitEvent(struct stream *stream, struct stream *event, unsigned flags) {
  (void)flags;
  BEGIN(1);
  if (stream) stream->after_launch = 0;
  return end(use(__func__, stream, event));
}
EXPORT int cuEventCreate(struct stream **event, unsigned flags) {
  (void)flags;
  BEGIN(1);
  return end(make(event, &events));
}
EXPORT int cuEventDestroy_v2(struct stream *event) {
  BEGIN(1);
  return end(destroy(__func__, event, &events));
}
EXPORT int cuEventRecord(struct stream *event, struct stream *stream) {
  BEGIN(1);
  if (stream) stream->after_launch = 0;
  return end(use(__func__, event, stream));
}
EXPORT int cuEventSynchronize(struct stream *event) {
  BEGIN(1);
  make_copies();
  return end(use(__func__, event, event));
}

/* ---------------------------------------------------------------------------------------------------------------- kernels */

static uint64_t word(const unsigned char *at, int bytes) {
  uint64_t value = 0;
  for (int i = 0; i < bytes; ++i) value |= (uint64_t)at[i] << (8 * i);
  return value;
}

/* Whether a 64-bit ELF file has a section of that name. */
static int has_section(const unsigned char *elf, const char *name) {
  const unsigned char *const sections = elf + word(elf + 40, 8);
  const uint64_t size = word(elf + 58, 2), count = word(elf + 60, 2), names = word(elf + 62, 2);
  const unsigned char *const strings = elf + word(sections + names * size + 24, 8);
  for (uint64_t i = 0; i < count; ++i)
    if (strcmp((const char *)strings + word(sections + i * size, 4), name) == 0) return 1;
  return 0;
}

/* A fat binary: magic, version, size of the header, of the rest; then parts: kind (2: ELF), …, size of its header, of the rest. */
static int has_kernel(const unsigned char *image, const char *name) {
  char section[1024];
  snprintf(section, sizeof section, ".text.%s", name);
  const unsigned char *at = image + word(image + 6, 2), *const last = at + word(image + 8, 8);
  for (; at < last; at += word(at + 4, 4) + word(at + 8, 8)) {
    const unsigned char *const elf = at + word(at + 4, 4);
    if (word(at, 2) == 2 && memcmp(elf, "\177ELF", 4) == 0 && has_section(elf, section)) return 1;
  }
  return 0;
}

EXPORT int cuLibraryLoadData(const void **library, const void *image, void *a, void *b, unsigned c, void *d, void *e, unsigned f) {
  (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;
  BEGIN(0);
  if (word(image, 4) != 0xBA55ED50) return end(misuse(INVALID_VALUE, __func__, "not a fat binary"));
  *library = image;
  return end(OK);
}
EXPORT int cuLibraryGetKernel(struct kernel **kernel, const void *library, const char *name) {
  BEGIN(0);
  if (!has_kernel(library, name)) return end(misuse(NOT_FOUND, __func__, name));
  *kernel = malloc(sizeof **kernel);
  **kernel = (struct kernel){name, 0, 48 << 10, kernels};
  kernels = *kernel;
  return end(OK);
}
EXPORT int cuKernelSetAttribute(int attribute, int value, struct kernel *kernel, int device) {
  (void)device;
  BEGIN(0);
  if (attribute != 8) return end(misuse(INVALID_VALUE, __func__, "an attribute that this does not know"));
  if (value > 227 << 10) return end(misuse(INVALID_VALUE, __func__, "more shared memory than there is"));
  kernel->most_shared = value;
  return end(OK);
}
struct attribute { int id; char padding[4]; union { char all[64]; int allowed; } value; }; /* CUlaunchAttribute */
struct config { unsigned grid[3], block[3], shared; struct stream *stream; struct attribute *attributes; unsigned count; };

static int launch(const char *name, struct kernel *kernel, const unsigned *grid, const unsigned *block, unsigned shared,
                  struct stream *stream, void **arguments, void **extra, int dependent) {
  const unsigned gx = grid[0], gy = grid[1], gz = grid[2], bx = block[0], by = block[1], bz = block[2];
  if (!stream || !stream->alive) return misuse(INVALID_VALUE, name, "no such stream");
  if (!gx || !gy || !gz || !bx || !by || !bz || bx * by * bz > 1024 || gy > 65535 || gz > 65535)
    return misuse(INVALID_VALUE, name, "a grid or block that no GPU takes");
  if ((int)shared > kernel->most_shared) return misuse(INVALID_VALUE, name, "shared memory that it did not ask for");
  if (extra || !arguments || !arguments[0]) return misuse(INVALID_VALUE, name, "no arguments");
  if (strstr(kernel->name, "_kernelEP") && !inside(*(char **)arguments[0], 1, 0)) /* a pointer comes first, says the mangled name */
    return misuse(ILLEGAL_ADDRESS, name, "an argument that is no memory of the GPU");
  if (dependent && !stream->after_launch) return misuse(INVALID_VALUE, name, "dependent on what is no kernel");
  stream->after_launch = 1;
  char line[1200];
  const int length = snprintf(line, sizeof line, "%slaunch %s %u %u %u %u %u %u %u\n", dependent ? "dependent " : "", kernel->name, gx, gy,
                              gz, bx, by, bz, shared);
  if (capturing == stream) {
    captured->log = realloc(captured->log, captured->length + (size_t)length + 1);
    memcpy(captured->log + captured->length, line, (size_t)length + 1);
    captured->length += (size_t)length;
    ++captured->launches;
    return OK;
  }
  ++launches;
  say("%s", line);
  return OK;
}
/* The stream's context is the kernel's. */
EXPORT int cuLaunchKernel(struct kernel *kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared, struct stream *stream, void **arguments, void **extra) {
  BEGIN(0);
  const unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
  return end(launch(__func__, kernel, grid, block, shared, stream, arguments, extra, 0));
}
EXPORT int cuLaunchKernelEx(const struct config *config, struct kernel *kernel, void **arguments, void **extra) {
  BEGIN(0);
  const struct attribute *const attribute = config->attributes;
  if (config->count != 1 || attribute->id != 6 || attribute->value.allowed != 1) /* programmatic stream serialisation */
    return end(misuse(INVALID_VALUE, __func__, "attributes that this does not know"));
  int major;
  cuDeviceGetAttribute(&major, 75, 0);
  if (major < 9) return end(misuse(INVALID_VALUE, __func__, "this GPU has no dependent launches"));
  return end(launch(__func__, kernel, config->grid, config->block, config->shared, config->stream, arguments, extra, 1));
}

/* ----------------------------------------------------------------------------------------------------------------- graphs */

EXPORT int cuStreamBeginCapture_v2(struct stream *stream, int mode) {
  BEGIN(1);
  if (!stream || !stream->alive) return end(misuse(INVALID_VALUE, __func__, "no such stream"));
  if (mode != 1) return end(misuse(INVALID_VALUE, __func__, "it would hinder other threads"));
  stream->after_launch = 0;
  capturing = stream;
  captured = calloc(1, sizeof *captured);
  captured->alive = 1;
  ++graphs;
  return end(OK);
}
/* Whatever comes of it, the stream captures no more. */
EXPORT int cuStreamEndCapture(struct stream *stream, struct graph **graph) {
  struct graph *const made = captured;
  struct stream *const of = capturing;
  const int begun = begin(__func__, 1);
  captured = NULL, capturing = NULL;
  if (of) of->after_launch = 0;
  *graph = NULL;
  if (begun != OK) pthread_mutex_lock(&mutex);
  if (!of || of != stream) return end(misuse(INVALID_VALUE, __func__, "it does not capture"));
  if (begun == OK && !made->broken) {
    *graph = made;
    return end(OK);
  }
  made->alive = 0;
  --graphs;
  return end(begun != OK ? begun : CAPTURE_INVALIDATED);
}
EXPORT int cuGraphInstantiateWithFlags(struct graph **executable, struct graph *graph, unsigned long long flags) {
  BEGIN(1);
  if (!graph || !graph->alive || flags != 0) return end(misuse(INVALID_VALUE, __func__, "no such graph"));
  *executable = calloc(1, sizeof **executable);
  **executable = (struct graph){1, graph->launches, graph->log ? strdup(graph->log) : NULL, graph->length, 0};
  ++graphs;
  say("graph of %ld launches\n", graph->launches);
  return end(OK);
}
EXPORT int cuGraphLaunch(struct graph *executable, struct stream *stream) {
  BEGIN(1);
  if (!executable || !executable->alive || !stream || !stream->alive) return end(misuse(INVALID_VALUE, __func__, "no such thing"));
  launches += executable->launches;
  stream->after_launch = 0;
  say("graph launched\n%s", executable->log ? executable->log : "");
  return end(OK);
}
static int destroy_graph(const char *name, struct graph *graph) {
  if (!graph || !graph->alive) return misuse(INVALID_VALUE, name, "no such graph");
  graph->alive = 0; /* kept, so that a second time is seen */
  free(graph->log);
  graph->log = NULL;
  --graphs;
  return OK;
}
EXPORT int cuGraphDestroy(struct graph *graph) {
  BEGIN(1);
  return end(destroy_graph(__func__, graph));
}
EXPORT int cuGraphExecDestroy(struct graph *executable) {
  BEGIN(1);
  return end(destroy_graph(__func__, executable));
}
