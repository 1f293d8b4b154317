// How much memory the cache of an engine takes.
#pragma once

#include "backend/backend.h"
#include "base/options.h"
#include "engine/paged_cache.h"
#include "model/model.h"

namespace qwen {

// kv_cache_bytes shared out, or the default that the options table promises. Throws Error: invalid_argument (kv_cache_bytes is too
// little for anything), out_of_memory (a GPU has not room for one block).
CacheSizes cache_sizes(const Options& options, const Model& model, int64_t context_length,
                       const Backend& backend);
int64_t cache_bytes(const Model& model, const Backend& backend, CacheSizes sizes);

// Throws Error(out_of_memory) where an engine's cache would not hold kv_cache_bytes, or 4,096 tokens.
void check_cache_room(const Options& options, const Model& model, const Backend& backend);

}  // namespace qwen
