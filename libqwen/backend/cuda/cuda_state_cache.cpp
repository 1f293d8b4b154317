#include "backend/cuda/cuda_state_cache.h"

#include "base/error.h"

namespace qwen::cuda {
namespace {

RecurrentLayout layout(const CacheGroupSpec& spec) {
  if (spec.convolution)
    return {spec.gated_delta.value_or(GatedDeltaShape{}), spec.convolution->channels,
            spec.convolution->kernel, spec.convolution->dilation};
  return {*spec.gated_delta, spec.gated_delta->channels(), spec.gated_delta->conv_kernel, 1};
}

size_t bytes(int64_t floats) {
  return static_cast<size_t>(floats) * sizeof(float);
}

}  // namespace

CudaStateCache::CudaStateCache(const Device& device, const CacheGroupSpec& spec, int64_t blocks)
    : layout_(layout(spec)),
      blocks_(blocks),
      states_(device.allocate(bytes(spec.layers * blocks * layout_.block), cat(blocks, " recurrent states"))),
      chunks_(device.allocate(bytes(spec.layers * blocks * layout_.slot),
                              cat("the current chunks of ", blocks, " sequences"))) {}

size_t CudaStateCache::block_bytes(const CacheGroupSpec& spec) {
  const RecurrentLayout of_layer = layout(spec);
  return bytes(spec.layers * (of_layer.block + of_layer.slot));
}

RecurrentCacheView CudaStateCache::view(int64_t layer) const {
  return {.layout = layout_,
          .blocks = reinterpret_cast<float*>(states_.data()) + layer * blocks_ * layout_.block,
          .slots = reinterpret_cast<float*>(chunks_.data()) + layer * blocks_ * layout_.slot};
}

}  // namespace qwen::cuda
