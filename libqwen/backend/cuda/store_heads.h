// All that stands between q, k, v and attention, as Backend::store_heads() has it: every head of q and k is normalised, if there are
// norms, and rotated, if there are angles, with the bits of rms_norm() and of rotate(); q stays where it is, k and v go to the cache.
#pragma once

#include <cstdint>

#include "backend/cuda/device.h"
#include "backend/cuda/paged.h"

namespace qwen::cuda {

struct StoreHeadsArgs {
  PagedRows batch;
  PagedCacheView cache;
  int64_t heads = 0;              // of q; 0: there is none
  float* q = nullptr;             // [rows, heads * head_dim], in place
  const float* k = nullptr;       // [rows, kv_heads * head_dim]
  const float* v = nullptr;       // likewise
  const float* q_norm = nullptr;  // [head_dim], null: none
  const float* k_norm = nullptr;
  float eps = 0;
  const float* angles = nullptr;  // [rows, 2 * half] cosines, sines
  int64_t half = 0;               // pairs (i, i + half) of a head are rotated; 0: none
};
void store_heads(Stream& stream, const StoreHeadsArgs& args);

}  // namespace qwen::cuda
