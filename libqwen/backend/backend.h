// The op interface between models and machines. A model is written over these coarse operations on rows; a backend
// owns the memory, decides how a weight is kept and which kernel runs.
//
// Promise of every op: an output row depends on its own input row (and its own sequence's cache) only, and is summed in
// an order that does not depend on how many other rows, sequences or threads there are. Products on a GPU keep it where it is strict.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/batch.h"
#include "backend/ngrams.h"
#include "backend/sampling.h"
#include "base/log.h"
#include "checkpoint/gated_delta_shape.h"
#include "checkpoint/indexer_shape.h"
#include "checkpoint/quantized_tensor.h"
#include "checkpoint/tensor.h"

namespace qwen {

// What `dtype` selects. f32: weights widened exactly, cache and arithmetic float32. bf16: cache bfloat16, matrices kept
// in 16 bit, float32 accumulation; a level with bf16 matrix instructions may round the activations to bf16. Quantised
// matrices stay as stored and count as their float32 values in both.
enum class Precision : uint8_t { f32, bf16 };

// How activations lie in memory. An operand is there for linear() and gated_linear() to multiply, in whatever way they like best
// (matrix tiles of bfloat16): what writes it has rounded and arranged it, so nobody need do it again.
enum class Form : uint8_t { plain, operand };

// Activations: a view of `rows` x `width` elements in the backend's memory; plain: row-major and dense. The element type is the
// backend's (the CPU's is float); models only pass views on. Ops take plain rows, except where they say "or an operand".
struct Rows {
  void* data = nullptr;
  int64_t rows = 0;
  int64_t width = 0;
  Form form = Form::plain;

  // The same memory as rows of `width`: [rows, heads * head_dim] -> [rows * heads, head_dim].
  Rows reshaped(int64_t new_width) const { return {data, rows * width / new_width, new_width}; }
  // Some rows of plain float32, which logits are in every backend.
  Rows part(int64_t first, int64_t count) const {
    return {static_cast<float*>(data) + first * width, count, width};
  }
};

// A loaded parameter, kept as the backend likes it (the mapped file itself, a converted copy, device memory).
// Immutable; shared by all engines of a model.
class Weight {
 public:
  virtual ~Weight() = default;
};
using WeightPtr = std::shared_ptr<const Weight>;

enum class WeightUse : uint8_t {
  matrix,             // [out, in]: linear, and embedding tables
  transposed_matrix,  // [in, out] of the same
  vector,             // [n]: norm weights and biases
  vector_minus_one,   // [n]: a norm's weights, of which the file holds w - 1
  convolution,        // [channels, 1, kernel], depthwise
};

// One output of linear(): out = x * weight^T (+ bias), or out += x * weight^T (+ bias).
struct Projection {
  const Weight* weight = nullptr;  // [out.width, x.width]
  const Weight* bias = nullptr;    // [out.width]
  Rows out;
  bool accumulate = false;
  // A choice hangs on small differences of the result (which experts, which positions): activations are not rounded.
  bool exact = false;
};

// Which rotation each position gets (https://arxiv.org/abs/2104.09864, pairs (i, i + rotary_dim / 2) as in transformers).
struct RopeTable {
  std::vector<float> inverse_frequencies;  // [rotary_dim / 2]
  std::vector<uint8_t> axis;  // [rotary_dim / 2] which of the three positions each uses (text: 0)
  float scale = 1;            // YaRN's attention factor, multiplies cos and sin
};

// A causal convolution of each channel by itself.
struct ConvolutionShape {
  int64_t channels = 0;
  int64_t kernel = 0;
  int64_t dilation = 1;  // positions from one that it sees to the next

  int64_t window() const { return (kernel - 1) * dilation; }  // positions before its own that it needs
};

// A set of layers whose sequences share one block table: of keys and values, or of recurrent states.
struct CacheGroupSpec {
  int64_t layers = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t window = 0;                                  // positions a row sees, its own included; 0: all
  std::optional<IndexerShape> indexer = std::nullopt;  // the layers keep keys of an indexer besides
  // Recurrent states instead of keys and values: of linear attention with its convolution, or of a convolution alone.
  std::optional<GatedDeltaShape> gated_delta = std::nullopt;
  std::optional<ConvolutionShape> convolution = std::nullopt;

  bool recurrent() const { return gated_delta || convolution; }
};

// The memory behind one cache group: `blocks` blocks for each layer of the group, of kCacheBlock positions' keys and values;
// or of one recurrent state each, with as many slots for the rows of a current chunk.
class CacheStorage {
 public:
  virtual ~CacheStorage() = default;
};

struct AttentionArgs {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t window = 0;
  float scale = 1;    // of q·k, usually 1 / sqrt(head_dim)
  int64_t group = 0;  // index into SequenceRows::block_tables
  int64_t layer = 0;  // index inside the group
};

struct HeadNorms {
  const Weight* q = nullptr;  // [head_dim]
  const Weight* k = nullptr;  // [head_dim]
  float eps = 0;
};

// Embeddings of n-grams: a table cut into shards of equally many rows, row i in shard i / rows at i % rows.
struct NgramTable {
  NgramNumbers numbers;
  std::span<const WeightPtr> shards;
};

// One expert of a mixture: down(silu(gate(x)) * up(x)).
struct Expert {
  const Weight* gate;  // [inner, width]
  const Weight* up;    // [inner, width]
  const Weight* down;  // [width, inner]
};

struct MoeArgs {
  const Weight* router;  // [experts, width]
  std::span<const Expert> experts;
  int64_t inner = 0;
  int64_t top_k = 0;
  bool normalise = false;
};

// Whose index keys a layer keeps, and how they come about.
struct IndexerArgs {
  IndexerShape shape;
  const Weight& key_norm;  // [head_dim]
  float eps = 0;
};

struct ConvolutionArgs {
  ConvolutionShape shape;
  int64_t group = 0;  // index into SequenceRows::block_tables
  int64_t layer = 0;  // index inside the group
};

struct GatedDeltaArgs {
  GatedDeltaShape shape;
  int64_t group = 0;  // index into SequenceRows::block_tables
  int64_t layer = 0;  // index inside the group
};

// What gated_delta() reads, all of it after the convolution.
struct GatedDeltaInput {
  Rows qkv;               // [rows, channels]: q and k of all key heads, v of all value heads
  Rows beta;              // [rows, value_heads] before the sigmoid: how much of a value is written
  Rows decay;             // [rows, value_heads] before dt_bias and softplus
  const Weight& a_log;    // [value_heads]
  const Weight& dt_bias;  // [value_heads]
};

// A part of each group of columns: see Backend::split().
struct SplitPart {
  int64_t width;  // columns of a group
  Rows out;       // group g's go to columns [column + g * width, column + (g + 1) * width)
  int64_t column = 0;
};

struct CacheRoom {
  int64_t bytes = 0;  // 0: unknown
  bool own = false;   // of memory that little else is kept in: a GPU's
};

// How often which kernel ran since creation, e.g. {"linear.bf16.avx512", 4711}: shows what dispatch chose.
struct KernelCount {
  std::string name;
  int64_t calls;
};

// Memory that lives for one step. rows() is cheap; rewind() recycles what was handed out since mark(), reset() everything.
class Workspace {
 public:
  struct Mark {
    size_t chunk = 0, used = 0;
  };
  virtual ~Workspace() = default;
  virtual Rows rows(int64_t rows, int64_t width, Form form = Form::plain) = 0;  // uninitialised
  virtual Mark mark() const = 0;
  virtual void rewind(Mark mark) = 0;
  virtual void reset() = 0;
};

// One backend object serves one engine: its ops are called by that engine's step thread only. load() may be called from
// any thread, before that and meanwhile.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;  // "cpu.avx512"
  virtual Precision precision() const = 0;
  virtual std::vector<KernelCount> kernel_counts() const = 0;  // any thread
  // What an engine's cache may have of the memory that is free now, beside step_bytes of activations.
  virtual CacheRoom cache_room(int64_t step_bytes) const = 0;
  // Operations return before their work is done, which is done in their order: the next step may be given while one is under way.
  virtual bool works_behind() const { return false; }

  // Throws Error: unsupported (dtype), out_of_memory. The source must outlive the weight.
  virtual WeightPtr load(const TensorView& tensor, WeightUse use) = 0;
  // A quantised matrix; also invalid_file, where its data would lead outside it (g_idx).
  virtual WeightPtr load(const QuantizedTensor& tensor) = 0;
  // Runs `loads`, which calls load() for many weights: they come faster together. None is used before this returns.
  virtual void load_together(const std::function<void()>& loads) { loads(); }
  virtual std::unique_ptr<Workspace> create_workspace() = 0;
  // Bytes one block (and one slot) takes in all layers of the group, and the storage for `blocks` of them.
  virtual size_t cache_block_bytes(const CacheGroupSpec& spec) const = 0;
  virtual std::unique_ptr<CacheStorage> create_cache(const CacheGroupSpec& spec, int64_t blocks) = 0;

  // A step: calls `ops`, which calls the operations below over this batch, on rows of the workspace,
  // which is as reset() leaves it, and says where the results are.
  // repeatable: `ops` does nothing else, and the same for every batch whose sequences have as many rows each and which wants as many
  // results, whatever these rows are. What it did once for such a batch a backend may then do again, without calling it.
  virtual Rows run_step([[maybe_unused]] Workspace& workspace, [[maybe_unused]] const Batch& batch,
                        [[maybe_unused]] bool repeatable, const std::function<Rows()>& ops) {
    return ops();
  }

  // out[r] = table[ids[r]]
  virtual void embed(const Weight& table, std::span<const int32_t> ids, Rows out) = 0;
  // out[r] = table[ngram_row(head)] of all heads, side by side, of the n-grams that end with row r.
  virtual void embed_ngrams(const NgramTable& table, const Batch& batch, Rows out) = 0;
  // The form in which linear() with these weights likes its input of `width` best.
  virtual Form input_form(int64_t width, std::span<const Weight* const> weights) const = 0;
  // out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight; out may be x, or an operand. Per head: pass x.reshaped(head_dim). A weight
  // of n times the width holds n norms: row r takes number r % n.
  virtual void rms_norm(Rows x, const Weight& weight, float eps, Rows out) = 0;
  // All projections of one input, e.g. q, k and v. x may be an operand that input_form() agreed to.
  virtual void linear(Rows x, std::span<const Projection> projections) = 0;
  // out = silu(x * gate^T) * (x * up^T), with the bits of linear() and silu_mul(). x and out may be operands. spare: plain, as large
  // as out, its content is lost; none is needed where out is an operand.
  virtual void gated_linear(Rows x, const Weight& gate, const Weight& up, Rows spare, Rows out) = 0;
  // cos and sin of every row's angles, computed once per step: out [rows, 2 * frequencies] = cos…, sin…
  virtual void rope_angles(const RopeTable& table, std::span<const std::array<int32_t, 3>> positions,
                           Rows out) = 0;
  // Rotates every head of x [rows, heads * head_dim] in place.
  virtual void rope(Rows x, int64_t head_dim, Rows angles) = 0;
  // All that stands between q, k, v and attention(): every head of q and k is normalised, if there are norms, and rotated (angles
  // as rope() takes them), q in place; k, whose content is lost, and v [rows, kv_heads * head_dim] go to their positions in the cache.
  virtual void store_heads(CacheStorage& cache, const Batch& batch, const AttentionArgs& args,
                           const HeadNorms& norms, Rows angles, Rows q, Rows k, Rows v) = 0;
  // Causal softmax(q k^T * scale) v over each sequence's cache; q and out [rows, heads * head_dim]; out may be an operand.
  virtual void attention(const CacheStorage& cache, const Batch& batch, const AttentionArgs& args, Rows q,
                         Rows out) = 0;
  // Writes keys [rows, indexer head_dim] to their positions in the cache. Those of a whole group of `ratio` positions become
  // the group's key as soon as the last one is there: their mean, normalised, rotated as its first position is.
  // angles [rows, rotary_dim].
  virtual void store_index_keys(CacheStorage& cache, const Batch& batch, const AttentionArgs& args,
                                const IndexerArgs& indexer, Rows keys, Rows angles) = 0;
  // Attention to some positions: of the groups that are whole at row r's position, those budget / ratio whose keys c have the
  // largest sum over index_q's heads of max(0, index_q[r][head] . c), of equal ones the first; and the positions behind the
  // last whole group. q and out [rows, heads * head_dim]; index_q [rows, indexer heads * head_dim].
  virtual void indexed_attention(const CacheStorage& cache, const Batch& batch, const AttentionArgs& args,
                                 const IndexerArgs& indexer, Rows index_q, Rows q, Rows out) = 0;
  // out = silu(gate) * up; out may be gate or up, or an operand.
  virtual void silu_mul(Rows gate, Rows up, Rows out) = 0;
  // out = sigmoid(gate) * x; out may be gate or x, or an operand.
  virtual void sigmoid_mul(Rows gate, Rows x, Rows out) = 0;
  // x [rows, groups * (the parts' widths together)]: every group's columns, shared out to the parts in their order.
  virtual void split(Rows x, int64_t groups, std::span<const SplitPart> parts) = 0;
  // out[t] = silu(sum over j of weight[j] * x[t - (kernel - 1 - j) * dilation]), per channel of the sequence's rows; rows of
  // earlier steps come from the cache. x and out [rows, channels], not the same.
  virtual void convolution(CacheStorage& cache, const Batch& batch, const ConvolutionArgs& args, Rows x,
                           const Weight& weight, Rows out) = 0;
  // The gated delta rule (https://arxiv.org/abs/2412.06464), per value head:
  //   g = exp(-exp(a_log) * softplus(decay + dt_bias)),  b = sigmoid(beta),  q and k divided by their lengths, q by sqrt(key_dim)
  //   S = g S + k (b (v - (g S)' k))';   out = S' q                                        S: [key_dim, value_dim]
  // out [rows, value_heads * value_dim]. In every step, after convolution() of the same layer.
  virtual void gated_delta(CacheStorage& cache, const Batch& batch, const GatedDeltaArgs& args,
                           const GatedDeltaInput& input, Rows out) = 0;
  // out[r] = sum of p_e * expert_e(x[r]) over the top_k likeliest experts e of row r, in the order of their index, with
  // p = softmax(router(x[r])); of equally likely ones the first. normalise: the chosen p are divided by their sum.
  virtual void moe(Workspace& workspace, Rows x, const MoeArgs& args, Rows out) = 0;
  // out[r] += x[r]; with gate [rows, 1]: out[r] += sigmoid(gate[r]) * x[r].
  virtual void add(Rows x, const Rows* gate, Rows out) = 0;
  // out = silu(factor * x); out may be x.
  virtual void silu(Rows x, float factor, Rows out) = 0;
  // Several streams side by side in a row, x [rows, n * width] (https://arxiv.org/abs/2409.19606):
  // out[r] = mean over s of x[r][s]; out [rows, width].
  virtual void mean_of_streams(Rows x, Rows out) = 0;
  // x[r][s] += 2 sigmoid(gate[r][s] / n) h[r]; h [rows, width], gate [rows, n].
  virtual void add_to_streams(Rows h, Rows gate, Rows x) = 0;
  // out[r][s] = sigmoid(sqrt(|g|) sign(g)) value[r] with g = key[r][s] . query[r][s] / sqrt(width), |g| at least 1e-6; value
  // [rows, width], key, query and out [rows, n * width].
  virtual void gate_streams(Rows key, Rows query, Rows value, Rows out) = 0;
  // out[i] = x[rows[i]]
  virtual void gather(Rows x, std::span<const int32_t> rows, Rows out) = 0;
  // out[rows[i]] += scale * x[i]; no row twice.
  virtual void scatter_add(Rows x, std::span<const int32_t> rows, float scale, Rows out) = 0;
  // From rows of logits to tokens, out[i] by args[i]: what the host needs of a row of which it wants a token only. No row twice; the
  // edits change it. `out` is there when finish_sampling() returns, and stays where it is until then or until the next sample().
  virtual void sample(Rows logits, std::span<const SampleArgs> args, std::span<SampledRow> out) = 0;
  // What the ops up to sample() failed of is thrown here, by a backend that works behind the caller's back; what is wrong with one row
  // is that row's outcome.
  virtual void finish_sampling() {}
  // Rows as float32 in host memory: where the backend's memory is that, x itself, until its memory is handed out again; elsewhere
  // what is read into `copy`.
  virtual std::span<float> host(Rows x, std::vector<float>& copy) = 0;
};

struct CpuOptions {
  Precision precision = Precision::bf16;
  int threads = 0;  // 0: the cores this process may use
  std::string isa;  // "", "portable", "avx2", "avx512": a level this machine lacks is Error unsupported
};
std::unique_ptr<Backend> create_cpu_backend(const CpuOptions& options);

struct CudaOptions {
  Precision precision = Precision::bf16;
  int device = 0;      // GPU, as CUDA numbers them
  int threads = 0;     // that read weights at most; 0: as many as are of use
  bool check = true;   // that it computes known answers, once in a process
  bool strict = true;  // false: cuBLASLt may multiply many rows, with sums that depend on how many there are
  bool dependent_launches = false;  // kernels begin while the one before ends, where the GPU can do that
};
// Throws Error: unsupported (a build without CUDA; no driver, no such GPU, or one that this build has no kernels for); out_of_memory;
// internal (its answers are wrong).
std::unique_ptr<Backend> create_cuda_backend(const CudaOptions& options);
bool has_cuda_backend();  // whether this build has one; touches nothing

// The first GPU that this build has kernels for.
struct GpuOffer {
  int device = -1;   // as CUDA numbers them; -1: there is none
  std::string text;  // its name, or why there is none
  LogLevel level;    // at which a host that wants whatever is there hears of it
};
GpuOffer find_gpu();

// How fast this machine is at what bounds a model: reading memory, and multiplying at the level and precision of the engine.
struct MachineLimits {
  int threads = 0;         // of a GPU its multiprocessors
  std::string_view level;  // "amx", "sm_90"; static memory
  Precision precision = Precision::bf16;
  double read_bytes_per_second = 0;  // all threads together
  double flops_per_second = 0;       // likewise; a multiplication with its addition is two
  int64_t buffer_bytes = 0;          // what was read for it
};
// Measures for about half a second with threads of its own. Throws Error: those of the options; out_of_memory.
MachineLimits measure_machine(const CpuOptions& options);
// The same of a GPU and its own memory, with the instructions that our kernels use. Throws as create_cuda_backend() does.
MachineLimits measure_machine(const CudaOptions& options);
// The levels this machine offers, lowest first: {"portable", "avx2", …}.
std::vector<std::string> cpu_isa_levels();

}  // namespace qwen
