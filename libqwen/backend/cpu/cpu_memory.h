// The memory of the CPU backend: aligned buffers, mapped cache planes, the per-step arena.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"

namespace qwen::cpu {

inline constexpr size_t kAlignment = 64;  // one cache line, one AVX-512 register

// Uninitialised heap memory aligned to kAlignment.
class Buffer {
 public:
  Buffer() = default;
  // `purpose` completes "cannot allocate N bytes for …" in Error(out_of_memory).
  Buffer(size_t bytes, std::string_view purpose);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// A bump allocator over a list of buffers, which becomes one buffer as large as the largest step needed.
class CpuWorkspace final : public Workspace {
 public:
  Rows rows(int64_t rows, int64_t width) override;
  Mark mark() const override { return place_; }
  void rewind(Mark mark) override { place_ = mark; }
  void reset() override;

 private:
  std::vector<Buffer> chunks_;
  Mark place_;         // where the next rows go
  size_t wanted_ = 0;  // all chunks together, when there were several
};

// Zeroed memory of the operating system's; a page costs memory once it is written.
class Mapping {
 public:
  Mapping() = default;
  // `purpose` as in Buffer.
  Mapping(size_t bytes, std::string_view purpose);
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;

  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Two planes, keys and values, each [layer][block][kv_head][one block of one head]; see kernels.h for a
// block's inside.
class CpuCache final : public CacheStorage {
 public:
  CpuCache(const CacheGroupSpec& spec, int64_t blocks, Format format);

  static size_t element_bytes(Format format) { return format == Format::f32 ? 4 : 2; }
  static size_t key_bytes(const CacheGroupSpec& spec, Format format);    // of one block of one head
  static size_t value_bytes(const CacheGroupSpec& spec, Format format);  // likewise

  const CacheGroupSpec& spec() const { return spec_; }
  Format format() const { return format_; }
  std::byte* keys(int64_t layer, int64_t block, int64_t head) const;
  std::byte* values(int64_t layer, int64_t block, int64_t head) const;
  int64_t key_block_bytes() const { return spec_.kv_heads * static_cast<int64_t>(key_bytes(spec_, format_)); }
  int64_t value_block_bytes() const {
    return spec_.kv_heads * static_cast<int64_t>(value_bytes(spec_, format_));
  }

 private:
  CacheGroupSpec spec_;
  int64_t blocks_;
  Format format_;
  size_t key_plane_bytes_;
  Mapping memory_;
};

}  // namespace qwen::cpu
