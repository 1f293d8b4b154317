// CpuBackend's cache operations: writing keys and values to their blocks, and cutting attention into items.
#include <algorithm>
#include <cstring>
#include <limits>
#include <new>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/tile_kernels.h"
#include "base/error.h"

namespace qwen::cpu {
namespace {

// Rows x query heads that one attention item holds at a time: enough to use a cache block many times once it
// is read, few enough that their partial results stay in L2 (128 x 128 floats are 64 KiB).
constexpr int64_t kQueriesPerItem = 128;

// A key or value becomes one row of its block, or one column.
template <class Element>
void store(const Element* vector, int64_t head_dim, int64_t slot, int64_t row_width, bool as_row,
           std::byte* block) {
  if (as_row) {
    std::memcpy(reinterpret_cast<Element*>(block) + slot * row_width, vector,
                static_cast<size_t>(head_dim) * sizeof(Element));
    return;
  }
  Element* const column = reinterpret_cast<Element*>(block) + slot;
  for (int64_t d = 0; d < head_dim; ++d) column[d * kCacheBlock] = vector[d];
}

}  // namespace

void CpuBackend::store_heads(CacheStorage& storage, const Batch& batch, const AttentionArgs& args,
                             const HeadNorms& norms, Rows angles, Rows q, Rows k, Rows v) {
  auto& cache = static_cast<CpuCache&>(storage);
  counted(Op::store_kv, cache.format());
  if (norms.q != nullptr) counted(Op::rms_norm, Format::f32);
  if (angles.width > 0) counted(Op::rope, Format::f32);
  const int64_t head_dim = args.head_dim, half = angles.width / 2;
  // In place: norm and rotation of a row's heads.
  const auto prepare = [&](const Rows& x, int64_t r, const Weight* norm) {
    const int64_t heads = x.width / head_dim;
    float* const first = row(x, r);
    for (int64_t h = 0; h < heads && norm != nullptr; ++h) {
      float* const head = first + h * head_dim;
      kernels_.rms_norm(head, own(*norm).floats(), norms.eps, head_dim, head);
    }
    if (half > 0) kernels_.rope(first, heads, head_dim, row(angles, r), row(angles, r) + half, half);
  };
  // As many rows as a block of the cache has: two threads at one block would take its lines from each other.
  list_items(batch, kCacheBlock, 1, std::numeric_limits<int64_t>::max());
  scratch(head_dim);
  pool_.for_each(static_cast<int64_t>(attention_items_.size()), [&](int64_t index, int worker) {
    const AttentionItem& item = attention_items_[static_cast<size_t>(index)];
    const SequenceRows& sequence = batch.sequences[static_cast<size_t>(item.sequence)];
    const int64_t first = sequence.first_row + item.first_row;
    for (int64_t r = first; r < first + item.rows; ++r) {
      if (q.width > 0) prepare(q, r, norms.q);
      prepare(k, r, norms.k);
    }
    auto* const narrowed = reinterpret_cast<uint16_t*>(worker_scratch(worker));
    const CacheLayout& layout = cache.layout();
    const int64_t row_width = layout.row_width(head_dim);
    const std::span<const int32_t> table = sequence.block_tables[static_cast<size_t>(args.group)];
    for (int64_t head = 0; head < args.kv_heads; ++head) {
      for (int64_t r = 0; r < item.rows; ++r) {
        const int64_t position = sequence.context_length + item.first_row + r, slot = position % kCacheBlock;
        const int64_t block = table[static_cast<size_t>(position / kCacheBlock)];
        const float* const key = row(k, first + r) + head * head_dim;
        const float* const value = row(v, first + r) + head * head_dim;
        std::byte* const keys = cache.keys(args.layer, block, head);
        std::byte* const values = cache.values(args.layer, block, head);
        if (layout.format == Format::f32) {
          store(key, head_dim, slot, row_width, layout.tiles, keys);
          store(value, head_dim, slot, row_width, !layout.tiles, values);
        } else {
          kernels_.narrow_bf16(key, head_dim, narrowed);
          store(narrowed, head_dim, slot, row_width, layout.tiles, keys);
          kernels_.narrow_bf16(value, head_dim, narrowed);
          store(narrowed, head_dim, slot, row_width, !layout.tiles, values);
        }
      }
    }
  });
}

int64_t CpuBackend::attention_floats(int64_t queries, int64_t head_dim) const {
  return has_tiles() ? tile_attention_bytes(queries, head_dim) / static_cast<int64_t>(sizeof(float))
                     : attention_scratch(1, queries, head_dim);
}

void CpuBackend::attend(const CpuCache& cache, const AttentionTask& task) const {
  if (cache.layout().tiles) return kernels_.tiles->attention(task);
  kernels_.attention[static_cast<int>(cache.format())](task);
}

// All rows at positions before `end`, some of a sequence at a time, for each head: head after head, so that its keys and values
// stay in a thread's cache. Later rows see more positions: listed last to first, what is left for the end are small items.
void CpuBackend::list_items(const Batch& batch, int64_t rows_per_item, int64_t heads, int64_t end) {
  attention_items_.clear();
  try {
    for (size_t s = 0; s < batch.sequences.size(); ++s) {
      const SequenceRows& sequence = batch.sequences[s];
      const int64_t rows = std::min<int64_t>(sequence.row_count, end - sequence.context_length);
      for (int64_t head = 0; head < heads; ++head) {
        for (int64_t piece = rows <= 0 ? -1 : (rows - 1) / rows_per_item; piece >= 0; --piece) {
          const int64_t first = piece * rows_per_item;
          attention_items_.push_back({static_cast<int32_t>(s), static_cast<int32_t>(head),
                                      static_cast<int32_t>(first),
                                      static_cast<int32_t>(std::min(rows_per_item, rows - first))});
        }
      }
    }
  } catch (const std::bad_alloc&) {
    fail(Status::out_of_memory, "cannot allocate the list of attention items of ", batch.rows(), " rows");
  }
}

void CpuBackend::attention(const CacheStorage& storage, const Batch& batch, const AttentionArgs& args, Rows q,
                           Rows out) {
  attend(static_cast<const CpuCache&>(storage), batch, args, std::numeric_limits<int64_t>::max(), q, out);
}

void CpuBackend::attend(const CpuCache& cache, const Batch& batch, const AttentionArgs& args, int64_t end,
                        Rows q, Rows out) {
  counted(Op::attention, cache.format());
  const int64_t query_heads = args.heads / args.kv_heads;
  const int64_t rows_per_item = std::max<int64_t>(1, kQueriesPerItem / query_heads);

  list_items(batch, rows_per_item, args.kv_heads, end);
  scratch(attention_floats(rows_per_item * query_heads, args.head_dim));
  const PackedRows packed = packed_rows(out);

  pool_.for_each(static_cast<int64_t>(attention_items_.size()), [&](int64_t index, int worker) {
    const AttentionItem& item = attention_items_[static_cast<size_t>(index)];
    const SequenceRows& sequence = batch.sequences[static_cast<size_t>(item.sequence)];
    const int64_t offset =
        (sequence.first_row + item.first_row) * q.width + item.head * query_heads * args.head_dim;
    attend(cache, {
                      .q = static_cast<const float*>(q.data) + offset,
                      .out = packed.data != nullptr ? nullptr : static_cast<float*>(out.data) + offset,
                      .packed = packed,
                      .packed_row = sequence.first_row + item.first_row,
                      .packed_input = item.head * query_heads * args.head_dim,
                      .row_stride = q.width,
                      .rows = item.rows,
                      .query_heads = query_heads,
                      .head_dim = args.head_dim,
                      .first_position = int64_t{sequence.context_length} + item.first_row,
                      .window = args.window,
                      .scale = args.scale,
                      .keys = cache.keys(args.layer, 0, item.head),
                      .values = cache.values(args.layer, 0, item.head),
                      .key_block_bytes = cache.key_block_bytes(),
                      .value_block_bytes = cache.value_block_bytes(),
                      .block_table = sequence.block_tables[static_cast<size_t>(args.group)].data(),
                      .scratch = worker_scratch(worker),
                  });
  });
}

}  // namespace qwen::cpu
