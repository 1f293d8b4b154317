// CudaBackend's operations on the cache: where a step's rows are in it.
#include <algorithm>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/store_heads.h"

namespace qwen::cuda {

const StepArrays& CudaBackend::arrays_of(const Batch& batch, int64_t tiling) {
  if (tiling > 0 && std::ranges::count(tilings_, tiling) == 0) {
    tilings_.push_back(tiling);
    graphs_are_void_ = true;  // what follows the tiles in StepArrays moves
  }
  if (step_.are_of(batch)) {
    if (tiling > 0 && step_.tiles(tiling).data == nullptr) put_step(batch);
    return step_;
  }
  repeats_ = false;
  other_.put(device_, *stream_, batch, tilings_);
  return other_;
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
  cuda::store_heads(*stream_, {.batch = arrays_of(batch).paged(args.group),
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
  const int64_t tiling = args.heads / args.kv_heads;
  const StepArrays& arrays = arrays_of(batch, tiling);
  attend({.rows = arrays.paged(args.group),
          .tiles = arrays.tiles(tiling),
          .most_positions = arrays.most_positions()},
         view(static_cast<const CudaCache&>(storage), args.layer), args, q, out);
}

void CudaBackend::attend(const AttendedRows& rows, const PagedCacheView& cache, const AttentionArgs& args,
                         Rows q, Rows out) {
  counted(Op::attention, cache.element);
  // Where many rows fill the GPU anyway, no walk need be split.
  constexpr int64_t kMostScratch = int64_t{16} << 20;  // floats
  int64_t floats = attention_scratch_floats(rows.rows.rows, args.heads, args.head_dim, rows.most_positions);
  if (floats > kMostScratch) floats = 0;
  void* const scratch = floats == 0
                            ? nullptr
                            : attention_.get(device_, *stream_, static_cast<size_t>(floats) * sizeof(float),
                                             "partial results of attention");
  paged_attention(*stream_, {.batch = rows.rows,
                             .end = rows.end,
                             .cache = cache,
                             .q = static_cast<const float*>(q.data),
                             .heads = args.heads,
                             .window = args.window,
                             .scale = args.scale,
                             .tiles = rows.tiles.data,
                             .tile_count = rows.tiles.count,
                             .most_positions = rows.most_positions,
                             .scratch = static_cast<float*>(scratch),
                             .scratch_floats = floats,
                             .out = out.data,
                             .out_element = out.form == Form::operand ? Element::bf16 : Element::f32,
                             .multiprocessors = device_.info().multiprocessors});
}

}  // namespace qwen::cuda
