#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/error.h"
#include "base/system_memory.h"

namespace qwen {
namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

bool fits_memory(size_t size) {
  const int64_t available = available_memory();
  return available == 0 || static_cast<int64_t>(size) <= available;
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path, LoadMode mode) : path_(path) {
  open(path, mode);
  // A clone without the large files; https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
  if (text().starts_with("version https://git-lfs")) {
    ::munmap(data_, size_);
    fail(Status::invalid_file, path.string(),
         ": is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`");
  }
}

void MappedFile::open(const std::filesystem::path& path, LoadMode mode) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) {
    const int error = errno;
    fail(error == ENOENT || error == ENOTDIR ? Status::not_found : Status::io, path.string(), ": ",
         system_reason(error));
  }
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) fail(Status::io, path.string(), ": ", system_reason(errno));
  if (!S_ISREG(info.st_mode)) fail(Status::io, path.string(), ": is not a regular file");
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) return;

  const bool map = mode == LoadMode::mmap;
  void* memory = ::mmap(nullptr, size, map ? PROT_READ : PROT_READ | PROT_WRITE,
                        map ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, map ? file.get() : -1, 0);
  if (memory == MAP_FAILED) {
    const int error = errno;
    fail(error == ENOMEM ? Status::out_of_memory : Status::io, path.string(), ": cannot ",
         map ? "map " : "hold ", size, " bytes: ", system_reason(error));
  }
  data_ = static_cast<std::byte*>(memory);
  size_ = size;
  mapped_ = map;
  // Weights in large pages are read faster, where the system has them: a mapped file is read into such pages from the first one
  // on, if it is not in memory, whatever the device's read-ahead is. A small file stays small.
  constexpr size_t kHugePage = size_t{2} << 20;
  if (size >= kHugePage && fits_memory(size)) ::madvise(data_, size, MADV_HUGEPAGE);
  if (map) return;
  for (size_t done = 0; done < size;) {
    const ssize_t got = ::pread(file.get(), data_ + done, size - done, static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      const int error = errno;
      ::munmap(data_, size_);
      data_ = nullptr;
      if (got == 0) fail(Status::io, path.string(), ": became shorter while it was read");
      fail(Status::io, path.string(), ": ", system_reason(error));
    }
    done += static_cast<size_t>(got);
  }
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      mapped_(other.mapped_) {}

void MappedFile::map_ahead(const GoOn& go_on) const {
#if !defined(MADV_POPULATE_READ)
  constexpr int MADV_POPULATE_READ = 22;  // Linux 5.14
#endif
  if (!mapped_) return;
  const auto waits = [] {  // of this thread for a disk
    rusage usage{};
    ::getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_majflt;
  };
  const bool has_room = fits_memory(size_);
  const auto before = waits();
  constexpr size_t kPiece = size_t{2}
                            << 20;  // what a slow disk reads in some milliseconds, should it not be in memory
  for (size_t at = 0; at < size_ && go_on(at, has_room && waits() != before); at += kPiece)
    if (::madvise(data_ + at, std::min(kPiece, size_ - at), MADV_POPULATE_READ) != 0) return;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(data_, size_);
}

void map_ahead(std::span<const MappedFile* const> files,
               const std::function<bool(double fraction, bool from_disk)>& go_on) {
  size_t all = 0, done = 0;
  for (const MappedFile* file : files) all += file->bytes().size();
  for (const MappedFile* file : files) {
    file->map_ahead([&](size_t mapped, bool from_disk) {
      return go_on(static_cast<double>(done + mapped) / static_cast<double>(all), from_disk);
    });
    done += file->bytes().size();
  }
}

}  // namespace qwen
