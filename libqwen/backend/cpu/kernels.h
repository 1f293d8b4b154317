// The leaf functions of the CPU backend: one table of them per instruction-set level. A kernel is arithmetic
// on the memory it is given; who calls it with which rows on which thread is the backend's business
// (cpu_backend.h).
//
// The order of accumulation of every kernel is a function of the level and of the sizes of one row (k,
// head_dim, positions), never of how many rows or outputs one call covers. That is what keeps results equal
// to the bit.
//
// This header is included by translation units compiled for one instruction set: plain data only, nothing
// with external linkage that such a unit could emit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qwen::cpu {

enum class Isa : uint8_t;  // isa.h

// How a weight or a cache lies in memory. Kernels read the plain formats; the quantised ones (cpu_dequantize.h, and the
// blocks of GGUF files) become f32 panels first.
enum class Format : uint8_t {
  f32,
  f16,
  bf16,
  fp8,
  gptq,
  awq,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  iq4_nl,
  mxfp4,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_xs
};
inline constexpr int kPlainFormats = 3;
inline constexpr int kFirstBlockFormat = 6;
inline constexpr int kFormats = 19;
inline constexpr int kBlockFormats = kFormats - kFirstBlockFormat;
static constexpr bool is_quantized(Format format) {
  return static_cast<int>(format) >= kPlainFormats;
}
static constexpr bool is_blocked(Format format) {
  return static_cast<int>(format) >= kFirstBlockFormat;
}

// Elements and bytes of a block, as dtype_block of checkpoint/tensor.h has them (asserted by a test).
static constexpr int64_t kMaxBlockElements = 256;
static constexpr int64_t block_elements(Format format) {
  return format >= Format::q2_k ? 256 : 32;
}
static constexpr int64_t block_bytes(Format format) {
  constexpr int64_t kBytes[kBlockFormats] = {18, 20, 22, 24, 34, 18, 17, 84, 110, 144, 176, 210, 136};
  return is_blocked(format) ? kBytes[static_cast<int>(format) - kFirstBlockFormat] : 0;
}

// kCacheBlock of batch.h (asserted in cpu_backend.cpp), which these units do not include.
static constexpr int64_t kBlock = 32;
// kStateChunk of batch.h, likewise.
static constexpr int64_t kChunk = 64;

// out[r][n] = x[r] · weight[n] (+ bias[n]), or out[r][n] += that.
//
// A long k may be taken in slices (x, weight and k then describe one slice): all but the last suspend,
// leaving their vector sums in `partial`, and all but the first resume from there, so the order of summation
// is that of one pass.
struct LinearTask {
  const float* x = nullptr;  // [rows, k]
  int64_t x_stride = 0;      // in elements
  int64_t rows = 0;
  const std::byte* weight = nullptr;  // [outputs, k], any alignment
  int64_t weight_stride = 0;          // in elements
  int64_t outputs = 0;
  int64_t k = 0;
  const float* bias = nullptr;  // [outputs]
  float* out = nullptr;         // [rows, outputs]
  int64_t out_stride = 0;
  bool accumulate = false;
  bool from_memory = false;  // the weights are not in a cache: a hint
  bool resume = false;
  bool suspend = false;
  float* partial = nullptr;  // [rows, outputs, kMaxLanes], 64-byte aligned; used by slices only
};
static constexpr int64_t kMaxLanes = 16;  // of a vector of any level

// The cache keeps keys and values in blocks of kBlock positions per key/value head: keys transposed,
// [head_dim][kBlock], so that one vector holds a dimension of several keys and scores need no horizontal
// sums; values [kBlock][padded head_dim], so that a vector never straddles two positions.
static constexpr int64_t padded_head_dim(int64_t head_dim) {
  return (head_dim + 15) / 16 * 16;
}

// Rows as matrix tiles multiply them (tile_kernels.h): bfloat16, pairs of inputs of up to 16 rows side by side.
struct PackedRows {
  std::byte* data = nullptr;  // null: none
  int64_t columns = 0;        // packed_columns() of all rows
  int64_t group_bytes = 0;    // from 16 rows to the next 16

  // Where inputs i and i + 1 of a row are, for an even i; from there to the next pair are columns * 4 bytes.
  std::byte* at(int64_t row, int64_t i) const {
    return data + row / 16 * group_bytes + i * columns * 2 + row % 16 * 4;
  }
};

// Causal attention of consecutive rows of one sequence, for the query heads that share one key/value head.
struct AttentionTask {
  const float* q = nullptr;  // [rows, query_heads, head_dim], rows row_stride apart
  float* out = nullptr;      // likewise
  // Or, at the level with tiles, out goes there: to rows from packed_row and inputs from packed_input on.
  PackedRows packed = {};
  int64_t packed_row = 0;
  int64_t packed_input = 0;
  int64_t row_stride = 0;
  int64_t rows = 0;
  int64_t query_heads = 0;
  int64_t head_dim = 0;
  int64_t first_position = 0;  // of the first row
  int64_t window = 0;          // 0: all
  float scale = 1;
  const std::byte* keys = nullptr;    // of block 0, this layer and head
  const std::byte* values = nullptr;  // likewise
  int64_t key_block_bytes = 0;        // from one block to the next
  int64_t value_block_bytes = 0;
  const int32_t* block_table = nullptr;
  float* scratch = nullptr;  // attention_scratch() floats, 64-byte aligned
};

static constexpr int64_t attention_scratch(int64_t rows, int64_t query_heads, int64_t head_dim) {
  // Per query: its weighted values, its sums, its maximum and one block of probabilities (see
  // generic_kernels.h).
  return rows * query_heads * (padded_head_dim(head_dim) + 16 + 16 + kBlock);
}

// out[r] = x[r] * matrix, or factor * initial[r] + x[r] * matrix. Sums run over `inner` in ascending order.
struct MultiplyTask {
  const float* x = nullptr;  // [rows, inner]
  int64_t x_stride = 0;
  int64_t rows = 0;
  int64_t inner = 0;
  const float* matrix = nullptr;  // [inner, columns]
  int64_t matrix_stride = 0;
  int64_t columns = 0;             // a multiple of 16
  const float* initial = nullptr;  // [rows, columns], rows out_stride apart; may be out
  float factor = 1;
  float* out = nullptr;  // [rows, columns]
  int64_t out_stride = 0;
};

// New rows of a chunk of the gated delta rule, for one value head. With S the state at the chunk's beginning, l[t] the sum of
// the logarithms of the decays up to row t, and all sums over rows s of the chunk in ascending order:
//   u[t]   = beta[t] (v[t] - exp(l[t]) k[t] S - sum over s < t of exp(l[t] - l[s]) (k[t] . k[s]) u[s])
//   out[t] = exp(l[t]) q[t] S + sum over s <= t of exp(l[t] - l[s]) (q[t] . k[s]) u[s]
// which is the rule unrolled (https://arxiv.org/abs/2406.06484, section 3; with decay https://arxiv.org/abs/2412.06464).
struct GatedDeltaTask {
  int64_t value_dim = 0;
  int64_t first = 0;  // of the new rows, counted from the chunk's beginning
  int64_t rows = 0;
  const float* from_state = nullptr;  // [2 * rows, padded value_dim] k S, then q S; null: S is zero
  const float* products = nullptr;    // [2 * rows, kChunk] k . k[s], then q . k[s]
  const float* values = nullptr;      // [rows, value_dim]
  int64_t value_stride = 0;
  const float* beta = nullptr;       // [rows]
  const float* decay = nullptr;      // [rows] exp(l)
  const float* log_decay = nullptr;  // [kChunk] l, of the rows so far
  float* corrected = nullptr;  // [kChunk, padded value_dim] u, of the rows so far; the new ones are written
  float* out = nullptr;        // [rows, value_dim]
  int64_t out_stride = 0;
};

struct TileKernels;

// Multiplications with an addition, in registers alone and as fast as the level can, `rounds` times over. Returns how many
// floating-point operations that was, two for each; *sink keeps the compiler from leaving them out.
using PeakKernel = int64_t (*)(int64_t rounds, float* sink);

struct Kernels {
  int64_t k_slice;  // at which many rows profit from slicing k, a multiple of kMaxLanes; 0: this level cannot
  void (*linear[kPlainFormats])(const LinearTask& task);        // by the weight's format
  void (*attention[kPlainFormats])(const AttentionTask& task);  // by the cache's format; f16 is absent
  void (*widen[kPlainFormats])(const std::byte* from, int64_t n, float* to);
  // Blocks one behind the other, by Format - kFirstBlockFormat. The same bits at every level (block_kernels.h).
  void (*widen_blocks[kBlockFormats])(const std::byte* from, int64_t blocks, float* to);
  void (*narrow_bf16)(const float* from, int64_t n, uint16_t* to);  // to nearest even, NaN stays NaN
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*sigmoid_mul)(const float* gate, const float* x, int64_t n, float* out);
  // out[i] = silu(sum over j of rows[j][i] * weight[j * channels + i]), i < n; a row that is null counts as zeros.
  void (*convolution)(const float* const* rows, int64_t kernel, const float* weight, int64_t channels,
                      int64_t n, float* out);
  void (*multiply)(const MultiplyTask& task);
  void (*gated_delta)(const GatedDeltaTask& task);
  // Pairs (i, i + half) of each head; cosines and sines are [half].
  void (*rope)(float* x, int64_t heads, int64_t head_dim, const float* cosines, const float* sines,
               int64_t half);
  PeakKernel peak;
  const TileKernels* tiles = nullptr;  // bfloat16 matrices go to these instead (tile_kernels.h)
};

const Kernels& portable_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& amx_kernels();
#endif
const Kernels& kernels(Isa isa);

}  // namespace qwen::cpu
