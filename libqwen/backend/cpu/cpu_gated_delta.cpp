// CpuBackend's linear attention: the short convolution before the gated delta rule, and the rule itself, chunk by chunk.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/cpu_state_cache.h"
#include "base/error.h"

namespace qwen::cpu {
namespace {

constexpr int64_t kMostKernel = 16;

// One sequence's rows of the convolution's input, whenever they were computed.
class ConvolutionInput {
 public:
  ConvolutionInput(const CpuStateCache& cache, const SequenceRows& sequence, const ConvolutionArgs& args,
                   Rows x)
      : cache_(cache),
        sequence_(sequence),
        args_(args),
        x_(x),
        table_(sequence.block_tables[static_cast<size_t>(args.group)]),
        chunk_(sequence.context_length / kStateChunk) {}

  // Of a position at most window() before the first of the step's; null before the sequence's beginning.
  const float* at(int64_t position) const {
    if (position < 0) return nullptr;
    if (position >= sequence_.context_length)
      return row(x_, sequence_.first_row + position - sequence_.context_length);
    if (position >= chunk_ * kStateChunk) return cache_.ring(args_.layer, sequence_.state_slot, position);
    const float* const window = cache_.window(args_.layer, table_[static_cast<size_t>(chunk_)]);
    const int64_t index = position - (chunk_ * kStateChunk - args_.shape.window());
    return window + index * args_.shape.channels;
  }

  // Keeps what later steps will read. After every at().
  void keep() const {
    const int64_t channels = args_.shape.channels, before = args_.shape.window();
    const size_t bytes = static_cast<size_t>(channels) * sizeof(float);
    const int64_t end = sequence_.context_length + sequence_.row_count, last_chunk = end / kStateChunk;
    for (int64_t chunk = chunk_ + 1; chunk <= last_chunk; ++chunk) {
      const int32_t block = table_[static_cast<size_t>(chunk)];
      if (block < 0) continue;
      float* const window = cache_.window(args_.layer, block);
      for (int64_t i = 0; i < before; ++i)
        std::memcpy(window + i * channels, at(chunk * kStateChunk - before + i), bytes);
    }
    const int64_t first =
        std::max({int64_t{sequence_.context_length}, last_chunk * kStateChunk, end - cache_.ring_size()});
    for (int64_t position = first; position < end; ++position)
      std::memcpy(cache_.ring(args_.layer, sequence_.state_slot, position), at(position), bytes);
  }

 private:
  const CpuStateCache& cache_;
  const SequenceRows& sequence_;
  const ConvolutionArgs& args_;
  Rows x_;
  std::span<const int32_t> table_;
  int64_t chunk_;  // of the step's first row
};

// e^log of a sum of decays; 0 where it is so small that only subnormal numbers, which processors are slow with, would come of
// it (measured: five times slower).
float decayed(double log) {
  return log < -69 ? 0.0f : static_cast<float>(std::exp(log));  // 2^-100
}

double softplus(double x) {
  return x > 30 ? x : std::log1p(std::exp(x));
}

}  // namespace

void CpuBackend::convolution(CacheStorage& storage, const Batch& batch, const ConvolutionArgs& args, Rows x,
                             const Weight& weight, Rows out) {
  counted(Op::convolution, Format::f32);
  const auto& cache = static_cast<const CpuStateCache&>(storage);
  const int64_t channels = args.shape.channels, kernel = args.shape.kernel, dilation = args.shape.dilation;
  const float* const factors = own(weight).floats();
  for (const SequenceRows& sequence : batch.sequences) {
    const ConvolutionInput input(cache, sequence, args, x);
    for_rows(sequence.row_count, channels, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const float* rows[kMostKernel];
        for (int64_t j = 0; j < kernel; ++j)
          rows[j] = input.at(sequence.context_length + r - (kernel - 1 - j) * dilation);
        kernels_.convolution(rows, kernel, factors, channels, channels, row(out, sequence.first_row + r));
      }
    });
    input.keep();
  }
}

void CpuBackend::gated_delta(CacheStorage& storage, const Batch& batch, const GatedDeltaArgs& args,
                             const GatedDeltaInput& input, Rows out) {
  counted(Op::gated_delta, Format::f32);
  const auto& cache = static_cast<const CpuStateCache&>(storage);
  const GatedDeltaShape& shape = args.shape;
  const int64_t key_dim = shape.key_dim, width = cache.value_width();
  const int64_t value_heads = shape.value_heads / shape.key_heads;  // of one key head
  // A worker's scratch, in this order: keys and queries of a chunk's rows; what they are, multiplied with the state and
  // with the chunk's keys; betas and decays; norms of keys and queries; the corrected values on their way into the state; states
  // between chunks.
  const int64_t of_rows = 2 * kChunk * (key_dim + width + kChunk) + 2 * kChunk + 2 * key_dim;
  const int64_t state_floats = key_dim * width;
  scratch(of_rows + kChunk * width + value_heads * state_floats);

  const int64_t items = static_cast<int64_t>(batch.sequences.size()) * shape.key_heads;
  pool_.for_each(items, [&](int64_t item, int worker) {
    const SequenceRows& sequence = batch.sequences[static_cast<size_t>(item / shape.key_heads)];
    const int64_t key_head = item % shape.key_heads;
    const std::span<const int32_t> table = sequence.block_tables[static_cast<size_t>(args.group)];
    float* const x = worker_scratch(worker);
    float* const from_state = x + 2 * kChunk * key_dim;
    float* const products = from_state + 2 * kChunk * width;
    float* const beta = products + 2 * kChunk * kChunk;
    float* const decay = beta + kChunk;
    float* const key_norm = decay + kChunk;
    float* const query_norm = key_norm + key_dim;
    float* const weighted = query_norm + key_dim;
    float* const carried = weighted + kChunk * width;
    float* const keys = cache.keys(args.layer, sequence.state_slot, key_head);

    // transformers' l2norm, x / sqrt(sum of squares + 1e-6), and of the queries also / sqrt(key_dim), as a norm with weights.
    const auto n = static_cast<float>(key_dim), eps = 1e-6f / n;
    std::fill_n(key_norm, key_dim, 1 / std::sqrt(n));
    std::fill_n(query_norm, key_dim, 1 / n);

    const int64_t end = sequence.context_length + sequence.row_count;
    for (int64_t position = sequence.context_length; position < end;) {
      const int64_t chunk = position / kStateChunk, first = position % kStateChunk;
      const int64_t rows = std::min(end - position, kStateChunk - first);
      const int64_t first_row = sequence.first_row + position - sequence.context_length;
      for (int64_t r = 0; r < rows; ++r) {
        const float* const q = row(input.qkv, first_row + r) + key_head * key_dim;
        kernels_.rms_norm(q + shape.key_heads * key_dim, key_norm, eps, key_dim, x + r * key_dim);
        kernels_.rms_norm(q, query_norm, eps, key_dim, x + (rows + r) * key_dim);
        for (int64_t d = 0; d < key_dim; ++d) keys[d * kChunk + first + r] = x[r * key_dim + d];
      }
      MultiplyTask multiply = {.x = x, .x_stride = key_dim, .rows = 2 * rows, .inner = key_dim};
      multiply.matrix = keys;
      multiply.matrix_stride = multiply.columns = multiply.out_stride = kChunk;
      multiply.out = products;
      kernels_.multiply(multiply);

      for (int64_t i = 0; i < value_heads; ++i) {
        const int64_t head = shape.value_head(key_head, i);
        // The state at the chunk's beginning: kept in a block, or left here by the chunk before.
        float* const between = carried + i * state_floats;
        const int32_t block = chunk == 0 ? -1 : table[static_cast<size_t>(chunk)];
        const float* const state = chunk == 0  ? nullptr
                                   : block < 0 ? between
                                               : cache.state(args.layer, block, head);
        if (state != nullptr) {
          multiply.matrix = state;
          multiply.matrix_stride = multiply.columns = multiply.out_stride = width;
          multiply.out = from_state;
          kernels_.multiply(multiply);
        }
        float* const log_decay = cache.log_decay(args.layer, sequence.state_slot, head);
        const double a = own(input.a_log).floats()[head];
        const double rate = shape.stored_rates ? a : -std::exp(a);
        const double bias = own(input.dt_bias).floats()[head];
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t t = first + r;
          const double step = rate * softplus(row(input.decay, first_row + r)[head] + bias);
          log_decay[t] = static_cast<float>((t == 0 ? 0.0 : double{log_decay[t - 1]}) + step);
          decay[r] = decayed(log_decay[t]);
          beta[r] = static_cast<float>(1 / (1 + std::exp(-double{row(input.beta, first_row + r)[head]})));
        }
        const int64_t value_column = 2 * shape.key_heads * key_dim + head * shape.value_dim;
        float* const corrected = cache.corrected(args.layer, sequence.state_slot, head);
        kernels_.gated_delta({.value_dim = shape.value_dim,
                              .first = first,
                              .rows = rows,
                              .from_state = state != nullptr ? from_state : nullptr,
                              .products = products,
                              .values = row(input.qkv, first_row) + value_column,
                              .value_stride = input.qkv.width,
                              .beta = beta,
                              .decay = decay,
                              .log_decay = log_decay,
                              .corrected = corrected,
                              .out = row(out, first_row) + head * shape.value_dim,
                              .out_stride = out.width});
        if (first + rows < kStateChunk) continue;
        // The next state: exp(l[63]) S + sum over s of k[s] (exp(l[63] - l[s]) u[s])'.
        const double whole = log_decay[kChunk - 1];
        for (int64_t s = 0; s < kChunk; ++s) {
          const float weight = decayed(whole - double{log_decay[s]});
          for (int64_t n = 0; n < width; ++n) weighted[s * width + n] = weight * corrected[s * width + n];
        }
        const int32_t next = table[static_cast<size_t>(chunk + 1)];
        float* const to = next < 0 ? between : cache.state(args.layer, next, head);
        if (state != nullptr && state != to)
          std::memcpy(to, state, static_cast<size_t>(state_floats) * sizeof(float));
        kernels_.multiply({.x = keys,
                           .x_stride = kChunk,
                           .rows = key_dim,
                           .inner = kChunk,
                           .matrix = weighted,
                           .matrix_stride = width,
                           .columns = width,
                           .initial = state != nullptr ? to : nullptr,
                           .factor = decay[rows - 1],
                           .out = to,
                           .out_stride = width});
      }
      position += rows;
    }
  });
}

}  // namespace qwen::cpu
