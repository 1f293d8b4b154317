#include "base/system_memory.h"

#include <unistd.h>

#include <cstdio>

namespace qwen {

int64_t available_memory() {
  // MemAvailable counts the page cache that can be given up, which sysconf's free pages do not.
  if (std::FILE* file = std::fopen("/proc/meminfo", "re")) {
    char line[128];
    long long kib = -1;
    while (kib < 0 && std::fgets(line, sizeof line, file) != nullptr) {
      if (std::sscanf(line, "MemAvailable: %lld", &kib) != 1) kib = -1;
    }
    std::fclose(file);
    if (kib >= 0) return kib * 1024;
  }
  return static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE);
}

}  // namespace qwen
