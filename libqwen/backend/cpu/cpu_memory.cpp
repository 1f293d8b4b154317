#include "backend/cpu/cpu_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "backend/cpu/tile_kernels.h"
#include "base/error.h"
#include "base/system_memory.h"

namespace qwen::cpu {
namespace {

size_t round_up(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

[[noreturn]] void out_of_memory(size_t bytes, std::string_view purpose) {
  fail(Status::out_of_memory, "cannot allocate ", bytes, " bytes for ", purpose, "; ", available_memory(),
       " bytes are free");
}

}  // namespace

Buffer::Buffer(size_t bytes, std::string_view purpose) : size_(bytes) {
  if (bytes == 0) return;
  data_ = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{alignment()}, std::nothrow));
  if (data_ == nullptr) out_of_memory(bytes, purpose);
  // Large buffers in large pages, where the system has them: what one core works on then fills its L2 evenly, as scattered
  // small pages do not.
  if (alignment() == kHugePage) madvise(data_, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
}

Buffer::~Buffer() {
  ::operator delete (data_, std::align_val_t{alignment()});
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Mapping::Mapping(size_t bytes, std::string_view purpose) : size_(bytes) {
  if (bytes == 0) return;
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) out_of_memory(bytes, purpose);
  data_ = static_cast<std::byte*>(data);
}

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, size_);
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Rows CpuWorkspace::rows(int64_t rows, int64_t width, Form form) {
  const size_t bytes = form == Form::operand ? static_cast<size_t>(packed_bytes(rows, width))
                                             : round_up(static_cast<size_t>(rows * width) * sizeof(float));
  while (place_.chunk < chunks_.size() && chunks_[place_.chunk].size() - place_.used < bytes) {
    place_ = {place_.chunk + 1, 0};
  }
  if (place_.chunk == chunks_.size()) {
    constexpr size_t kSmallest = size_t{1} << 20;
    chunks_.emplace_back(std::max({bytes, wanted_, kSmallest}), "the activations of a step");
  }
  std::byte* data = chunks_[place_.chunk].data() + place_.used;
  place_.used += bytes;
  return {data, rows, width, form};
}

void CpuWorkspace::reset() {
  // Several chunks: the next step gets one of their size, and from then on nothing is allocated.
  if (chunks_.size() > 1) {
    wanted_ = 0;
    for (const Buffer& chunk : chunks_) wanted_ += chunk.size();
    chunks_.clear();
  }
  place_ = {};
}

int64_t CacheLayout::row_width(int64_t head_dim) const {
  return tiles ? tile_key_width(head_dim) : padded_head_dim(head_dim);
}

size_t CacheLayout::key_bytes(int64_t head_dim) const {
  return static_cast<size_t>((tiles ? row_width(head_dim) : head_dim) * kCacheBlock) * element_bytes();
}

size_t CacheLayout::value_bytes(int64_t head_dim) const {
  return static_cast<size_t>(padded_head_dim(head_dim) * kCacheBlock) * element_bytes();
}

CpuCache::CpuCache(const CacheGroupSpec& spec, int64_t blocks, CacheLayout layout)
    : spec_(spec), blocks_(blocks), layout_(layout) {
  const size_t heads = static_cast<size_t>(spec.layers * blocks * spec.kv_heads);
  key_plane_bytes_ = round_up(heads * key_bytes());
  memory_ = Mapping(key_plane_bytes_ + heads * value_bytes(),
                    cat("a key/value cache of ", blocks, " blocks (", blocks * kCacheBlock, " positions)"));
  index_ = Mapping(static_cast<size_t>(spec.layers * blocks * index_block_floats(spec)) * sizeof(float),
                   cat("the index keys of ", blocks, " blocks"));
}

int64_t CpuCache::index_block_floats(const CacheGroupSpec& spec) {
  if (!spec.indexer) return 0;
  const IndexerShape& shape = *spec.indexer;
  return kCacheBlock * shape.head_dim + kCacheBlock / shape.ratio * (shape.head_dim + shape.rotary_dim);
}

float* CpuCache::index_key(int64_t layer, int64_t block, int64_t slot) const {
  return reinterpret_cast<float*>(index_.data()) + (layer * blocks_ + block) * index_block_floats(spec_) +
         slot * spec_.indexer->head_dim;
}

float* CpuCache::group_key(int64_t layer, int64_t block, int64_t group) const {
  return index_key(layer, block, kCacheBlock) + group * (spec_.indexer->head_dim + spec_.indexer->rotary_dim);
}

std::byte* CpuCache::keys(int64_t layer, int64_t block, int64_t head) const {
  const int64_t index = (layer * blocks_ + block) * spec_.kv_heads + head;
  return memory_.data() + static_cast<size_t>(index) * key_bytes();
}

std::byte* CpuCache::values(int64_t layer, int64_t block, int64_t head) const {
  const int64_t index = (layer * blocks_ + block) * spec_.kv_heads + head;
  return memory_.data() + key_plane_bytes_ + static_cast<size_t>(index) * value_bytes();
}

}  // namespace qwen::cpu
