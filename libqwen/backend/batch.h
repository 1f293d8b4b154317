// What one step computes: a ragged batch of rows. Rows of many sequences, prompt chunks and single generated tokens
// lie side by side without padding; one request alone is a batch of one.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace qwen {

// Positions of the key/value cache per block. Divides 64, the grid on which the hybrids' recurrent state advances.
// Attention walks the cache in these blocks from position 0, whatever the batch looks like.
inline constexpr int64_t kCacheBlock = 32;

// The recurrent state of linear attention advances in chunks of so many positions, and only there. Every row is evaluated from
// the state at its chunk's beginning and the chunk's rows before it, whether it came with a prompt or was generated.
inline constexpr int64_t kStateChunk = 64;

// One sequence's rows in the step. The rows' keys and values are stored before attention reads them.
struct SequenceRows {
  int32_t first_row = 0;
  int32_t row_count = 0;
  int32_t context_length =
      0;  // positions in the cache before this step; row i is position context_length + i
  // Per cache group, the sequence's own: block ids, entry b holds positions [b * kCacheBlock, (b + 1) * kCacheBlock). Blocks that have
  // left a sliding window may be -1; they are never read.
  // In a group of recurrent states entry c is the state at position c * kStateChunk, before that position's token; entry 0
  // is -1, for the state is zero there. Of the states that the step passes, those with a block are kept; the last one has.
  std::span<const std::vector<int32_t>> block_tables;
  int32_t state_slot =
      -1;  // where the rows of the sequence's current chunk are, -1: the model has no such groups
  // The sequence's tokens up to its last row of the step at least, from the first one on; lives as long as the step.
  std::span<const int32_t> tokens = {};
  int32_t rope_delta = 0;  // M-RoPE: offset of text positions after an image
};

struct Batch {
  std::vector<int32_t> token_ids;                 // [rows]
  std::vector<std::array<int32_t, 3>> positions;  // [rows] (t, h, w); text: the same number three times
  std::vector<int32_t> adapter_ids;               // [rows] LoRA adapter, 0: none
  std::vector<SequenceRows> sequences;            // in row order, covering all rows
  std::vector<int32_t> logit_rows;                // rows whose logits are wanted, ascending
  // [rows] or empty. A row's id may not be known here yet: it is then the one that Backend::sample() chose last for its argument number
  // ids_from[row], and token_ids[row] says nothing; -1: it is known. Only for a backend that works_behind().
  std::vector<int32_t> ids_from;
  // A row whose input is an embedding instead of token_ids[row] (images, audio) will have its place here.

  int64_t rows() const { return static_cast<int64_t>(token_ids.size()); }
};

}  // namespace qwen
