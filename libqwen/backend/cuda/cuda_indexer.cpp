// CudaBackend's attention to what an indexer picks. Which rows pick at all hangs on their positions: the device sees to it, row by row,
// and what is launched hangs on how many rows there are and how long the longest sequence may be. So a step of generating can be
// replayed (cuda_step.cpp) while its sequences grow beyond what they see all of.
#include <algorithm>

#include "backend/cuda/cuda_backend.h"

namespace qwen::cuda {
namespace {

// Whether one of the rows [first, first + count) may be at `position` or behind it. Of a step that may be captured the host must not
// look at more than its shape.
bool may_reach(const Batch& batch, int64_t first, int64_t count, int64_t position) {
  if (batch.token_ids.size() == batch.sequences.size()) return true;
  return std::ranges::any_of(batch.sequences, [&](const SequenceRows& sequence) {
    const int64_t rows = std::min<int64_t>(sequence.row_count, first + count - sequence.first_row);
    return rows > 0 && sequence.first_row + rows > first && sequence.context_length + rows > position;
  });
}

}  // namespace

void CudaBackend::store_index_keys(CacheStorage& storage, const Batch& batch, const AttentionArgs& args,
                                   const IndexerArgs& indexer, Rows keys, Rows angles) {
  counted(Op::indexer, Element::f32);
  const auto& cache = static_cast<const CudaCache&>(storage);
  cuda::store_index_keys(*stream_, {.batch = arrays_of(batch).paged(args.group),
                                    .shape = indexer.shape,
                                    .index = cache.index(args.layer),
                                    .keys = static_cast<const float*>(keys.data),
                                    .angles = static_cast<const float*>(angles.data),
                                    .norm = own(indexer.key_norm).floats(),
                                    .eps = indexer.eps});
}

void CudaBackend::indexed_attention(const CacheStorage& storage, const Batch& batch,
                                    const AttentionArgs& args, const IndexerArgs& indexer, Rows index_q,
                                    Rows q, Rows out) {
  const auto& cache = static_cast<const CudaCache&>(storage);
  const IndexerShape& shape = indexer.shape;
  const int64_t tiling = args.heads / args.kv_heads, border = picks_from(shape);
  const StepArrays& arrays = arrays_of(batch, tiling);
  const PagedRows all = arrays.paged(args.group);
  const PagedCacheView from = view(cache, args.layer);
  attend({.rows = all,
          .end = border,
          .tiles = arrays.tiles(tiling),
          .most_positions = std::min(border, arrays.most_positions())},
         from, args, q, out);
  if (arrays.most_positions() <= border) return;

  // So many rows at a time as their own caches may take.
  constexpr size_t kMostGathered = size_t{256} << 20;
  const int64_t blocks = gathered_blocks(shape);
  const size_t plane_bytes =
      static_cast<size_t>(blocks * cache_block_elements(args.kv_heads, args.head_dim)) *
      element_bytes(cache.element());
  const auto at_once =
      std::clamp<int64_t>(static_cast<int64_t>(kMostGathered / (2 * plane_bytes)), 1, all.rows);
  auto* const gathered = static_cast<std::byte*>(gathered_.get(
      device_, *stream_, static_cast<size_t>(at_once) * 2 * plane_bytes, "positions that an indexer picks"));
  PagedCacheView to = from;
  to.keys = gathered;
  to.values = gathered + static_cast<size_t>(at_once) * plane_bytes;
  PickArgs pick{.shape = shape,
                .batch = all,
                .most_groups = arrays.most_positions() / shape.ratio,
                .index = cache.index(args.layer),
                .queries = static_cast<const float*>(index_q.data)};
  pick.to.tiles_each = attention_tiles(tiling);
  size_t bytes = 0;
  const auto lay_out = [&](std::byte* memory) {
    bytes = 0;
    const auto place = [&]<class T>(T*& array, int64_t of_row) {
      array = reinterpret_cast<T*>(memory + bytes);
      bytes += static_cast<size_t>(at_once * of_row) * sizeof(T);
    };
    place(pick.scores, pick.most_groups);
    place(pick.to.groups, shape.budget / shape.ratio);
    place(pick.to.sequences, 1);
    place(pick.to.row_sequence, 1);
    place(pick.to.tables, blocks);
    place(pick.to.tiles, pick.to.tiles_each);
  };
  lay_out(nullptr);
  lay_out(static_cast<std::byte*>(picks_.get(device_, *stream_, bytes, "what an indexer picks")));
  AttentionArgs every = args;
  every.window = 0;
  for (pick.first = 0; pick.first < all.rows; pick.first += at_once) {
    pick.count = std::min(at_once, all.rows - pick.first);
    if (!may_reach(batch, pick.first, pick.count, border)) continue;
    counted(Op::indexer, cache.element());
    pick_groups(*stream_, pick);
    gather_positions(*stream_, {.shape = shape,
                                .batch = all,
                                .first = pick.first,
                                .count = pick.count,
                                .groups = pick.to.groups,
                                .from = from,
                                .to = to});
    attend({.rows = {.sequences = pick.to.sequences,
                     .row_sequence = pick.to.row_sequence,
                     .tables = pick.to.tables,
                     .rows = pick.count},
            .tiles = {pick.to.tiles, pick.count * pick.to.tiles_each},
            .most_positions = border},
           to, every, q.part(pick.first, pick.count), out.part(pick.first, pick.count));
  }
}

}  // namespace qwen::cuda
