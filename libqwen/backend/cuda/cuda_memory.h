// The memory of the CUDA backend: what a step's activations, the cache and the host's arrays lie in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/device.h"
#include "backend/cuda/element.h"

namespace qwen::cuda {

// A bump allocator over pieces of device memory, which becomes one piece as large as the largest step needed.
class CudaWorkspace final : public Workspace {
 public:
  CudaWorkspace(const Device& device, Stream& stream) : device_(device), stream_(stream) {}
  ~CudaWorkspace() override { stream_.finish(); }
  Rows rows(int64_t rows, int64_t width, Form form) override;
  Mark mark() const override { return place_; }
  void rewind(Mark mark) override { place_ = mark; }
  void reset() override;

 private:
  const Device& device_;
  Stream& stream_;
  std::vector<Memory> chunks_;
  Mark place_;
};

// Device memory that a stream's work uses, as large as was ever asked for. Its content is lost whenever it grows.
class Scratch {
 public:
  void* get(const Device& device, Stream& stream, size_t bytes, std::string_view purpose);

 private:
  Memory memory_;
};

// An array of the host's on the device. What is there already is not copied again: a step's layers ask for the same.
class HostArray {
 public:
  explicit HostArray(size_t room = 0) : least_room_(room) {}

  bool empty() const { return size_ == 0; }
  bool holds(const void* data, size_t bytes) const;
  const void* put(const Device& device, Stream& stream, const void* data, size_t bytes);
  template <class T>
  const T* put(const Device& device, Stream& stream, std::span<const T> values) {
    return static_cast<const T*>(put(device, stream, values.data(), values.size_bytes()));
  }

 private:
  // Two places to copy from, in turns: one may still be read when the next array comes.
  struct Staging {
    Memory pinned;
    std::unique_ptr<Event> copied;
  };
  Staging staging_[2];
  int current_ = 0;
  size_t least_room_;
  size_t size_ = 0;  // of what is there
  Memory memory_;
};

// One layer after the other, keys and values (paged.h has the inside of a block); with an indexer what it keeps besides (indexer.h).
class CudaCache final : public CacheStorage {
 public:
  CudaCache(const Device& device, Stream& stream, const CacheGroupSpec& spec, int64_t blocks,
            Element element);

  ~CudaCache() override { stream_.finish(); }

  static size_t block_bytes(const CacheGroupSpec& spec, Element element);  // in all layers
  const CacheGroupSpec& spec() const { return spec_; }
  Element element() const { return element_; }
  void* keys(int64_t layer) const { return plane(2 * layer); }
  void* values(int64_t layer) const { return plane(2 * layer + 1); }
  float* index(int64_t layer) const;

 private:
  void* plane(int64_t index) const { return memory_.data() + static_cast<size_t>(index) * plane_bytes_; }

  Stream& stream_;
  CacheGroupSpec spec_;
  Element element_;
  size_t plane_bytes_, index_plane_bytes_;
  Memory memory_, index_;
};

constexpr size_t element_bytes(Element element) {
  return element == Element::f32 ? 4 : 2;
}

}  // namespace qwen::cuda
