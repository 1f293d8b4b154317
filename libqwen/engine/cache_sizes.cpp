#include "engine/cache_sizes.h"

#include <algorithm>

#include "base/error.h"

namespace qwen {
namespace {

constexpr int64_t kUsualTokens = 4096;  // of a request

int64_t blocks_for(int64_t tokens) {
  return (tokens + kCacheBlock - 1) / kCacheBlock;
}

// What one block takes in all groups of keys and values, and one state in all groups of recurrent states.
struct UnitBytes {
  int64_t block = 0, state = 0;
};

UnitBytes unit_bytes(const Model& model, const Backend& backend) {
  UnitBytes bytes;
  for (const CacheGroupSpec& group : model.cache_groups())
    (group.recurrent() ? bytes.state : bytes.block) += static_cast<int64_t>(backend.cache_block_bytes(group));
  return bytes;
}

// The activations of the largest step, as float32: what goes into a layer's matrices and comes out of them, a mixture's experts
// besides; the residual stream; the logits of whoever generates. Half as much again for what stands beside these.
int64_t step_bytes(const Options& options, const Model& model) {
  const ModelConfig& config = model.config();
  int64_t widths = 4 * config.hidden_width(0);
  for (const LinearShape& linear : model.linears())
    widths += (linear.in + linear.out + config.num_hidden_layers - 1) / config.num_hidden_layers;
  if (config.moe)
    widths += config.moe->num_experts_per_tok * (config.moe->moe_intermediate_size + config.hidden_size) +
              2 * config.moe->num_experts;
  const int64_t rows = options.i64_or_default("max_batch_tokens"),
                generating = std::min(rows, options.i64_or_default("max_running"));
  return static_cast<int64_t>(sizeof(float)) * 3 / 2 * (rows * widths + generating * config.vocab_size);
}

}  // namespace

// A sequence takes two states while it goes from one chunk to the next, so more than two for each that may run are of no use but as
// snapshots.
CacheSizes cache_sizes(const Options& options, const Model& model, int64_t context_length,
                       const Backend& backend) {
  const UnitBytes bytes = unit_bytes(model, backend);
  const int64_t max_running = options.i64_or_default("max_running");
  const int64_t wanted = options.i64_or_default("kv_cache_bytes");
  CacheSizes sizes;
  if (wanted > 0) {
    if (bytes.state > 0) sizes.states = std::clamp<int64_t>(wanted / 2 / bytes.state, 2, 4 * max_running);
    sizes.blocks = (wanted - sizes.states * bytes.state) / bytes.block;
    if (sizes.blocks < 1)
      fail(Status::invalid_argument, "option 'kv_cache_bytes' is ", wanted, "; one block of ", kCacheBlock,
           " tokens takes ", bytes.block, " bytes",
           bytes.state > 0 ? cat(" and two recurrent states take ", 2 * bytes.state) : "");
    return sizes;
  }
  const CacheRoom room = backend.cache_room(step_bytes(options, model));
  const int64_t requests = room.own ? max_running : 4, most_states = room.own ? 2 * max_running : 32;
  if (bytes.state > 0)
    sizes.states = std::clamp<int64_t>(room.bytes > 0 ? room.bytes / 4 / bytes.state : most_states, 2,
                                       std::max<int64_t>(2, most_states));
  const int64_t affordable = (room.bytes - sizes.states * bytes.state) / bytes.block;
  const int64_t generous = blocks_for(std::max(context_length, requests * kUsualTokens));
  if (affordable < 1 && room.own)
    fail(Status::out_of_memory, "a cache of one block of ", kCacheBlock, " tokens takes ",
         bytes.block + sizes.states * bytes.state, " bytes; the GPU has room for ", room.bytes,
         " beside the weights and the activations of a step");
  sizes.blocks = affordable > 0 ? std::min(generous, affordable) : generous;
  return sizes;
}

int64_t cache_bytes(const Model& model, const Backend& backend, CacheSizes sizes) {
  const UnitBytes bytes = unit_bytes(model, backend);
  return sizes.blocks * bytes.block + sizes.states * bytes.state;
}

void check_cache_room(const Options& options, const Model& model, const Backend& backend) {
  const int64_t tokens = std::min(kUsualTokens, model.config().context_length());
  const int64_t wanted = options.i64_or_default("kv_cache_bytes");
  const UnitBytes bytes = unit_bytes(model, backend);
  const int64_t needed = wanted > 0 ? wanted : blocks_for(tokens) * bytes.block + 2 * bytes.state;
  const int64_t room = backend.cache_room(step_bytes(options, model)).bytes;
  if (needed > room)
    fail(Status::out_of_memory, "a cache of ", needed, " bytes",
         wanted > 0 ? "" : cat(" (", tokens, " tokens)"),
         " has no room beside the weights and the activations of a step: ", room, " bytes are left");
}

}  // namespace qwen
