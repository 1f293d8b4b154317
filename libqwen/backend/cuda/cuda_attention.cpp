// CudaBackend's operations on the cache: where a step's rows are in it.
#include <algorithm>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/store_heads.h"

namespace qwen::cuda {

CudaBackend::GroupArrays& CudaBackend::arrays_of(int64_t group) {
  const auto index = static_cast<size_t>(group);
  if (groups_.size() <= index) groups_.resize(index + 1);
  if (!groups_[index]) groups_[index] = std::make_unique<GroupArrays>();
  return *groups_[index];
}

PagedRows CudaBackend::paged_rows(const Batch& batch, int64_t group) {
  sequences_.clear();
  row_sequence_.clear();
  tables_.clear();
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const SequenceRows& sequence = batch.sequences[s];
    const std::span<const int32_t> table = sequence.block_tables[static_cast<size_t>(group)];
    sequences_.push_back({.first_row = sequence.first_row,
                          .row_count = sequence.row_count,
                          .context_length = sequence.context_length,
                          .table = static_cast<int32_t>(tables_.size())});
    row_sequence_.insert(row_sequence_.end(), static_cast<size_t>(sequence.row_count),
                         static_cast<int32_t>(s));
    tables_.insert(tables_.end(), table.begin(), table.end());
  }
  GroupArrays& arrays = arrays_of(group);
  return {.sequences = put(arrays.sequences, std::span<const PagedSequence>(sequences_)),
          .row_sequence = put(arrays.row_sequence, std::span<const int32_t>(row_sequence_)),
          .tables = put(arrays.tables, std::span<const int32_t>(tables_)),
          .rows = static_cast<int64_t>(row_sequence_.size())};
}

PagedCacheView CudaBackend::view(const CudaCache& cache, int64_t layer) const {
  return {.keys = cache.keys(layer),
          .values = cache.values(layer),
          .element = cache.element(),
          .kv_heads = cache.spec().kv_heads,
          .head_dim = cache.spec().head_dim,
          .width = cache_width(cache.spec().head_dim)};
}

void CudaBackend::store_heads(CacheStorage& storage, const Batch& batch, const AttentionArgs& args,
                              const HeadNorms& norms, Rows angles, Rows q, Rows k, Rows v) {
  const auto& cache = static_cast<const CudaCache&>(storage);
  counted(Op::store_kv, cache.element());
  if (norms.q != nullptr) counted(Op::rms_norm, Element::f32);
  if (angles.width > 0) counted(Op::rope, Element::f32);
  cuda::store_heads(*stream_, {.batch = paged_rows(batch, args.group),
                               .cache = view(cache, args.layer),
                               .heads = q.width / args.head_dim,
                               .q = static_cast<float*>(q.data),
                               .k = static_cast<const float*>(k.data),
                               .v = static_cast<const float*>(v.data),
                               .q_norm = norms.q != nullptr ? own(*norms.q).floats() : nullptr,
                               .k_norm = norms.k != nullptr ? own(*norms.k).floats() : nullptr,
                               .eps = norms.eps,
                               .angles = static_cast<const float*>(angles.data),
                               .half = angles.width / 2});
}

void CudaBackend::attention(const CacheStorage& storage, const Batch& batch, const AttentionArgs& args,
                            Rows q, Rows out) {
  const auto& cache = static_cast<const CudaCache&>(storage);
  attend(paged_rows(batch, args.group), view(cache, args.layer), args, q, out, arrays_of(args.group).tiles);
}

// Of sequences_.
void CudaBackend::attend(const PagedRows& rows, const PagedCacheView& cache, const AttentionArgs& args,
                         Rows q, Rows out, HostArray& tiles) {
  counted(Op::attention, cache.element);
  list_attention_tiles(sequences_, args.heads / args.kv_heads, tiles_);
  int64_t most_positions = 0;
  for (const PagedSequence& sequence : sequences_)
    most_positions = std::max<int64_t>(most_positions, sequence.context_length + sequence.row_count);
  // Where many rows fill the GPU anyway, no walk need be split.
  constexpr int64_t kMostScratch = int64_t{16} << 20;  // floats
  int64_t floats = attention_scratch_floats(rows.rows, args.heads, args.head_dim, most_positions);
  if (floats > kMostScratch) floats = 0;
  void* const scratch = floats == 0
                            ? nullptr
                            : attention_.get(device_, *stream_, static_cast<size_t>(floats) * sizeof(float),
                                             "partial results of attention");
  paged_attention(*stream_, {.batch = rows,
                             .cache = cache,
                             .q = static_cast<const float*>(q.data),
                             .heads = args.heads,
                             .window = args.window,
                             .scale = args.scale,
                             .tiles = put(tiles, std::span<const AttentionTile>(tiles_)),
                             .tile_count = static_cast<int64_t>(tiles_.size()),
                             .most_positions = most_positions,
                             .scratch = static_cast<float*>(scratch),
                             .scratch_floats = floats,
                             .out = out.data,
                             .out_element = out.form == Form::operand ? Element::bf16 : Element::f32,
                             .multiprocessors = device_.info().multiprocessors});
}

}  // namespace qwen::cuda
