#include "base/cores.h"

#include <doctest/doctest.h>
#include <sched.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <thread>

#include "temporary_folder.h"

using namespace qwen;

namespace {

// usable_cores() on a machine where /proc/self/cgroup says `groups`, and these files are below /sys/fs/cgroup.
struct File {
  std::string_view path, content;
};
int cores_where(std::string_view groups, std::initializer_list<File> files) {
  const TemporaryFolder root;
  const auto write = [&](const std::filesystem::path& path, std::string_view content) {
    std::filesystem::create_directories((root.path() / path).parent_path());
    root.write(path.string(), content);
  };
  write("proc/self/cgroup", groups);
  for (const File& file : files) write(std::filesystem::path("sys/fs/cgroup") / file.path, file.content);
  return usable_cores(root.path().string());
}

}  // namespace

TEST_CASE("the cores of a process are at least one and within the machine") {
  CHECK(usable_cores() >= 1);
  CHECK(usable_cores() <= static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  CHECK(usable_cores("/no/such/root") >= 1);
}

TEST_CASE("a thread that is bound to one core has one") {
  int cores = 0;
  std::thread([&] {
    cpu_set_t mask;
    REQUIRE(sched_getaffinity(0, sizeof mask, &mask) == 0);
    int first = 0;
    while (!CPU_ISSET(first, &mask)) ++first;
    CPU_ZERO(&mask);
    CPU_SET(first, &mask);
    REQUIRE(sched_setaffinity(0, sizeof mask, &mask) == 0);
    cores = usable_cores();
  }).join();
  CHECK(cores == 1);
}

TEST_CASE("a CPU quota of control groups lowers the number of cores") {
  const int all = cores_where("0::/\n", {});
  const auto at_most = [&](int cores) { return std::min(cores, all); };
  SUBCASE("version 2: the tightest on the way to the root; part of a core counts as one") {
    CHECK(cores_where("0::/a/b\n", {{"a/b/cpu.max", "max 100000\n"}}) == all);
    CHECK(cores_where("0::/a/b\n", {{"a/b/cpu.max", "100000 100000\n"}}) == 1);
    CHECK(cores_where("0::/a/b\n", {{"a/b/cpu.max", "150000 100000\n"}}) == at_most(2));
    CHECK(cores_where("0::/a/b\n", {{"a/b/cpu.max", "900000 100000\n"}, {"a/cpu.max", "50000 100000\n"}}) ==
          1);
  }
  SUBCASE("version 1, under both names of the mount, among other controllers") {
    const std::string groups = "5:memory:/m\n3:cpu,cpuacct:/docker/x\n0::/\n";
    for (const std::string mount : {"cpu", "cpu,cpuacct"}) {
      const std::string quota = mount + "/docker/x/cpu.cfs_quota_us",
                        period = mount + "/docker/x/cpu.cfs_period_us";
      CHECK(cores_where(groups, {{quota, "-1\n"}, {period, "100000\n"}}) == all);
      CHECK(cores_where(groups, {{quota, "100000\n"}, {period, "100000\n"}}) == 1);
    }
  }
  SUBCASE("a container that sees its own group as the root, by its name outside") {
    CHECK(cores_where("0::/outer/name\n", {{"cpu.max", "30000 100000\n"}}) == 1);
    CHECK(cores_where("2:cpu:/outer/name\n",
                      {{"cpu/cpu.cfs_quota_us", "100000\n"}, {"cpu/cpu.cfs_period_us", "100000\n"}}) == 1);
  }
  SUBCASE("version 2 beside version 1") {
    CHECK(cores_where("1:name=systemd:/\n0::/x\n", {{"unified/x/cpu.max", "100000 100000\n"}}) == 1);
  }
  SUBCASE("nonsense is no quota") {
    for (const std::string_view text : {"", "max\n", "-5 100000\n", "100000 0\n", "a b\n"})
      CHECK(cores_where("0::/\n", {{"cpu.max", text}}) == all);
    CHECK(cores_where("nonsense\n", {}) == all);
  }
}
