/* What many engines leave behind: nothing. churn MODEL CYCLES: every fourth one generates. */
#define _GNU_SOURCE
#include <dirent.h>
#include <malloc.h>
#include <unistd.h>

#include "guest.h"

typedef struct {
  long resident, used, descriptors, threads, mappings;
} footprint;

static long entries(const char *folder) {
  DIR *open = opendir(folder);
  long count = 0;
  while (readdir(open)) ++count;
  closedir(open);
  return count;
}

static footprint look(void) {
  footprint now = {.descriptors = entries("/proc/self/fd"), .threads = entries("/proc/self/task")};
  char buffer[4096];
  malloc_trim(0); /* what is merely kept for the next allocation says nothing */
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file && fscanf(file, "%*d %ld", &now.resident) == 1);
  fclose(file);
  now.resident *= sysconf(_SC_PAGESIZE);
  file = fopen("/proc/self/maps", "r");
  CHECK(file);
  for (size_t got; (got = fread(buffer, 1, sizeof buffer, file)) > 0;)
    for (size_t i = 0; i < got; ++i) now.mappings += buffer[i] == '\n';
  fclose(file);
  const struct mallinfo2 memory = mallinfo2();
  now.used = (long)(memory.uordblks + memory.hblkhd);
  return now;
}

int host_main(int argc, char **argv) {
  CHECK(argc == 3);
  const long cycles = atol(argv[2]);
  footprint before = {0};
  uint64_t first = 0;
  for (long cycle = 0; cycle < cycles; ++cycle) {
    if (cycle == cycles / 4) before = look();
    qwen_engine *engine = create(argv[1]);
    if (cycle % 4 == 0) {
      const uint64_t hash = generate(engine, 8);
      if (cycle == 0) first = hash;
      CHECK(hash == first);
    }
    qwen_destroy(engine);
  }
  const footprint after = look();
  printf("resident %+ld, used %+ld, descriptors %+ld, threads %+ld, mappings %+ld\n", after.resident - before.resident,
         after.used - before.used, after.descriptors - before.descriptors, after.threads - before.threads,
         after.mappings - before.mappings);
  CHECK(after.descriptors == before.descriptors && after.threads == before.threads);
  CHECK(after.mappings <= before.mappings + 4);          /* glibc's arenas for threads */
  CHECK(after.used <= before.used + (64 << 10));         /* the same */
  CHECK(after.resident <= before.resident + (2 << 20));
  return 0;
}
