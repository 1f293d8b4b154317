#include "base/cores.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>

namespace qwen {
namespace {

// Paths are strings: where memory is refused, joining std::filesystem::paths corrupts them (libstdc++ 12, operator/=).

// quota / period of a group of version 2, cpu.max: "max 100000", "150000 100000"; 0: no limit.
double quota_v2(const std::string& group) {
  std::ifstream file(group + "/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return 0;
  return std::strtod(quota.c_str(), nullptr) / period;
}

double quota_v1(const std::string& group) {
  std::ifstream quota_file(group + "/cpu.cfs_quota_us"), period_file(group + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (!(quota_file >> quota) || !(period_file >> period) || quota <= 0 || period <= 0) return 0;
  return quota / period;
}

// The tightest quota on the way from this process's groups to the root, in cores; 0: none. Inside a container the groups' names
// may be those outside of it: then its own is what is mounted as the root.
double tightest_quota(const std::string& root) {
  double tightest = 0;
  const auto consider = [&](double cores) {
    if (cores > 0 && (tightest == 0 || cores < tightest)) tightest = cores;
  };
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string line;  // "0::/user.slice/x" (version 2) or "4:cpu,cpuacct:/docker/x" (version 1)
  while (std::getline(groups, line)) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string names = line.substr(first + 1, second - first - 1);
    const bool v2 = names.empty();
    if (!v2 && ("," + names + ",").find(",cpu,") == std::string::npos) continue;
    std::string group = line.substr(second + 1);
    if (group == "/") group.clear();
    while (true) {
      for (const char* mount : {v2 ? "" : "/cpu", v2 ? "/unified" : "/cpu,cpuacct"}) {
        const std::string folder = root + "/sys/fs/cgroup" + mount + group;
        consider(v2 ? quota_v2(folder) : quota_v1(folder));
      }
      if (group.empty()) break;
      const size_t slash = group.rfind('/');
      group.resize(slash == std::string::npos ? 0 : slash);
    }
  }
  return tightest;
}

int cores_of_mask() {
  // A fixed cpu_set_t holds 1024 CPUs; larger machines need a larger mask.
  for (int cpus = 1024; cpus <= 1 << 16; cpus *= 4) {
    cpu_set_t* mask = CPU_ALLOC(static_cast<size_t>(cpus));
    if (mask == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(cpus));
    const bool known = sched_getaffinity(0, bytes, mask) == 0;
    const int cores = known ? CPU_COUNT_S(bytes, mask) : 0;
    CPU_FREE(mask);
    if (known) return cores;
  }
  return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
}

}  // namespace

int usable_cores(const std::string& root) {
  int cores = cores_of_mask();
  const double quota = tightest_quota(root);
  if (quota > 0) cores = std::min(cores, static_cast<int>(std::ceil(quota)));
  return std::max(cores, 1);
}

}  // namespace qwen
