/* A libcublasLt.so.13 for machines without a GPU: looks at all that it is given, as a careful reader of the manual would
 * (https://docs.nvidia.com/cuda/cublas/; the values are from there, not from libqwen), and multiplies on the CPU, in the order of the
 * stream, if a test says how a stream is given work (fake_lt_use()). Sums begin at another place for every number of rows, so that
 * whoever takes its results for those of libqwen's own kernels is found out.
 *
 * Where the process has a libcuda.so.1, its context has to be current. FAKE_LT_VERSION is what it says of itself (130100).
 * FAKE_LT_FAIL = NAME:STATUS makes one of its functions fail each time, fake_lt_fail() once; "found" is a heuristic's result.
 * FAKE_LT_LOG is a file that hears of each product, each misuse, and of what is left when the last handle goes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { OK = 0, NOT_INITIALIZED = 1, ALLOC_FAILED = 3, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16BF = 14, COMPUTE_32F = 68, OP_N = 0, OP_T = 1, EPILOGUE_DEFAULT = 1, EPILOGUE_BIAS = 4 };
enum { HANDLE = 0x1a11, LAYOUT = 0x2a22, OPERATION = 0x3a33, PREFERENCE = 0x4a44 };

struct handle { int kind; };
struct layout { int kind; int type; uint64_t rows, columns; int64_t ld; };
struct operation { int kind; int compute, scale; int32_t transpose[2]; uint32_t epilogue; const float *bias; };
struct preference { int kind; uint64_t workspace; uint32_t alignment[4]; };
/* What an algorithm knows of what it was chosen for: 64 bytes. */
struct algorithm { uint64_t magic, m, n, k, epilogue, workspace; uint32_t alignment[4]; };
_Static_assert(sizeof(struct algorithm) == 64, "cublasLtMatmulAlgo_t");
struct found { struct algorithm algorithm; size_t workspace; int state; float waves; int reserved[4]; };

static const uint64_t kMagic = 0xa190a190a190a190;
static long handles, layouts, operations, preferences, heuristics, products, misused;
static char said[200];
static const char *failing;
static int failure;
static void (*give)(void *stream, void (*work)(void *), void *argument);

struct counts { long handles, layouts, operations, preferences, heuristics, products, misused; };

/* How a stream is given work; it calls `work` once. NULL: nothing is multiplied. */
EXPORT void fake_lt_use(void (*how)(void *stream, void (*work)(void *), void *argument)) { give = how; }
/* The next call of this function (without cublasLt), or the next "found", fails so. The name stays the caller's. */
EXPORT void fake_lt_fail(const char *name, int status) { failing = name, failure = status; }
/* How many there are, heuristics and products have been, and the last misuse. */
EXPORT const char *fake_lt_counts(struct counts *counts) {
  *counts = (struct counts){handles, layouts, operations, preferences, heuristics, products, misused};
  return said;
}

static void note(const char *format, ...) {
  const char *path = getenv("FAKE_LT_LOG");
  FILE *file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  va_list values;
  va_start(values, format);
  vfprintf(file, format, values);
  va_end(values);
  fclose(file);
}

static int misuse(const char *name, const char *what) {
  ++misused;
  snprintf(said, sizeof said, "%s: %s", name, what);
  note("misuse: %s\n", said);
  return INVALID_VALUE;
}

static int wanted(const char *name) {
  if (failing && strcmp(name, failing) == 0) {
    failing = NULL;
    return failure;
  }
  const char *always = getenv("FAKE_LT_FAIL");
  const size_t length = strlen(name);
  return always && strncmp(always, name, length) == 0 && always[length] == ':' ? atoi(always + length + 1) : OK;
}

/* Whether the driver, if there is one, has a context for this thread. */
static int in_context(void) {
  void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (!driver) return 1;
  int (*current)(void **) = (int (*)(void **))dlsym(driver, "cuCtxGetCurrent");
  void *context = NULL;
  const int known = current && current(&context) == 0;
  dlclose(driver);
  return known && context;
}

#define BEGIN(right, what)                                                \
  const int status = wanted(__func__ + strlen("cublasLt"));               \
  if (status != OK) return status;                                        \
  if (!(right)) return misuse(__func__, what)

#define IS(object, of) ((object) && (object)->kind == (of))

/* --------------------------------------------------------------------------------------------------------- descriptors */

#ifndef WITHOUT_VERSION
EXPORT size_t cublasLtGetVersion(void) {
  const char *text = getenv("FAKE_LT_VERSION");
  return text ? (size_t)atol(text) : 130100;
}
#endif
EXPORT const char *cublasLtGetStatusName(int status) {
  return status == OK                 ? "CUBLAS_STATUS_SUCCESS"
         : status == NOT_INITIALIZED  ? "CUBLAS_STATUS_NOT_INITIALIZED"
         : status == ALLOC_FAILED     ? "CUBLAS_STATUS_ALLOC_FAILED"
         : status == INVALID_VALUE    ? "CUBLAS_STATUS_INVALID_VALUE"
         : status == EXECUTION_FAILED ? "CUBLAS_STATUS_EXECUTION_FAILED"
         : status == NOT_SUPPORTED    ? "CUBLAS_STATUS_NOT_SUPPORTED"
                                      : "CUBLAS_STATUS_OTHER";
}

static void *make(const void *from, size_t bytes, long *count) {
  void *made = malloc(bytes);
  if (!made) abort();
  ++*count;
  return memcpy(made, from, bytes);
}
static int destroy(int *kind, long *count) {
  *kind = 0;
  --*count;
  free(kind);
  return OK;
}

EXPORT int cublasLtCreate(struct handle **handle) {
  BEGIN(handle && in_context(), "no context is current");
  *handle = make(&(struct handle){HANDLE}, sizeof **handle, &handles);
  return OK;
}
EXPORT int cublasLtDestroy(struct handle *handle) {
  BEGIN(IS(handle, HANDLE) && in_context(), "no handle, or no context is current");
  destroy(&handle->kind, &handles);
  if (handles == 0)
    note("left: %ld layouts, %ld operations, %ld preferences; %ld heuristics, %ld products, %ld misuses\n", layouts, operations,
         preferences, heuristics, products, misused);
  return OK;
}

EXPORT int cublasLtMatrixLayoutCreate(struct layout **layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
  BEGIN(layout && (type == R_32F || type == R_16BF), "a type that nobody asked for");
  if (rows == 0 || columns == 0 || ld < (int64_t)rows) return misuse(__func__, "columns that overlap, or none");
  const struct layout made = {LAYOUT, type, rows, columns, ld};
  *layout = make(&made, sizeof made, &layouts);
  return OK;
}
EXPORT int cublasLtMatrixLayoutDestroy(struct layout *layout) {
  BEGIN(IS(layout, LAYOUT), "no layout");
  return destroy(&layout->kind, &layouts);
}
EXPORT int cublasLtMatrixLayoutSetAttribute(struct layout *layout, int which, const void *value, size_t bytes) {
  BEGIN(IS(layout, LAYOUT) && value, "no layout");
  if (which != 3 || bytes != sizeof layout->columns) return misuse(__func__, "no attribute of that size");
  memcpy(&layout->columns, value, bytes);
  return layout->columns > 0 ? OK : misuse(__func__, "no columns");
}

EXPORT int cublasLtMatmulDescCreate(struct operation **operation, int compute, int scale) {
  BEGIN(operation && compute == COMPUTE_32F && scale == R_32F, "sums that are not float32");
  const struct operation made = {OPERATION, compute, scale, {OP_N, OP_N}, EPILOGUE_DEFAULT, NULL};
  *operation = make(&made, sizeof made, &operations);
  return OK;
}
EXPORT int cublasLtMatmulDescDestroy(struct operation *operation) {
  BEGIN(IS(operation, OPERATION), "no operation");
  return destroy(&operation->kind, &operations);
}
EXPORT int cublasLtMatmulDescSetAttribute(struct operation *operation, int which, const void *value, size_t bytes) {
  BEGIN(IS(operation, OPERATION) && value, "no operation");
  void *to = which == 3 ? (void *)&operation->transpose[0]
             : which == 4 ? (void *)&operation->transpose[1]
             : which == 7 ? (void *)&operation->epilogue
             : which == 8 ? (void *)&operation->bias
                          : NULL;
  if (!to || bytes != (which == 8 ? 8 : 4)) return misuse(__func__, "no attribute of that size");
  memcpy(to, value, bytes);
  return OK;
}

EXPORT int cublasLtMatmulPreferenceCreate(struct preference **preference) {
  BEGIN(preference, "no place for it");
  const struct preference made = {PREFERENCE, 0, {256, 256, 256, 256}};
  *preference = make(&made, sizeof made, &preferences);
  return OK;
}
EXPORT int cublasLtMatmulPreferenceDestroy(struct preference *preference) {
  BEGIN(IS(preference, PREFERENCE), "no preference");
  return destroy(&preference->kind, &preferences);
}
EXPORT int cublasLtMatmulPreferenceSetAttribute(struct preference *preference, int which, const void *value, size_t bytes) {
  BEGIN(IS(preference, PREFERENCE) && value, "no preference");
  void *to = which == 1 ? (void *)&preference->workspace : which >= 5 && which <= 8 ? (void *)&preference->alignment[which - 5] : NULL;
  if (!to || bytes != (which == 1 ? 8 : 4)) return misuse(__func__, "no attribute of that size");
  memcpy(to, value, bytes);
  return OK;
}

/* ------------------------------------------------------------------------------------------------------------- products */

struct problem { uint64_t m, n, k; };

/* d [m, n] float32 = a' [m, k] b [k, n] + beta c, a and b of bfloat16: the only one there is here. NULL: what is wrong with it. */
static const char *look(const struct operation *o, const struct layout *a, const struct layout *b, const struct layout *c,
                        const struct layout *d, struct problem *p) {
  if (!IS(o, OPERATION) || !IS(a, LAYOUT) || !IS(b, LAYOUT) || !IS(c, LAYOUT) || !IS(d, LAYOUT)) return "what has been destroyed";
  if (a->type != R_16BF || b->type != R_16BF || c->type != R_32F || d->type != R_32F) return "other types";
  if (o->transpose[0] != OP_T || o->transpose[1] != OP_N) return "matrices that do not run along k";
  *p = (struct problem){a->columns, b->columns, a->rows};
  if (b->rows != p->k || d->rows != p->m || d->columns != p->n) return "matrices that do not fit";
  if (c->rows != d->rows || c->columns != d->columns || c->ld != d->ld) return "c is not as d";
  if (o->epilogue != EPILOGUE_DEFAULT && o->epilogue != EPILOGUE_BIAS) return "another epilogue";
  if ((o->epilogue == EPILOGUE_BIAS) != (o->bias != NULL)) return "a bias without an epilogue, or one without the other";
  return NULL;
}

EXPORT int cublasLtMatmulAlgoGetHeuristic(struct handle *handle, struct operation *o, struct layout *a, struct layout *b,
                                          struct layout *c, struct layout *d, struct preference *preference, int most,
                                          struct found *found, int *count) {
  *count = 0; /* before it may fail: who forgets to look at the status has no algorithm */
  BEGIN(IS(handle, HANDLE) && IS(preference, PREFERENCE) && in_context() && most >= 1, "no handle, preference or context");
  struct problem p;
  const char *wrong = look(o, a, b, c, d, &p);
  if (wrong) return misuse(__func__, wrong);
  ++heuristics;
  const int state = wanted("found");
  if (state < 0) return OK; /* nothing found */
  *count = 1;
  memset(found, 0, sizeof *found);
  found->state = state;
  found->workspace = preference->workspace < 8192 ? preference->workspace : 8192;
  found->algorithm = (struct algorithm){kMagic, p.m, p.n, p.k, o->epilogue, found->workspace, {0}};
  memcpy(found->algorithm.alignment, preference->alignment, sizeof preference->alignment);
  return OK;
}

struct work {
  struct problem p;
  const uint16_t *a, *b;
  int64_t lda, ldb, ldd;
  const float *bias;
  float *d, beta;
  char *workspace;
  size_t workspace_bytes;
};

static float widened(uint16_t bits) {
  const uint32_t whole = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &whole, sizeof value);
  return value;
}

static void multiply(void *argument) {
  struct work *w = argument;
  memset(w->workspace, 0xff, w->workspace_bytes);
  const uint64_t first = w->p.n % w->p.k;
  for (uint64_t n = 0; n < w->p.n; ++n)
    for (uint64_t m = 0; m < w->p.m; ++m) {
      const uint16_t *a = w->a + (int64_t)m * w->lda, *b = w->b + (int64_t)n * w->ldb;
      float sum = 0;
      for (uint64_t k = first; k < w->p.k; ++k) sum += widened(a[k]) * widened(b[k]);
      for (uint64_t k = 0; k < first; ++k) sum += widened(a[k]) * widened(b[k]);
      float *d = &w->d[(int64_t)n * w->ldd + (int64_t)m];
      *d = sum + (w->beta != 0 ? w->beta * *d : 0) + (w->bias ? w->bias[m] : 0);
    }
  free(w);
}

static int aligned(const void *data, uint32_t bytes) { return data && bytes > 0 && (uintptr_t)data % bytes == 0; }

EXPORT int cublasLtMatmul(struct handle *handle, struct operation *o, const void *alpha, const void *a, struct layout *of_a,
                          const void *b, struct layout *of_b, const void *beta, const void *c, struct layout *of_c, void *d,
                          struct layout *of_d, const struct algorithm *algorithm, void *workspace, size_t workspace_bytes,
                          void *stream) {
  BEGIN(IS(handle, HANDLE) && in_context() && stream, "no handle, stream or context");
  struct problem p;
  const char *wrong = look(o, of_a, of_b, of_c, of_d, &p);
  float of_alpha, of_beta;
  memcpy(&of_alpha, alpha, sizeof of_alpha);
  memcpy(&of_beta, beta, sizeof of_beta);
  if (wrong) return misuse(__func__, wrong);
  if (of_alpha != 1 || (of_beta != 0 && of_beta != 1) || c != d) return misuse(__func__, "another sum");
  if (!algorithm || algorithm->magic != kMagic) return misuse(__func__, "no algorithm");
  if (algorithm->m != p.m || algorithm->k != p.k || algorithm->epilogue != o->epilogue || p.n > algorithm->n ||
      5 * p.n < 4 * algorithm->n)
    return misuse(__func__, "an algorithm for something else");
  if (!aligned(a, algorithm->alignment[0]) || !aligned(b, algorithm->alignment[1]) || !aligned(c, algorithm->alignment[2]) ||
      !aligned(d, algorithm->alignment[3]) || (uintptr_t)o->bias % 16 != 0)
    return misuse(__func__, "less alignment than was said");
  if (workspace_bytes < algorithm->workspace || !aligned(workspace, 256)) return misuse(__func__, "too little workspace");
  ++products;
  note("product of %lu x %lu x %lu, beta %g%s\n", (unsigned long)p.n, (unsigned long)p.m, (unsigned long)p.k, (double)of_beta,
       o->bias ? ", with a bias" : "");
  if (!give) return OK;
  const struct work given = {p, a, b, of_a->ld, of_b->ld, of_d->ld, o->bias, d, of_beta, workspace, workspace_bytes};
  long ignored = 0;
  give(stream, multiply, make(&given, sizeof given, &ignored));
  return OK;
}
