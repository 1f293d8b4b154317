// A file's bytes, read-only, for as long as the object lives.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

namespace qwen {

enum class LoadMode {
  mmap,  // mapped: costs page faults only, pages are shared between processes; a file truncated later by somebody
         // else raises SIGBUS in this process
  read,  // read into private memory: slower to open, immune to later changes of the file
};

class MappedFile {
 public:
  // Throws Error: not_found, io, out_of_memory; invalid_file for a Git LFS pointer. An empty file gives an empty span.
  explicit MappedFile(const std::filesystem::path& path, LoadMode mode = LoadMode::mmap);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  // Before every few pages: how many bytes of the file are mapped, and whether some had to be read from a disk. false: enough.
  using GoOn = std::function<bool(size_t mapped, bool from_disk)>;
  // Enters pages into this process's tables, from the beginning of the file, while go_on() says so: done at one go, by a thread
  // that has nothing else to do, this is far cheaper than a fault for every few of them later. What is not in memory comes there
  // in order and in large pages, where the system has them: as fast as the disk gives it, and read faster ever after. A file that
  // memory has no room for never counts as from_disk.
  void map_ahead(const GoOn& go_on) const;

  const std::filesystem::path& path() const { return path_; }

 private:
  void open(const std::filesystem::path& path, LoadMode mode);

  std::filesystem::path path_;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  bool mapped_ = false;  // the file itself; else a copy of it
};

// MappedFile::map_ahead() of all of them, one after the other. fraction: of their bytes, 0…1.
void map_ahead(std::span<const MappedFile* const> files,
               const std::function<bool(double fraction, bool from_disk)>& go_on);

}  // namespace qwen
