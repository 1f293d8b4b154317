#include "backend/cpu/cpu_state_cache.h"

#include "base/error.h"

namespace qwen::cpu {
namespace {

static_assert(kChunk == kStateChunk);

// Parts begin at a cache line.
int64_t aligned(int64_t floats) {
  constexpr int64_t kLine = kAlignment / sizeof(float);
  return (floats + kLine - 1) / kLine * kLine;
}

}  // namespace

CpuStateCache::Layout::Layout(const GatedDeltaShape& shape) {
  const int64_t width = padded_head_dim(shape.value_dim);
  window = aligned(shape.value_heads * shape.key_dim * width);
  block = window + aligned((shape.conv_kernel - 1) * shape.channels());
  corrected = aligned(shape.key_heads * shape.key_dim * kChunk);
  log_decay = corrected + aligned(shape.value_heads * kChunk * width);
  ring = log_decay + aligned(shape.value_heads * kChunk);
  slot = ring + aligned(kRing * shape.channels());
}

CpuStateCache::CpuStateCache(const CacheGroupSpec& spec, int64_t blocks)
    : shape_(*spec.gated_delta), layout_(*spec.gated_delta), blocks_(blocks) {
  const auto bytes = [&](int64_t floats) {
    return static_cast<size_t>(spec.layers * blocks * floats) * sizeof(float);
  };
  states_ = Mapping(bytes(layout_.block), cat(blocks, " recurrent states"));
  chunks_ = Mapping(bytes(layout_.slot), cat("the current chunks of ", blocks, " sequences"));
}

size_t CpuStateCache::block_bytes(const CacheGroupSpec& spec) {
  const Layout layout(*spec.gated_delta);
  return static_cast<size_t>(spec.layers * (layout.block + layout.slot)) * sizeof(float);
}

float* CpuStateCache::block(int64_t layer, int64_t index) const {
  return reinterpret_cast<float*>(states_.data()) + (layer * blocks_ + index) * layout_.block;
}

float* CpuStateCache::slot(int64_t layer, int64_t index) const {
  return reinterpret_cast<float*>(chunks_.data()) + (layer * blocks_ + index) * layout_.slot;
}

float* CpuStateCache::state(int64_t layer, int64_t index, int64_t value_head) const {
  return block(layer, index) + value_head * shape_.key_dim * value_width();
}

float* CpuStateCache::window(int64_t layer, int64_t index) const {
  return block(layer, index) + layout_.window;
}

float* CpuStateCache::keys(int64_t layer, int64_t index, int64_t key_head) const {
  return slot(layer, index) + key_head * shape_.key_dim * kChunk;
}

float* CpuStateCache::corrected(int64_t layer, int64_t index, int64_t value_head) const {
  return slot(layer, index) + layout_.corrected + value_head * kChunk * value_width();
}

float* CpuStateCache::log_decay(int64_t layer, int64_t index, int64_t value_head) const {
  return slot(layer, index) + layout_.log_decay + value_head * kChunk;
}

float* CpuStateCache::ring(int64_t layer, int64_t index, int64_t position) const {
  return slot(layer, index) + layout_.ring + position % kRing * shape_.channels();
}

}  // namespace qwen::cpu
