// CpuBackend's sparse attention: keys of groups of positions, which groups a row picks, and attention to those alone.
//
// What a row picked is gathered, in ascending order, into blocks of a small cache of its own, and goes through the attention
// kernels as if it were all there is. So a row that picks everything (all early ones) has the bits of plain attention over
// the cache where it lies, and need not be gathered; and every instruction set has its kernel and its one order of summation.
#include <algorithm>
#include <cstring>
#include <new>
#include <numeric>

#include "backend/cpu/cpu_backend.h"
#include "base/error.h"

namespace qwen::cpu {
namespace {

static_assert(kCacheBlock == 32, "checkpoint/qwen4_exp_config.cpp allows ratios that divide it");

int64_t pieces(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

int64_t whole_lines(int64_t floats) {
  constexpr int64_t kLine = kAlignment / sizeof(float);
  return pieces(floats, kLine) * kLine;
}

// Positions [from_slot, from_slot + count) of a block to those from to_slot on of another one; in columns or in rows.
template <class Element>
void copy_positions(const std::byte* from, int64_t from_slot, std::byte* to, int64_t to_slot, int64_t count,
                    int64_t head_dim, int64_t row_width, bool in_rows) {
  const auto* source = reinterpret_cast<const Element*>(from);
  auto* target = reinterpret_cast<Element*>(to);
  if (in_rows) {
    std::copy_n(source + from_slot * row_width, count * row_width, target + to_slot * row_width);
    return;
  }
  for (int64_t d = 0; d < head_dim; ++d)
    std::copy_n(source + d * kCacheBlock + from_slot, count, target + d * kCacheBlock + to_slot);
}

// A cache of one row's own: blocks 0, 1, … of one key/value head.
struct Gathered {
  const CpuCache& cache;
  std::byte* keys;
  std::byte* values;
  int64_t count = 0;  // positions so far

  // Positions [slot, slot + n) of a block, inside which they lie, as those of the target do.
  void append(int64_t layer, int64_t block, int64_t head, int64_t slot, int64_t n) {
    const auto to_block = static_cast<size_t>(count / kCacheBlock);
    const auto copy = [&](const std::byte* from, std::byte* to, bool in_rows) {
      const auto copy_elements =
          cache.format() == Format::f32 ? copy_positions<float> : copy_positions<uint16_t>;
      const int64_t head_dim = cache.spec().head_dim;
      copy_elements(from, slot, to, count % kCacheBlock, n, head_dim, cache.layout().row_width(head_dim),
                    in_rows);
    };
    copy(cache.keys(layer, block, head), keys + to_block * cache.key_bytes(), cache.layout().tiles);
    copy(cache.values(layer, block, head), values + to_block * cache.value_bytes(), !cache.layout().tiles);
    count += n;
  }
};

}  // namespace

void CpuBackend::store_index_keys(CacheStorage& storage, const Batch& batch, const AttentionArgs& args,
                                  const IndexerArgs& indexer, Rows keys, Rows angles) {
  counted(Op::indexer, Format::f32);
  const auto& cache = static_cast<const CpuCache&>(storage);
  const IndexerShape& shape = indexer.shape;
  const float* const norm = own(indexer.key_norm).floats();
  for (const SequenceRows& sequence : batch.sequences) {
    const std::span<const int32_t> table = sequence.block_tables[static_cast<size_t>(args.group)];
    const int64_t before = sequence.context_length, end = before + sequence.row_count;
    const auto block_of = [&](int64_t position) {
      return table[static_cast<size_t>(position / kCacheBlock)];
    };
    for (int64_t position = before; position < end; ++position) {
      const int64_t slot = position % kCacheBlock, r = sequence.first_row + position - before;
      std::copy_n(row(keys, r), shape.head_dim, cache.index_key(args.layer, block_of(position), slot));
      if (slot % shape.ratio != 0) continue;
      float* const group = cache.group_key(args.layer, block_of(position), slot / shape.ratio);
      std::copy_n(row(angles, r), angles.width, group + shape.head_dim);
    }
    const int64_t first_group = before / shape.ratio;
    const int64_t groups = end / shape.ratio - first_group;
    for_rows(groups, shape.head_dim * (shape.ratio + 4), [&](int64_t first, int64_t last) {
      for (int64_t group = first_group + first; group < first_group + last; ++group) {
        const int64_t position = group * shape.ratio, slot = position % kCacheBlock;
        const int64_t block = block_of(position);
        float* const key = cache.group_key(args.layer, block, slot / shape.ratio);
        for (int64_t d = 0; d < shape.head_dim; ++d) {
          double sum = 0;
          for (int64_t i = 0; i < shape.ratio; ++i)
            sum += double{cache.index_key(args.layer, block, slot + i)[d]};
          key[d] = static_cast<float>(sum / static_cast<double>(shape.ratio));
        }
        kernels_.rms_norm(key, norm, indexer.eps, shape.head_dim, key);
        const float* const cosines = key + shape.head_dim;
        const int64_t half = shape.rotary_dim / 2;
        kernels_.rope(key, 1, shape.head_dim, cosines, cosines + half, half);
      }
    });
  }
}

// Which groups the row at `position` picks, ascending. scratch: a score and an index for each group, and a block's products.
void CpuBackend::pick_groups(const CpuCache& cache, const SequenceRows& sequence, const AttentionArgs& args,
                             const IndexerShape& shape, int64_t position, const float* query, float* scratch,
                             std::span<int32_t> picked) const {
  const std::span<const int32_t> table = sequence.block_tables[static_cast<size_t>(args.group)];
  const int64_t groups = (position + 1) / shape.ratio, per_block = kCacheBlock / shape.ratio;
  float* const products = scratch;  // [heads][per_block]
  float* const scores = products + shape.heads * per_block;
  auto* const order = reinterpret_cast<int32_t*>(scores + groups);
  for (int64_t first = 0; first < groups; first += per_block) {
    const int64_t count = std::min(per_block, groups - first);
    const int64_t block = table[static_cast<size_t>(first / per_block)];
    LinearTask task = {.x = query, .x_stride = shape.head_dim, .rows = shape.heads};
    task.weight = reinterpret_cast<const std::byte*>(cache.group_key(args.layer, block, 0));
    task.weight_stride = shape.head_dim + shape.rotary_dim;
    task.outputs = count;
    task.k = shape.head_dim;
    task.out = products;
    task.out_stride = per_block;
    kernels_.linear[static_cast<int>(Format::f32)](task);
    for (int64_t i = 0; i < count; ++i) {
      float score = 0;
      for (int64_t h = 0; h < shape.heads; ++h) {
        const float product = products[h * per_block + i];
        score += product > 0 ? product : 0;  // NaN counts as 0: the scores have an order whatever the input
      }
      scores[first + i] = score;
    }
  }
  std::iota(order, order + groups, 0);
  const auto wanted = static_cast<int64_t>(picked.size());
  std::nth_element(order, order + wanted - 1, order + groups, [&](int32_t a, int32_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  });
  std::copy_n(order, wanted, picked.begin());
  std::sort(picked.begin(), picked.end());
}

void CpuBackend::indexed_attention(const CacheStorage& storage, const Batch& batch, const AttentionArgs& args,
                                   const IndexerArgs& indexer, Rows index_q, Rows q, Rows out) {
  const auto& cache = static_cast<const CpuCache&>(storage);
  const IndexerShape& shape = indexer.shape;
  const int64_t budget_groups = shape.budget / shape.ratio;
  // Up to here every row picks all there is.
  const int64_t sees_all = (budget_groups + 1) * shape.ratio - 1;
  attend(cache, batch, args, sees_all, q, out);

  int64_t longest = 0;
  sparse_rows_.clear();
  try {
    for (size_t s = 0; s < batch.sequences.size(); ++s) {
      const SequenceRows& sequence = batch.sequences[s];
      const int64_t end = int64_t{sequence.context_length} + sequence.row_count;
      longest = std::max(longest, end);
      // Last to first: the rows that have most to read are claimed first.
      for (int64_t position = end - 1; position >= std::max<int64_t>(sees_all, sequence.context_length);
           --position)
        sparse_rows_.push_back(
            {static_cast<int32_t>(s), static_cast<int32_t>(position - sequence.context_length)});
    }
    picked_.resize(sparse_rows_.size() * static_cast<size_t>(budget_groups));
  } catch (const std::bad_alloc&) {
    fail(Status::out_of_memory, "cannot allocate what the indexer picks for ", batch.rows(), " rows");
  }
  if (sparse_rows_.empty()) return;
  counted(Op::indexer, cache.format());
  const auto picked_by = [&](int64_t item) {
    return std::span(picked_).subspan(static_cast<size_t>(item * budget_groups),
                                      static_cast<size_t>(budget_groups));
  };

  scratch(shape.heads * kCacheBlock / shape.ratio + 2 * (longest / shape.ratio));
  const auto rows = static_cast<int64_t>(sparse_rows_.size());
  pool_.for_each(rows, [&](int64_t item, int worker) {
    const SparseRow& sparse = sparse_rows_[static_cast<size_t>(item)];
    const SequenceRows& sequence = batch.sequences[static_cast<size_t>(sparse.sequence)];
    pick_groups(cache, sequence, args, shape, sequence.context_length + sparse.row,
                row(index_q, sequence.first_row + sparse.row), worker_scratch(worker), picked_by(item));
  });

  const int64_t query_heads = args.heads / args.kv_heads;
  const int64_t blocks = pieces(shape.budget + shape.ratio - 1, kCacheBlock);
  const int64_t key_floats = blocks * cache.key_bytes() / sizeof(float);
  const int64_t value_floats = blocks * cache.value_bytes() / sizeof(float);
  const int64_t attention_floats = whole_lines(this->attention_floats(query_heads, args.head_dim));
  scratch(attention_floats + whole_lines(key_floats) + whole_lines(value_floats) + blocks);
  pool_.for_each(rows * args.kv_heads, [&](int64_t index, int worker) {
    const int64_t item = index / args.kv_heads, head = index % args.kv_heads;
    const SparseRow& sparse = sparse_rows_[static_cast<size_t>(item)];
    const SequenceRows& sequence = batch.sequences[static_cast<size_t>(sparse.sequence)];
    const std::span<const int32_t> table = sequence.block_tables[static_cast<size_t>(args.group)];
    const int64_t position = sequence.context_length + sparse.row;
    float* const for_attention = worker_scratch(worker);
    float* const keys = for_attention + attention_floats;
    float* const values = keys + whole_lines(key_floats);
    auto* const identity = reinterpret_cast<int32_t*>(values + whole_lines(value_floats));
    std::iota(identity, identity + blocks, 0);

    Gathered gathered{cache, reinterpret_cast<std::byte*>(keys), reinterpret_cast<std::byte*>(values)};
    const auto append = [&](int64_t from, int64_t count) {
      gathered.append(args.layer, table[static_cast<size_t>(from / kCacheBlock)], head, from % kCacheBlock,
                      count);
    };
    for (const int32_t group : picked_by(item)) append(group * shape.ratio, shape.ratio);
    if (const int64_t tail = (position + 1) % shape.ratio; tail > 0) append(position + 1 - tail, tail);

    const int64_t offset = (sequence.first_row + sparse.row) * q.width + head * query_heads * args.head_dim;
    attend(cache, {
                      .q = static_cast<const float*>(q.data) + offset,
                      .out = static_cast<float*>(out.data) + offset,
                      .row_stride = q.width,
                      .rows = 1,
                      .query_heads = query_heads,
                      .head_dim = args.head_dim,
                      .first_position = gathered.count - 1,
                      .window = 0,
                      .scale = args.scale,
                      .keys = gathered.keys,
                      .values = gathered.values,
                      .key_block_bytes = static_cast<int64_t>(cache.key_bytes()),
                      .value_block_bytes = static_cast<int64_t>(cache.value_bytes()),
                      .block_table = identity,
                      .scratch = for_attention,
                  });
  });
}

}  // namespace qwen::cpu
