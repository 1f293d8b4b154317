// convolve() and delta_rule(). With S the state at the chunk's beginning, l[t] the sum of the decays' logarithms up to row t and all
// sums over rows s of the chunk in ascending order:
//   u[t]   = beta[t] (v[t] - exp(l[t]) k[t] S - sum over s < t of exp(l[t] - l[s]) (k[t] . k[s]) u[s])
//   out[t] = exp(l[t]) q[t] S + sum over s <= t of exp(l[t] - l[s]) (q[t] . k[s]) u[s]
// which is the rule unrolled (https://arxiv.org/abs/2406.06484, section 3; with decay https://arxiv.org/abs/2412.06464).
//
// Columns of values do not know of each other: a block has kColumns of one head, and walks the chunks. What it cannot do in
// parallel is a column's recursion over the rows of a chunk. What the blocks of a head read from the slot is written by a later kernel.
#include "backend/cuda/recurrent.h"
#include "backend/cuda/row_math.h"

namespace qwen::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = static_cast<int>(kStateChunk);
constexpr int kColumns = 32;

// One channel of one sequence's inputs of the convolution, whenever they were computed.
struct ChannelInput {
  const ConvolveArgs& args;
  RecurrentSequence sequence;
  int64_t channel;

  // Of a position at most window_inputs before the first of the step's; 0 before the sequence's beginning.
  __device__ __forceinline__ float at(int64_t position) const {
    const RecurrentLayout& layout = args.cache.layout;
    const int64_t chunk = sequence.context_length / kChunk;
    if (position < 0) return 0;
    if (position >= sequence.context_length)
      return args.x[(sequence.first_row + position - sequence.context_length) * layout.channels + channel];
    if (position >= chunk * kChunk) return ring()[position % layout.ring_inputs * layout.channels];
    const int64_t index = position - (chunk * kChunk - layout.window_inputs);
    return window(args.batch.tables[sequence.table + chunk])[index * layout.channels];
  }
  __device__ __forceinline__ float* ring() const {
    return args.cache.slots + sequence.slot * args.cache.layout.slot + args.cache.layout.ring + channel;
  }
  __device__ __forceinline__ float* window(int32_t block) const {
    return args.cache.blocks + block * args.cache.layout.block + args.cache.layout.window + channel;
  }
};

__global__ void __launch_bounds__(kThreads) convolve_rows(ConvolveArgs args) {
  begin_kernel();
  const RecurrentLayout& layout = args.cache.layout;
  const int64_t row = blockIdx.x, channel = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (channel >= layout.channels) return;  // no barrier in this kernel
  const ChannelInput input = {args, args.batch.sequences[args.batch.row_sequence[row]], channel};
  const int64_t position = input.sequence.context_length + row - input.sequence.first_row;
  float sum = 0;
  for (int64_t j = 0; j < layout.kernel; ++j)
    sum = fmaf(input.at(position - (layout.kernel - 1 - j) * layout.dilation),
               args.weight[j * layout.channels + channel], sum);
  args.out[row * layout.channels + channel] = silu_mul(sum, 1);
}

// A thread: one channel of one sequence; windows first, as the ring's new inputs may take the place of old ones that they need.
__global__ void __launch_bounds__(kThreads) keep_inputs(ConvolveArgs args) {
  begin_kernel();
  const RecurrentLayout& layout = args.cache.layout;
  const int64_t channel = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (channel >= layout.channels) return;  // no barrier in this kernel
  const ChannelInput input = {args, args.batch.sequences[blockIdx.x], channel};
  const int64_t context = input.sequence.context_length, end = context + input.sequence.row_count;
  for (int64_t chunk = context / kChunk + 1; chunk <= end / kChunk; ++chunk) {
    const int32_t block = args.batch.tables[input.sequence.table + chunk];
    for (int64_t i = 0; block >= 0 && i < layout.window_inputs; ++i)
      input.window(block)[i * layout.channels] = input.at(chunk * kChunk - layout.window_inputs + i);
  }
  for (int64_t p = max(max(context, end / kChunk * kChunk), end - layout.ring_inputs); p < end; ++p)
    input.ring()[p % layout.ring_inputs * layout.channels] = input.at(p);
}

// What prepare_* leave in scratch for the rows of the step.
struct Prepared {
  float *keys, *queries, *log_decays, *betas, *carried;
};
__device__ __forceinline__ Prepared prepared(const DeltaRuleArgs& args) {
  const GatedDeltaShape& s = args.cache.layout.shape;
  const int64_t of_heads = args.batch.rows * s.key_heads * s.key_dim,
                of_rows = args.batch.rows * s.value_heads;
  float* const first = args.scratch;
  return {first, first + of_heads, first + 2 * of_heads, first + 2 * of_heads + of_rows,
          first + 2 * (of_heads + of_rows)};
}

// A warp: keys and queries of one row and key head, divided by their lengths as transformers' l2norm does, queries by sqrt(key_dim).
__global__ void __launch_bounds__(kThreads) prepare_heads(DeltaRuleArgs args) {
  begin_kernel();
  const GatedDeltaShape& s = args.cache.layout.shape;
  const int64_t item = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t row = item / s.key_heads, head = item % s.key_heads;
  if (row >= args.batch.rows) return;  // a whole warp
  const float* const q = args.qkv + row * args.cache.layout.channels + head * s.key_dim;
  const float* const k = q + s.key_heads * s.key_dim;
  const Prepared to = prepared(args);
  const float k_scale = 1.0f / sqrtf(warp_squares(k, s.key_dim) + 1e-6f);
  const float q_scale = 1.0f / sqrtf((warp_squares(q, s.key_dim) + 1e-6f) * static_cast<float>(s.key_dim));
  for (int64_t d = threadIdx.x % kWarp; d < s.key_dim; d += kWarp) {
    to.keys[item * s.key_dim + d] = k[d] * k_scale;
    to.queries[item * s.key_dim + d] = q[d] * q_scale;
  }
}

// A thread: one value head of one sequence, row after row.
__global__ void __launch_bounds__(kThreads) prepare_decays(DeltaRuleArgs args) {
  begin_kernel();
  const RecurrentLayout& layout = args.cache.layout;
  const GatedDeltaShape& s = layout.shape;
  const int64_t item = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (item >= args.batch.sequence_count * s.value_heads) return;  // no barrier in this kernel
  const RecurrentSequence sequence = args.batch.sequences[item / s.value_heads];
  const int64_t head = item % s.value_heads;
  const Prepared to = prepared(args);
  const float rate = s.stored_rates ? args.a_log[head] : -expf(args.a_log[head]), bias = args.dt_bias[head];
  const float* const before =
      args.cache.slots + sequence.slot * layout.slot + layout.log_decay + head * kChunk;
  const int first = sequence.context_length % kChunk;
  float sum = first == 0 ? 0.0f : before[first - 1];
  for (int64_t r = 0; r < sequence.row_count; ++r) {
    const int64_t at = (sequence.first_row + r) * s.value_heads + head;
    const float x = args.decay[at] + bias;
    const float step = rate * (x > 30 ? x : log1pf(expf(x)));
    sum = (sequence.context_length + r) % kChunk == 0 ? step : sum + step;
    to.log_decays[at] = sum;
    to.betas[at] = 1.0f / (1.0f + expf(-args.beta[at]));
  }
}

// A block: kColumns columns of one value head of one sequence.
__global__ void __launch_bounds__(kThreads, 1) advance_columns(DeltaRuleArgs args) {
  begin_kernel();
  const RecurrentLayout& layout = args.cache.layout;
  const GatedDeltaShape& s = layout.shape;
  const int thread = static_cast<int>(threadIdx.x), key_dim = static_cast<int>(s.key_dim);
  const int64_t head = blockIdx.y, first_column = int64_t{blockIdx.z} * kColumns;
  const int columns =
      static_cast<int>(s.value_dim - first_column < kColumns ? s.value_dim - first_column : kColumns);
  const RecurrentSequence sequence = args.batch.sequences[blockIdx.x];
  const int64_t key_head = s.tiled_value_heads ? head % s.key_heads : head / (s.value_heads / s.key_heads);
  const Prepared from = prepared(args);
  const int stride = key_dim + 1;  // threads of neighbouring rows meet neighbouring banks

  float* const keys = shared_memory<float>();                  // [kChunk][stride]
  float* const key_factors = keys + kChunk * stride;           // [kChunk][kChunk]
  float* const query_factors = key_factors + kChunk * kChunk;  // [kChunk][kChunk]
  float* const key_states = query_factors + kChunk * kChunk;   // [kChunk][kColumns]
  float* const query_states = key_states + kChunk * kColumns;  // [kChunk][kColumns]
  float* const corrected = query_states + kChunk * kColumns;   // [kChunk][kColumns]
  float* const log_decays = corrected + kChunk * kColumns;     // [kChunk]

  float* const slot = args.cache.slots + sequence.slot * layout.slot;
  float* const kept = slot + layout.corrected + head * kChunk * s.value_dim + first_column;
  const auto state_at = [&](int64_t chunk) {  // of these columns; rows are value_dim apart
    const int32_t block = args.batch.tables[sequence.table + chunk];
    float* const head_state =
        block < 0 ? from.carried + (blockIdx.x * s.value_heads + head) * s.key_dim * s.value_dim
                  : args.cache.blocks + block * layout.block + head * s.key_dim * s.value_dim;
    return head_state + first_column;
  };

  const int64_t end = int64_t{sequence.context_length} + sequence.row_count;
  for (int64_t position = sequence.context_length; position < end;) {
    const int64_t chunk = position / kChunk;
    const int first = static_cast<int>(position % kChunk);
    const int last = static_cast<int>(end - chunk * kChunk < kChunk ? end - chunk * kChunk
                                                                    : kChunk);  // rows of the chunk then
    const int64_t row_0 =
        sequence.first_row + chunk * kChunk - sequence.context_length;  // of the chunk's first position
    const float* const state = chunk == 0 ? nullptr : state_at(chunk);

    // What earlier steps left of this chunk, and the new rows.
    for (int i = thread; i < last * key_dim; i += kThreads) {
      const int t = i / key_dim, d = i % key_dim;
      keys[t * stride + d] = t < first ? slot[(key_head * kChunk + t) * key_dim + d]
                                       : from.keys[((row_0 + t) * s.key_heads + key_head) * key_dim + d];
    }
    for (int t = thread; t < last; t += kThreads)
      log_decays[t] = t < first ? slot[layout.log_decay + head * kChunk + t]
                                : from.log_decays[(row_0 + t) * s.value_heads + head];
    for (int i = thread; i < first * columns; i += kThreads)
      corrected[i / columns * kColumns + i % columns] = kept[i / columns * s.value_dim + i % columns];
    __syncthreads();

    const auto query = [&](int t) { return from.queries + ((row_0 + t) * s.key_heads + key_head) * key_dim; };
    for (int i = thread; i < (last - first) * kChunk; i += kThreads) {
      const int t = first + i / kChunk, other = i % kChunk;
      if (other > t) continue;
      const float* const q = query(t);
      float of_key = 0, of_query = 0;
      for (int d = 0; d < key_dim; ++d) {
        of_key = fmaf(keys[t * stride + d], keys[other * stride + d], of_key);
        of_query = fmaf(q[d], keys[other * stride + d], of_query);
      }
      const float weight = expf(log_decays[t] - log_decays[other]);
      key_factors[t * kChunk + other] = weight * of_key;
      query_factors[t * kChunk + other] = weight * of_query;
    }
    for (int i = thread; state != nullptr && i < (last - first) * kColumns; i += kThreads) {
      const int t = first + i / kColumns, n = i % kColumns;
      if (n >= columns) continue;
      const float* const q = query(t);
      float of_key = 0, of_query = 0;
#pragma unroll 16  // loads that are on their way together: a step of one row waits for little else
      for (int d = 0; d < key_dim; ++d) {
        const float element = state[d * s.value_dim + n];
        of_key = fmaf(keys[t * stride + d], element, of_key);
        of_query = fmaf(q[d], element, of_query);
      }
      key_states[t * kColumns + n] = of_key;
      query_states[t * kColumns + n] = of_query;
    }
    __syncthreads();

    if (thread < columns) {
      const int n = thread;
      const float* const values =
          args.qkv + 2 * s.key_heads * s.key_dim + head * s.value_dim + first_column + n;
      for (int t = first; t < last; ++t) {
        float u = values[(row_0 + t) * layout.channels], answer = 0;
        if (state != nullptr) {
          const float decay = expf(log_decays[t]);
          u = fmaf(-decay, key_states[t * kColumns + n], u);
          answer = decay * query_states[t * kColumns + n];
        }
        for (int before = 0; before < t; ++before) {
          const float other = corrected[before * kColumns + n];
          u = fmaf(-key_factors[t * kChunk + before], other, u);
          answer = fmaf(query_factors[t * kChunk + before], other, answer);
        }
        u *= from.betas[(row_0 + t) * s.value_heads + head];
        corrected[t * kColumns + n] = u;
        kept[t * s.value_dim + n] = u;
        args.out[((row_0 + t) * s.value_heads + head) * s.value_dim + first_column + n] =
            fmaf(query_factors[t * kChunk + t], u, answer);
      }
    }
    __syncthreads();

    if (last == kChunk) {  // the next state
      float* const next = state_at(chunk + 1);
      const float whole = log_decays[kChunk - 1], decay = expf(whole);
      for (int i = thread; i < kChunk * columns; i += kThreads) {
        const int t = i / columns, n = i % columns;
        corrected[t * kColumns + n] *= expf(whole - log_decays[t]);
      }
      __syncthreads();
      for (int i = thread; i < key_dim * kColumns; i += kThreads) {
        const int d = i / kColumns, n = i % kColumns;
        if (n >= columns) continue;
        float sum = state != nullptr ? decay * state[d * s.value_dim + n] : 0.0f;
        for (int t = 0; t < kChunk; ++t) sum = fmaf(keys[t * stride + d], corrected[t * kColumns + n], sum);
        next[d * s.value_dim + n] = sum;
      }
      __syncthreads();
    }
    position = chunk * kChunk + last;
  }
}

// A block: one sequence's keys and decays of its current chunk.
__global__ void __launch_bounds__(kThreads) keep_chunk(DeltaRuleArgs args) {
  begin_kernel();
  const RecurrentLayout& layout = args.cache.layout;
  const GatedDeltaShape& s = layout.shape;
  const RecurrentSequence sequence = args.batch.sequences[blockIdx.x];
  const Prepared from = prepared(args);
  float* const slot = args.cache.slots + sequence.slot * layout.slot;
  const int64_t end = int64_t{sequence.context_length} + sequence.row_count;
  const int64_t begin = max(int64_t{sequence.context_length}, end / kChunk * kChunk);
  const int64_t row_0 = sequence.first_row - int64_t{sequence.context_length},
                of_keys = s.key_heads * s.key_dim;
  for (int64_t i = threadIdx.x; i < (end - begin) * of_keys; i += kThreads) {
    const int64_t position = begin + i / of_keys, head = i % of_keys / s.key_dim, d = i % s.key_dim;
    slot[(head * kChunk + position % kChunk) * s.key_dim + d] =
        from.keys[(row_0 + position) * of_keys + i % of_keys];
  }
  for (int64_t i = threadIdx.x; i < (end - begin) * s.value_heads; i += kThreads) {
    const int64_t position = begin + i / s.value_heads, head = i % s.value_heads;
    slot[layout.log_decay + head * kChunk + position % kChunk] =
        from.log_decays[(row_0 + position) * s.value_heads + head];
  }
}

int64_t pieces(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

}  // namespace

void convolve(Stream& stream, const ConvolveArgs& args) {
  const int64_t pieces_of_channels = pieces(args.cache.layout.channels, kThreads);
  launch(stream, convolve_rows, Grid(args.batch.rows, pieces_of_channels), kThreads, 0, args);
  launch(stream, keep_inputs, Grid(args.batch.sequence_count, pieces_of_channels), kThreads, 0, args);
}

void delta_rule(Stream& stream, const DeltaRuleArgs& args) {
  const GatedDeltaShape& s = args.cache.layout.shape;
  const int64_t sequences = args.batch.sequence_count;
  launch(stream, prepare_heads, Grid(pieces(args.batch.rows * s.key_heads, kThreads / kWarp)), kThreads, 0,
         args);
  launch(stream, prepare_decays, Grid(pieces(sequences * s.value_heads, kThreads)), kThreads, 0, args);
  const int64_t floats = kChunk * (s.key_dim + 1) + 2 * kChunk * kChunk + 3 * kChunk * kColumns + kChunk;
  launch(stream, advance_columns, Grid(sequences, s.value_heads, pieces(s.value_dim, kColumns)), kThreads,
         static_cast<size_t>(floats) * sizeof(float), args);
  launch(stream, keep_chunk, Grid(sequences), kThreads, 0, args);
}

}  // namespace qwen::cuda
