#include "base/mapped_file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "temporary_folder.h"

using namespace qwen;

namespace {

// Pages of [data, data + bytes) that are in this process's page table, by /proc/self/pagemap.
size_t mapped_pages(const std::byte* data, size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::ifstream map("/proc/self/pagemap", std::ios::binary);
  std::vector<uint64_t> entries((bytes + page - 1) / page);
  map.seekg(static_cast<std::streamoff>(reinterpret_cast<uintptr_t>(data) / page * sizeof(uint64_t)));
  map.read(reinterpret_cast<char*>(entries.data()),
           static_cast<std::streamsize>(entries.size() * sizeof(uint64_t)));
  REQUIRE(map);
  size_t present = 0;
  for (const uint64_t entry : entries) present += entry >> 63;
  return present;
}

}  // namespace

TEST_CASE("pages are mapped ahead until there is something better to do") {
  const TemporaryFolder folder;
  const auto path = folder.write("weights", std::string(size_t{9} << 20, 'w'));
  const MappedFile file(path);
  const size_t before =
      mapped_pages(file.bytes().data(), file.bytes().size());  // its beginning was looked at
  file.map_ahead([](size_t, bool) { return false; });
  CHECK(mapped_pages(file.bytes().data(), file.bytes().size()) == before);
  int pieces = 0;
  file.map_ahead([&](size_t mapped, bool) {
    CHECK(mapped == static_cast<size_t>(pieces) * (size_t{2} << 20));
    return ++pieces <= 2;
  });
  const size_t some = mapped_pages(file.bytes().data(), file.bytes().size());
  file.map_ahead([](size_t, bool) { return true; });
  const size_t all = mapped_pages(file.bytes().data(), file.bytes().size());
  CHECK(before < some);
  CHECK(some < all);
  CHECK(all == file.bytes().size() / static_cast<size_t>(sysconf(_SC_PAGESIZE)));
  CHECK(file.text() == std::string(size_t{9} << 20, 'w'));
}

TEST_CASE("what is not in memory is read from the disk, and said to be") {
  const TemporaryFolder folder;
  const std::string text(size_t{64} << 20, 'w');
  const auto path = folder.write("weights", text);
  const int file = ::open(path.c_str(), O_RDONLY);
  REQUIRE(file >= 0);
  ::fsync(file);
  ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  ::close(file);
  const MappedFile mapped(path);
  std::vector<unsigned char> resident(text.size() / static_cast<size_t>(sysconf(_SC_PAGESIZE)));
  REQUIRE(::mincore(const_cast<std::byte*>(mapped.bytes().data()), text.size(), resident.data()) == 0);
  const bool on_disk = (resident.back() & 1) == 0;  // a file system in memory keeps its files there
  bool said = false;
  double fraction = 0;
  const MappedFile* const files[] = {&mapped};
  map_ahead(files, [&](double mapped_so_far, bool from_disk) {
    CHECK(mapped_so_far >= fraction);
    fraction = mapped_so_far;
    said = said || from_disk;
    return true;
  });
  CHECK(said == on_disk);
  CHECK(fraction > 0.9);
  CHECK(fraction < 1);
  CHECK(mapped.text() == text);
  said = false;
  map_ahead(files, [&](double, bool from_disk) { return said = said || from_disk, true; });
  CHECK(!said);
}

TEST_CASE("nothing is mapped ahead of an empty file or of one that was read") {
  const TemporaryFolder folder;
  bool asked = false;
  const auto ask = [&](size_t, bool) { return asked = true; };
  MappedFile(folder.write("empty", "")).map_ahead(ask);
  MappedFile(folder.write("read", "text"), LoadMode::read).map_ahead(ask);
  CHECK(!asked);
}
