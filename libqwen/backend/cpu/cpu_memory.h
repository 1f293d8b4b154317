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
  static constexpr size_t kHugePage = size_t{2} << 20;
  size_t alignment() const { return size_ < kHugePage ? kAlignment : kHugePage; }

  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// A bump allocator over a list of buffers, which becomes one buffer as large as the largest step needed.
class CpuWorkspace final : public Workspace {
 public:
  Rows rows(int64_t rows, int64_t width, Form form) override;
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

// How a block's inside is laid out: as kernels.h says, or for tiles, as tile_kernels.h does.
struct CacheLayout {
  Format format;
  bool tiles = false;

  size_t element_bytes() const { return format == Format::f32 ? 4 : 2; }
  // Of keys and of values one lies in rows of one position each, this many elements wide, the other in columns.
  int64_t row_width(int64_t head_dim) const;
  size_t key_bytes(int64_t head_dim) const;    // of one block of one head
  size_t value_bytes(int64_t head_dim) const;  // likewise
};

// Two planes, keys and values, each [layer][block][kv_head][one block of one head]. With an indexer a third one, float32 whatever the precision, [layer][block] of:
//   the index key of every position, as it was projected   [kCacheBlock][head_dim]
//   of every group of `ratio` positions its key, and the cosines and sines of its first position, which may have come in an
//   earlier step                                           [kCacheBlock / ratio][head_dim + rotary_dim]
class CpuCache final : public CacheStorage {
 public:
  CpuCache(const CacheGroupSpec& spec, int64_t blocks, CacheLayout layout);

  const CacheGroupSpec& spec() const { return spec_; }
  const CacheLayout& layout() const { return layout_; }
  Format format() const { return layout_.format; }
  size_t key_bytes() const { return layout_.key_bytes(spec_.head_dim); }
  size_t value_bytes() const { return layout_.value_bytes(spec_.head_dim); }
  std::byte* keys(int64_t layer, int64_t block, int64_t head) const;
  std::byte* values(int64_t layer, int64_t block, int64_t head) const;
  float* index_key(int64_t layer, int64_t block, int64_t slot) const;
  float* group_key(int64_t layer, int64_t block, int64_t group) const;  // its angles follow it
  static int64_t index_block_floats(const CacheGroupSpec& spec);
  int64_t key_block_bytes() const { return spec_.kv_heads * static_cast<int64_t>(key_bytes()); }
  int64_t value_block_bytes() const { return spec_.kv_heads * static_cast<int64_t>(value_bytes()); }

 private:
  CacheGroupSpec spec_;
  int64_t blocks_;
  CacheLayout layout_;
  size_t key_plane_bytes_;
  Mapping memory_, index_;
};

}  // namespace qwen::cpu
