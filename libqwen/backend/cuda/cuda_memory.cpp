#include "backend/cuda/cuda_memory.h"

#include <algorithm>
#include <cstring>

#include "backend/cuda/indexer.h"
#include "backend/cuda/paged.h"
#include "base/error.h"

namespace qwen::cuda {
namespace {

size_t round_up(size_t bytes) {
  constexpr size_t kAlignment = 256;  // that of an allocation
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Of one block in one layer: keys and values; what an indexer keeps.
size_t layer_bytes(const CacheGroupSpec& spec, Element element) {
  return static_cast<size_t>(2 * cache_block_elements(spec.kv_heads, spec.head_dim)) * element_bytes(element);
}
size_t layer_index_bytes(const CacheGroupSpec& spec) {
  return spec.indexer ? static_cast<size_t>(index_block_floats(*spec.indexer)) * sizeof(float) : 0;
}

constexpr const char* kPurpose = "the activations of a step";

}  // namespace

Rows CudaWorkspace::rows(int64_t rows, int64_t width, Form form) {
  const Element element = form == Form::operand ? Element::bf16 : Element::f32;
  const size_t bytes = round_up(static_cast<size_t>(rows * width) * element_bytes(element));
  while (place_.chunk < chunks_.size() && chunks_[place_.chunk].size() - place_.used < bytes)
    place_ = {place_.chunk + 1, 0};
  if (place_.chunk == chunks_.size()) {
    constexpr size_t kSmallest = size_t{1} << 20;
    chunks_.push_back(device_.allocate(std::max(bytes, kSmallest), kPurpose));
  }
  void* const data = chunks_[place_.chunk].data() + place_.used;
  place_.used += bytes;
  return {data, rows, width, form};
}

void CudaWorkspace::reset() {
  place_ = {};
  if (chunks_.size() <= 1) return;
  size_t wanted = 0;
  for (Memory& chunk : chunks_) {
    wanted += chunk.size();
    stream_.free(chunk);  // a step without logits may still be under way
  }
  chunks_.clear();
  chunks_.push_back(device_.allocate(wanted, kPurpose));
}

void* Scratch::get(const Device& device, Stream& stream, size_t bytes, std::string_view purpose) {
  if (bytes > memory_.size()) {
    stream.free(memory_);
    memory_ = device.allocate(round_up(bytes + bytes / 4), purpose);
  }
  return memory_.data();
}

bool HostArray::holds(const void* data, size_t bytes) const {
  return bytes == size_ && (bytes == 0 || std::memcmp(staging_[current_].pinned.data(), data, bytes) == 0);
}

const void* HostArray::put(const Device& device, Stream& stream, const void* data, size_t bytes) {
  if (bytes == 0) return nullptr;
  if (holds(data, bytes)) return memory_.data();
  size_ = 0;  // until all is done
  Staging& next = staging_[current_ ^ 1];
  if (next.copied) stream.synchronize(*next.copied);
  const size_t room = std::max(least_room_, round_up(bytes + bytes / 2));
  if (bytes > next.pinned.size()) {
    next.pinned = {};
    next.pinned = device.allocate_pinned(room, "a step's arrays");
  }
  if (bytes > memory_.size()) {
    stream.free(memory_);
    memory_ = device.allocate(room, "a step's arrays");
  }
  if (!next.copied) next.copied = device.create_event();
  std::memcpy(next.pinned.data(), data, bytes);
  stream.to_device(memory_.data(), next.pinned.data(), bytes);
  stream.record(*next.copied);
  current_ ^= 1;
  size_ = bytes;
  return memory_.data();
}

CudaCache::CudaCache(const Device& device, Stream& stream, const CacheGroupSpec& spec, int64_t blocks,
                     Element element)
    : stream_(stream),
      spec_(spec),
      element_(element),
      plane_bytes_(static_cast<size_t>(blocks) * layer_bytes(spec, element) / 2),
      index_plane_bytes_(static_cast<size_t>(blocks) * layer_index_bytes(spec)),
      memory_(device.allocate(
          static_cast<size_t>(2 * spec.layers) * plane_bytes_,
          cat("a key/value cache of ", blocks, " blocks (", blocks * kCacheBlock, " positions)"))) {
  if (spec.indexer)
    index_ = device.allocate(static_cast<size_t>(spec.layers) * index_plane_bytes_,
                             cat("the index keys of ", blocks, " blocks"));
  stream.fill_zero(memory_.data(), memory_.size());  // a position that nobody wrote is multiplied by 0
}

size_t CudaCache::block_bytes(const CacheGroupSpec& spec, Element element) {
  return static_cast<size_t>(spec.layers) * (layer_bytes(spec, element) + layer_index_bytes(spec));
}

float* CudaCache::index(int64_t layer) const {
  return reinterpret_cast<float*>(index_.data() + static_cast<size_t>(layer) * index_plane_bytes_);
}

}  // namespace qwen::cuda
