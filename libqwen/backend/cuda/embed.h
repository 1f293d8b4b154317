// Where the rows of a step begin: out[r] = table[ids[r]] as float32, and ids that were sampled in the step before.
#pragma once

#include <cstdint>

#include "backend/cuda/device.h"
#include "backend/cuda/element.h"
#include "backend/cuda/paged.h"
#include "backend/ngrams.h"

namespace qwen::cuda {

struct EmbedArgs {
  const void* table = nullptr;  // [entries, width]
  Element element = Element::f32;
  const int32_t* ids = nullptr;  // [rows]
  int64_t rows = 0;
  int64_t width = 0;
  float* out = nullptr;  // [rows, width]
};
void embed(Stream& stream, const EmbedArgs& args);

// Of a table cut into shards of equally many entries those that ngram_row() names: entry i is in shard i / shard_entries at
// i % shard_entries. All arrays are in device memory.
struct NgramEmbedArgs {
  const void* const* shards = nullptr;
  int64_t shard_entries = 0;
  Element element = Element::f32;
  NgramNumbers numbers;
  PagedRows batch;               // of which group does not matter
  const int32_t* ids = nullptr;  // [rows]
  const int32_t* tails =
      nullptr;  // [sequences, tail] tokens before its rows, the last one first; -1: the text begins behind it
  int64_t tail = 0;  // at least numbers.tokens() - 1
  int64_t width = 0;
  float* out = nullptr;  // [rows, heads, width]
};
void embed_ngrams(Stream& stream, const NgramEmbedArgs& args);

// ids[r] = sampled[from[r]] where from[r] is not -1.
struct TakeIdsArgs {
  const int32_t* from = nullptr;  // [rows]
  const int32_t* sampled = nullptr;
  int64_t rows = 0;
  int32_t* ids = nullptr;  // [rows]
};
void take_ids(Stream& stream, const TakeIdsArgs& args);

}  // namespace qwen::cuda
