// The CPU backend: which rows, which weights and which kernel go to which thread. The arithmetic is in
// kernels.h.
//
// Work is cut into items that the pool's threads claim; an item is a fixed piece of the output (a panel of
// output features, some rows of one key/value head), so who computes it changes nothing.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/cpu_memory.h"
#include "backend/cpu/cpu_weight.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/kernels.h"
#include "backend/row_sampler.h"
#include "base/error.h"
#include "base/thread_pool.h"

namespace qwen::cpu {

// What an engine starts for the option "threads": 0 is the cores this process may use. Throws Error(invalid_argument).
int checked_threads(int threads);

// Below this many floats an element-wise loop is over before a second thread has joined.
inline constexpr int64_t kWorthAThread = 8192;

inline float* row(const Rows& x, int64_t index) {
  return static_cast<float*>(x.data) + index * x.width;
}

PackedRows packed_rows(Rows x);  // of an operand; of plain rows none

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuOptions& options);

  std::string name() const override { return cat("cpu.", isa_name(isa_)); }
  Precision precision() const override { return precision_; }
  std::vector<KernelCount> kernel_counts() const override;
  CacheRoom cache_room(int64_t step_bytes) const override;

  WeightPtr load(const TensorView& tensor, WeightUse use) override;
  WeightPtr load(const QuantizedTensor& tensor) override;
  std::unique_ptr<Workspace> create_workspace() override;
  size_t cache_block_bytes(const CacheGroupSpec& spec) const override;
  std::unique_ptr<CacheStorage> create_cache(const CacheGroupSpec& spec, int64_t blocks) override;

  Form input_form(int64_t width, std::span<const Weight* const> weights) const override;
  void embed(const Weight& table, std::span<const int32_t> ids, Rows out) override;
  void embed_ngrams(const NgramTable& table, const Batch& batch, Rows out) override;
  void rms_norm(Rows x, const Weight& weight, float eps, Rows out) override;
  void linear(Rows x, std::span<const Projection> projections) override;
  void gated_linear(Rows x, const Weight& gate, const Weight& up, Rows spare, Rows out) override;
  void rope_angles(const RopeTable& table, std::span<const std::array<int32_t, 3>> positions,
                   Rows out) override;
  void rope(Rows x, int64_t head_dim, Rows angles) override;
  void store_heads(CacheStorage& cache, const Batch& batch, const AttentionArgs& args, const HeadNorms& norms,
                   Rows angles, Rows q, Rows k, Rows v) override;
  void attention(const CacheStorage& cache, const Batch& batch, const AttentionArgs& args, Rows q,
                 Rows out) override;
  void store_index_keys(CacheStorage& cache, const Batch& batch, const AttentionArgs& args,
                        const IndexerArgs& indexer, Rows keys, Rows angles) override;
  void indexed_attention(const CacheStorage& cache, const Batch& batch, const AttentionArgs& args,
                         const IndexerArgs& indexer, Rows index_q, Rows q, Rows out) override;
  void silu_mul(Rows gate, Rows up, Rows out) override;
  void sigmoid_mul(Rows gate, Rows x, Rows out) override;
  void split(Rows x, int64_t groups, std::span<const SplitPart> parts) override;
  void convolution(CacheStorage& cache, const Batch& batch, const ConvolutionArgs& args, Rows x,
                   const Weight& weight, Rows out) override;
  void gated_delta(CacheStorage& cache, const Batch& batch, const GatedDeltaArgs& args,
                   const GatedDeltaInput& input, Rows out) override;
  void moe(Workspace& workspace, Rows x, const MoeArgs& args, Rows out) override;
  void add(Rows x, const Rows* gate, Rows out) override;
  void silu(Rows x, float factor, Rows out) override;
  void mean_of_streams(Rows x, Rows out) override;
  void add_to_streams(Rows h, Rows gate, Rows x) override;
  void gate_streams(Rows key, Rows query, Rows value, Rows out) override;
  void gather(Rows x, std::span<const int32_t> rows, Rows out) override;
  void scatter_add(Rows x, std::span<const int32_t> rows, float scale, Rows out) override;
  void sample(Rows logits, std::span<const SampleArgs> args, std::span<SampledRow> out) override;
  std::span<float> host(Rows x, std::vector<float>& copy) override;

 private:
  enum class Op : uint8_t {
    embed,
    linear,
    attention,
    rms_norm,
    rope,
    store_kv,
    silu_mul,
    moe,
    convolution,
    gated_delta,
    indexer,
    sample,
    count
  };

  void counted(Op op, Format format) {
    counts_[static_cast<size_t>(op) * kFormats + static_cast<size_t>(format)].fetch_add(
        1, std::memory_order_relaxed);
  }
  bool has_tiles() const { return kernels_.tiles != nullptr && precision_ == Precision::bf16; }
  CacheLayout cache_layout() const {
    return {precision_ == Precision::f32 ? Format::f32 : Format::bf16, has_tiles()};
  }
  // task(first_row, last_row) over all rows, in pieces worth waking a thread for.
  template <class Task>
  void for_rows(int64_t rows, int64_t floats_per_row, Task&& task) {
    const int64_t piece = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, floats_per_row));
    pool_.for_each((rows + piece - 1) / piece,
                   [&](int64_t item, int) { task(item * piece, std::min(rows, (item + 1) * piece)); });
  }
  // Scratch of `floats` floats for each worker, aligned, kept from call to call.
  float* scratch(int64_t floats_per_worker);
  float* worker_scratch(int worker) const;

  // Level, precision and weight decide who multiplies: never how many rows there are.
  bool takes_tiles(const Projection& p) const { return !p.exact && takes_tiles(*p.weight); }
  bool takes_tiles(const Weight& weight) const { return has_tiles() && own(weight).format == Format::bf16; }
  // compute(r, to) of every row r of out, which it may not read again: plain, or an operand.
  template <class Compute>
  void write_rows(Rows out, Compute&& compute) {
    if (out.form == Form::operand)
      return write_operand(out, std::function<void(int64_t, float*)>(std::ref(compute)));
    for_rows(out.rows, out.width, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) compute(r, row(out, r));
    });
  }
  void write_operand(Rows out, const std::function<void(int64_t row, float* to)>& compute);
  void check(Rows x, std::span<const Projection> projections);  // their shapes; counts them
  // up: the second matrix of gated_linear(), of which the only projection has the first.
  void linear_in_tiles(Rows x, std::span<const Projection> projections, const CpuWeight* up = nullptr);
  void linear_in_vectors(Rows x, std::span<const Projection> projections);
  Rows packed(Rows x);
  void pack_group(const float* x, int64_t group, Rows out, int64_t first_chunk, int64_t last_chunk);
  // Floats of scratch that attention of a task needs, and the kernel that does it.
  int64_t attention_floats(int64_t queries, int64_t head_dim) const;
  void attend(const CpuCache& cache, const AttentionTask& task) const;

  // attention() of the rows at positions before `end`.
  void attend(const CpuCache& cache, const Batch& batch, const AttentionArgs& args, int64_t end, Rows q,
              Rows out);

  void pick_groups(const CpuCache& cache, const SequenceRows& sequence, const AttentionArgs& args,
                   const IndexerShape& shape, int64_t position, const float* query, float* scratch,
                   std::span<int32_t> picked) const;

  void list_items(const Batch& batch, int64_t rows_per_item, int64_t heads, int64_t end);

  // Some rows of one sequence and one key/value head.
  struct AttentionItem {
    int32_t sequence;
    int32_t head;
    int32_t first_row;  // inside the sequence
    int32_t rows;
  };

  // A row that an expert works on, and how much its answer counts.
  struct Assignment {
    int32_t row;
    float weight;
  };
  // What moe() works with, kept from call to call.
  struct Routing {
    std::vector<int32_t> order, chosen;
    std::vector<double> probabilities;
    std::vector<std::vector<Assignment>> assigned;  // [expert], rows ascending
  };
  void route(float* logits, int64_t experts, const MoeArgs& args);

  Precision precision_;
  Isa isa_;
  const Kernels& kernels_;
  ThreadPool pool_;
  Buffer scratch_;
  int64_t scratch_stride_ = 0;  // floats
  Buffer packed_;               // activations for tiles
  std::vector<AttentionItem> attention_items_;
  // Of indexed_attention(): rows that do not see everything, and which groups each of them picked, ascending.
  struct SparseRow {
    int32_t sequence;
    int32_t row;  // inside the sequence
  };
  std::vector<SparseRow> sparse_rows_;
  std::vector<int32_t> picked_;  // [sparse row][budget / ratio]
  Routing routing_;
  RowSampler sampler_;
  std::array<std::atomic<int64_t>, static_cast<size_t>(Op::count) * kFormats> counts_{};
};

}  // namespace qwen::cpu
