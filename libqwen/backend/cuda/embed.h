// Where the rows of a step begin: out[r] = table[ids[r]] as float32, and ids that were sampled in the step before.
#pragma once

#include <cstdint>

#include "backend/cuda/device.h"
#include "backend/cuda/element.h"

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

// The same of a table cut into shards of equally many entries: id / shard_entries says which, id % shard_entries where in it.
struct ShardedEmbedArgs {
  const void* const* shards = nullptr;  // the array is in device memory too
  int64_t shard_entries = 0;
  Element element = Element::f32;
  const int64_t* ids = nullptr;  // [rows]
  int64_t rows = 0;
  int64_t width = 0;
  float* out = nullptr;  // [rows, width]
};
void embed(Stream& stream, const ShardedEmbedArgs& args);

// ids[r] = sampled[from[r]] where from[r] is not -1.
struct TakeIdsArgs {
  const int32_t* from = nullptr;  // [rows]
  const int32_t* sampled = nullptr;
  int64_t rows = 0;
  int32_t* ids = nullptr;  // [rows]
};
void take_ids(Stream& stream, const TakeIdsArgs& args);

}  // namespace qwen::cuda
