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
  // Enters pages into this process's tables, from the beginning of the file, while go_on() says so: done at one go, by a thread
  // that has nothing else to do, this is far cheaper than a fault for every few of them later.
  void map_ahead(const std::function<bool()>& go_on) const;

  const std::filesystem::path& path() const { return path_; }

 private:
  void open(const std::filesystem::path& path, LoadMode mode);

  std::filesystem::path path_;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  bool mapped_ = false;  // the file itself; else a copy of it
};

}  // namespace qwen
