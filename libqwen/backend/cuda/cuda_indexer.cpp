// CudaBackend's attention to what an indexer picks. Which rows pick at all hangs on their positions, which the host knows; what they
// pick stays on the device.
#include <algorithm>
#include <numeric>

#include "backend/cuda/cuda_backend.h"

namespace qwen::cuda {

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
  const int64_t budget_groups = shape.budget / shape.ratio;
  const int64_t sees_all = (budget_groups + 1) * shape.ratio - 1;  // up to here a row picks all there is
  const StepArrays& arrays = arrays_of(batch);
  const PagedRows all = arrays.paged(args.group);
  sequences_.assign(arrays.sequences(args.group).begin(), arrays.sequences(args.group).end());
  row_sequence_.assign(arrays.row_sequence().begin(), arrays.row_sequence().end());
  sparse_rows_.clear();
  int64_t most_groups = 0;
  for (PagedSequence& sequence : sequences_) {
    const int32_t end = sequence.context_length + sequence.row_count;
    const auto first = static_cast<int32_t>(std::clamp<int64_t>(sees_all, sequence.context_length, end));
    for (int32_t position = first; position < end; ++position) {
      const int32_t row = sequence.first_row + position - sequence.context_length;
      sparse_rows_.push_back({.row = row, .position = position, .table = sequence.table});
      row_sequence_[static_cast<size_t>(row)] = -1;
      most_groups = std::max(most_groups, (int64_t{position} + 1) / shape.ratio);
    }
    sequence.row_count = first - sequence.context_length;
  }
  const PagedCacheView from = view(cache, args.layer);
  if (static_cast<int64_t>(sparse_rows_.size()) < all.rows) attend(dense_, all.tables, from, args, q, out);
  if (sparse_rows_.empty()) return;

  // So many rows at a time as their own caches may take.
  constexpr size_t kMostGathered = size_t{256} << 20;
  const int64_t blocks = gathered_blocks(shape);
  const size_t plane_bytes =
      static_cast<size_t>(blocks * cache_block_elements(args.kv_heads, args.head_dim)) *
      element_bytes(cache.element());
  const size_t at_once = std::clamp<size_t>(kMostGathered / (2 * plane_bytes), 1, sparse_rows_.size());
  auto* const gathered = static_cast<std::byte*>(
      gathered_.get(device_, *stream_, at_once * 2 * plane_bytes, "positions that an indexer picks"));
  auto* const scores = static_cast<float*>(picks_.get(
      device_, *stream_, at_once * static_cast<size_t>(most_groups + budget_groups) * sizeof(float),
      "what an indexer picks"));
  auto* const picked = reinterpret_cast<int32_t*>(scores + at_once * static_cast<size_t>(most_groups));
  PagedCacheView to = from;
  to.keys = gathered;
  to.values = gathered + at_once * plane_bytes;
  AttentionArgs every = args;
  every.window = 0;
  tables_.resize(at_once * static_cast<size_t>(blocks));
  std::iota(tables_.begin(), tables_.end(), 0);
  for (size_t first = 0; first < sparse_rows_.size(); first += at_once) {
    counted(Op::indexer, cache.element());
    const auto some = std::span<const SparseRow>(sparse_rows_)
                          .subspan(first, std::min(at_once, sparse_rows_.size() - first));
    const SparseRow* const rows = put(sparse_, some);
    const auto count = static_cast<int64_t>(some.size());
    pick_groups(*stream_, {.shape = shape,
                           .rows = rows,
                           .count = count,
                           .most_groups = most_groups,
                           .tables = all.tables,
                           .index = cache.index(args.layer),
                           .queries = static_cast<const float*>(index_q.data),
                           .scores = scores,
                           .picked = picked});
    gather_positions(*stream_, {.shape = shape,
                                .rows = rows,
                                .count = count,
                                .tables = all.tables,
                                .picked = picked,
                                .from = from,
                                .to = to});
    sequences_.clear();
    std::ranges::fill(row_sequence_, -1);
    for (const SparseRow& sparse : some) {
      row_sequence_[static_cast<size_t>(sparse.row)] = static_cast<int32_t>(sequences_.size());
      sequences_.push_back(
          {.first_row = sparse.row,
           .row_count = 1,
           .context_length = static_cast<int32_t>(gathered_positions(shape, sparse.position) - 1),
           .table = static_cast<int32_t>(sequences_.size() * static_cast<size_t>(blocks))});
    }
    attend(picked_, put(picked_.tables, std::span<const int32_t>(tables_)), to, every, q, out);
  }
}

}  // namespace qwen::cuda
