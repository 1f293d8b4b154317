// Linear attention: the short convolution and the gated delta rule, chunk by chunk as Backend::convolution() and gated_delta() have
// them. A row's position alone decides the order of its sums: states advance at multiples of kStateChunk only, and every row is
// evaluated from the state there and the rows of its chunk before it.
//
// The memory of a layer is that of the CPU's (cpu_state_cache.h): blocks, which never change once written, and slots with the rows of
// each running sequence's current chunk. All float32.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/batch.h"
#include "backend/cuda/device.h"
#include "backend/cuda/paged.h"
#include "checkpoint/gated_delta_shape.h"

namespace qwen::cuda {

// Entry c of its table: the state at c * kStateChunk, -1: none is kept.
using RecurrentSequence = PagedSequence;

// All of it in device memory.
struct RecurrentRows {
  const RecurrentSequence* sequences = nullptr;
  int64_t sequence_count = 0;
  const int32_t* row_sequence = nullptr;  // [rows]
  const int32_t* tables = nullptr;
  int64_t rows = 0;
};

// Where parts of a block and of a slot are, in floats.
struct RecurrentLayout {
  int64_t channels = 0, kernel = 0, dilation = 1;  // of the convolution
  GatedDeltaShape shape;                           // all 0: a convolution alone

  RecurrentLayout() = default;
  RecurrentLayout(const GatedDeltaShape& shape, int64_t channels, int64_t kernel, int64_t dilation)
      : channels(channels), kernel(kernel), dilation(dilation), shape(shape) {
    window_inputs = (kernel - 1) * dilation;
    ring_inputs = std::max<int64_t>(16, window_inputs + 7);  // a few positions may be taken back
    window = shape.value_heads * shape.key_dim * shape.value_dim;
    block = window + window_inputs * channels;
    corrected = shape.key_heads * kStateChunk * shape.key_dim;
    log_decay = corrected + shape.value_heads * kStateChunk * shape.value_dim;
    ring = log_decay + shape.value_heads * kStateChunk;
    slot = ring + ring_inputs * channels;
  }
  int64_t window_inputs = 0, ring_inputs = 0;  // of the convolution, kept at a state and in a slot
  // Block: states [value_heads][key_dim][value_dim], then the window, oldest first [window_inputs][channels].
  int64_t block = 0, window = 0;
  // Slot: keys [key_heads][kStateChunk][key_dim], corrected values [value_heads][kStateChunk][value_dim], sums of logarithms of
  // decays [value_heads][kStateChunk], position p's input of the convolution at p % ring_inputs [ring_inputs][channels].
  int64_t slot = 0, corrected = 0, log_decay = 0, ring = 0;
};

// One layer's.
struct RecurrentCacheView {
  RecurrentLayout layout;
  float* blocks = nullptr;  // [blocks][layout.block]
  float* slots = nullptr;   // [slots][layout.slot]
};

// out[t] = silu(sum over j of weight[j] * x[t - (kernel - 1 - j) * dilation]) per channel; and keeps what later steps read.
struct ConvolveArgs {
  RecurrentRows batch;
  RecurrentCacheView cache;
  const float* x = nullptr;       // [rows, channels]
  const float* weight = nullptr;  // [kernel, channels]
  float* out = nullptr;           // [rows, channels], not x
};
void convolve(Stream& stream, const ConvolveArgs& args);

struct DeltaRuleArgs {
  RecurrentRows batch;
  RecurrentCacheView cache;
  const float* qkv = nullptr;      // [rows, channels]
  const float* beta = nullptr;     // [rows, value_heads]
  const float* decay = nullptr;    // [rows, value_heads]
  const float* a_log = nullptr;    // [value_heads]
  const float* dt_bias = nullptr;  // [value_heads]
  float* scratch = nullptr;        // delta_rule_scratch_floats()
  float* out = nullptr;            // [rows, value_heads * value_dim]
};
void delta_rule(Stream& stream, const DeltaRuleArgs& args);
// Of the rows their keys, queries, decays and betas; of the sequences states between chunks that nobody keeps.
inline int64_t delta_rule_scratch_floats(const GatedDeltaShape& s, int64_t rows, int64_t sequences) {
  return rows * 2 * (s.key_heads * s.key_dim + s.value_heads) +
         sequences * s.value_heads * s.key_dim * s.value_dim;
}

}  // namespace qwen::cuda
