// The CUDA backend: which memory goes to which kernel. The arithmetic is in the .cu files.
//
// Everything happens on one stream, in the order of the calls; the CPU waits in host() only. In bf16, linear() and gated_linear()
// multiply bf16 matrices by rows rounded to bf16, whether these come as an operand or are rounded here: the same bits.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/attention.h"
#include "backend/cuda/cuda_memory.h"
#include "backend/cuda/cuda_state_cache.h"
#include "backend/cuda/cuda_weight.h"
#include "backend/cuda/device.h"
#include "backend/cuda/indexer.h"
#include "backend/cuda/paged.h"

namespace qwen::cuda {

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const CudaOptions& options);
  ~CudaBackend() override;

  std::string gpu_name() const;  // "GPU 0 (NVIDIA H200)"
  std::string name() const override;
  Precision precision() const override { return precision_; }
  std::vector<KernelCount> kernel_counts() const override;
  CacheRoom cache_room(int64_t step_bytes) const override;

  WeightPtr load(const TensorView& tensor, WeightUse use) override { return uploader_.load(tensor, use); }
  WeightPtr load(const QuantizedTensor& tensor) override;
  void load_together(const std::function<void()>& loads) override { uploader_.together(loads); }
  std::unique_ptr<Workspace> create_workspace() override;
  size_t cache_block_bytes(const CacheGroupSpec& spec) const override;
  std::unique_ptr<CacheStorage> create_cache(const CacheGroupSpec& spec, int64_t blocks) override;

  Form input_form(int64_t width, std::span<const Weight* const> weights) const override;
  void embed(const Weight& table, std::span<const int32_t> ids, Rows out) override;
  void embed(std::span<const WeightPtr> shards, std::span<const int64_t> ids, Rows out) override;
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
    count
  };
  static constexpr size_t kElements = 2;

  void counted(Op op, Element element) {
    counts_[static_cast<size_t>(op) * kElements + static_cast<size_t>(element)].fetch_add(
        1, std::memory_order_relaxed);
  }
  [[noreturn]] void missing(std::string_view what) const;
  bool takes_operand(const Weight& weight) const {
    return precision_ == Precision::bf16 && own(weight).element == Element::bf16;
  }
  Element cache_element() const { return precision_ == Precision::f32 ? Element::f32 : Element::bf16; }
  template <class T>
  const T* put(HostArray& array, std::span<const T> values) {
    return array.put(device_, *stream_, values);
  }
  const void* as_operand(Rows x);
  void multiply(Rows x, std::span<const Projection> projections, bool as_operands, Element element);

  // Where a step's rows are in the cache, of one cache group.
  struct GroupArrays {
    HostArray sequences, row_sequence, tables, tiles;
  };
  GroupArrays& arrays_of(int64_t group);
  PagedRows paged_rows(const Batch& batch, int64_t group);
  PagedCacheView view(const CudaCache& cache, int64_t layer) const;
  void attend(const PagedRows& rows, const PagedCacheView& cache, const AttentionArgs& args, Rows q, Rows out,
              HostArray& tiles);
  RecurrentRows recurrent_rows(const Batch& batch, int64_t group);

  Device device_;
  Precision precision_;
  std::unique_ptr<Stream> stream_;
  WeightUploader uploader_;
  Scratch operand_, attention_, gated_delta_, picks_, gathered_;
  HostArray ids_, shard_ids_, shards_, positions_, frequencies_, axes_, indices_;
  std::vector<std::unique_ptr<GroupArrays>> groups_;
  GroupArrays dense_, picked_;  // of rows that see all there is, and of those that pick
  HostArray sparse_;
  std::map<const Expert*, HostArray> experts_;  // of each mixture where its matrices are
  std::vector<PagedSequence> sequences_;  // of the batch that is being put together, as are the next five
  std::vector<SparseRow> sparse_rows_;
  std::vector<RecurrentSequence> recurrent_sequences_;
  std::vector<int32_t> row_sequence_, tables_;
  std::vector<AttentionTile> tiles_;
  Memory readback_;  // pinned
  std::array<std::atomic<int64_t>, static_cast<size_t>(Op::count) * kElements> counts_{};
};

}  // namespace qwen::cuda
