// The cache of recurrent states on the device (recurrent.h has the inside of a block and of a slot).
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "backend/cuda/device.h"
#include "backend/cuda/recurrent.h"

namespace qwen::cuda {

// Two planes, blocks and slots, each [layer][blocks]. What nobody wrote is never read.
class CudaStateCache final : public CacheStorage {
 public:
  CudaStateCache(const Device& device, const CacheGroupSpec& spec, int64_t blocks);

  static size_t block_bytes(const CacheGroupSpec& spec);  // of a block and a slot, in all layers
  RecurrentCacheView view(int64_t layer) const;

 private:
  RecurrentLayout layout_;
  int64_t blocks_;
  Memory states_, chunks_;
};

}  // namespace qwen::cuda
