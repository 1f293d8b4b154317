// The CPU's memory for linear attention: recurrent states, which never change once written, and the rows of each running
// sequence's current chunk. All float32, whatever the precision: an error in a state would stay in it.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "backend/cpu/cpu_memory.h"
#include "backend/cpu/kernels.h"

namespace qwen::cpu {

class CpuStateCache final : public CacheStorage {
 public:
  // The convolution's inputs of the latest positions of a chunk are kept in a ring: those that it needs, and a few more,
  // so that a few positions can be taken back.
  static constexpr int64_t kRing = 16;

  CpuStateCache(const CacheGroupSpec& spec, int64_t blocks);
  static size_t block_bytes(const CacheGroupSpec& spec);

  // Of a block, the state at its position, in one layer: S [value_heads][key_dim][value width], and the convolution's
  // inputs of the conv_kernel - 1 positions before, oldest first [conv_kernel - 1][channels].
  float* state(int64_t layer, int64_t block, int64_t value_head) const;
  float* window(int64_t layer, int64_t block) const;
  // Of a slot, in one layer: the chunk's keys, transposed [key_dim][kChunk]; what the rule corrected its values to
  // [kChunk][value width]; the sums of the logarithms of its decays [kChunk]; position p's input of the convolution.
  float* keys(int64_t layer, int64_t slot, int64_t key_head) const;
  float* corrected(int64_t layer, int64_t slot, int64_t value_head) const;
  float* log_decay(int64_t layer, int64_t slot, int64_t value_head) const;
  float* ring(int64_t layer, int64_t slot, int64_t position) const;

  int64_t value_width() const { return padded_head_dim(shape_.value_dim); }

 private:
  // Floats of one layer, and where in it the parts begin that follow the first one.
  struct Layout {
    explicit Layout(const GatedDeltaShape& shape);
    int64_t block = 0, window = 0;                             // S first
    int64_t slot = 0, corrected = 0, log_decay = 0, ring = 0;  // keys first
  };
  float* block(int64_t layer, int64_t index) const;
  float* slot(int64_t layer, int64_t index) const;

  GatedDeltaShape shape_;
  Layout layout_;
  int64_t blocks_;
  Mapping states_, chunks_;
};

}  // namespace qwen::cpu
