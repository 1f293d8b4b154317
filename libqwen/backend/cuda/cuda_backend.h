// The CUDA backend: which memory goes to which kernel. The arithmetic is in the .cu files.
//
// Everything happens on one stream, in the order of the calls; the CPU waits in finish_sampling() and host() only. Steps in which every sequence
// has one row are captured and replayed (cuda_step.cpp). In bf16, linear() and gated_linear() multiply bf16 matrices by rows
// rounded to bf16, whether these come as an operand or are rounded here: the same bits.
#pragma once

#include <array>
#include <atomic>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/attention.h"
#include "backend/cuda/cublas_lt.h"
#include "backend/cuda/cuda_memory.h"
#include "backend/cuda/cuda_state_cache.h"
#include "backend/cuda/cuda_weight.h"
#include "backend/cuda/device.h"
#include "backend/cuda/indexer.h"
#include "backend/cuda/linear.h"
#include "backend/cuda/paged.h"
#include "backend/cuda/sample.h"
#include "backend/cuda/step_arrays.h"

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
  bool works_behind() const override { return true; }

  WeightPtr load(const TensorView& tensor, WeightUse use) override { return uploader_.load(tensor, use); }
  WeightPtr load(const QuantizedTensor& tensor) override;
  void load_together(const std::function<void()>& loads) override { uploader_.together(loads); }
  std::unique_ptr<Workspace> create_workspace() override;
  size_t cache_block_bytes(const CacheGroupSpec& spec) const override;
  std::unique_ptr<CacheStorage> create_cache(const CacheGroupSpec& spec, int64_t blocks) override;

  Rows run_step(Workspace& workspace, const Batch& batch, bool repeatable,
                const std::function<Rows()>& ops) override;

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
  void finish_sampling() override;
  std::span<float> host(Rows x, std::vector<float>& copy) override;
  // Where the ids that sample() chose last stay on the device, in the order of its arguments; nullptr: none yet. For the stream's
  // work up to the next sample().
  const int32_t* sampled_ids() const { return sampled_ids_; }

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
    host,
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
  // An array of one step, which the next one may have otherwise: no step that has any can be replayed, but for those that are
  // among its StepArrays.
  template <class T>
  const T* put(HostArray& array, std::span<const T> values) {
    if (const void* known = step_.find(values.data())) return static_cast<const T*>(known);
    repeats_ = false;
    return array.put(device_, *stream_, values);
  }
  // An array that is the same in every step of the model.
  template <class T>
  const T* put_once(HostArray& array, std::span<const T> values) {
    if (!array.empty() && !array.holds(values.data(), values.size_bytes())) graphs_are_void_ = true;
    return array.put(device_, *stream_, values);
  }
  const std::byte* read_back(const void* from, size_t bytes);  // in pinned memory, until the next call
  const void* as_operand(Rows x);
  void multiply(Rows x, std::span<const Projection> projections, bool as_operands, Element element);
  bool lends(int64_t rows) const { return library_ && rows >= CublasLt::kLeastRows; }
  bool multiply_by_library(const LtProduct& product);
  bool gate_by_library(const GatedLinearArgs& args);

  void put_step(const Batch& batch);
  // Of the step, or of another batch that it computes besides. tiling: see StepArrays; 0: none.
  const StepArrays& arrays_of(const Batch& batch, int64_t tiling = 0);
  PagedCacheView view(const CudaCache& cache, int64_t layer) const;
  struct AttendedRows {  // see PagedAttentionArgs
    PagedRows rows;
    int64_t end = INT32_MAX;
    StepArrays::Tiles tiles;
    int64_t most_positions = 0;
  };
  void attend(const AttendedRows& rows, const PagedCacheView& cache, const AttentionArgs& args, Rows q,
              Rows out);

  // What a step of a shape is, once it was captured.
  using Counts = std::array<int64_t, static_cast<size_t>(Op::count) * kElements>;
  struct StepShape {
    const Workspace* workspace;
    int64_t rows, results, most_positions;
    bool operator==(const StepShape&) const = default;
  };
  struct KnownStep {
    explicit KnownStep(const StepShape& shape) : shape(shape) {}
    StepShape shape;
    bool seen = false;  // a step of it was computed, and nothing in it was of that step alone
    std::unique_ptr<Graph> graph;
    Rows results = {};
    Workspace::Mark end = {};  // of what it takes of the workspace
    Counts counts = {};
  };
  KnownStep& known_step(const StepShape& shape);
  void capture(KnownStep& step, const std::function<Rows()>& ops);
  void replay(const KnownStep& step);
  void give_graphs_up(const Error& why);
  void forget_graphs();
  Counts counts() const;

  Device device_;
  Precision precision_;
  std::unique_ptr<Stream> stream_;
  WeightUploader uploader_;
  std::unique_ptr<CublasLt> library_;  // null: strict, or there is none
  std::atomic<int64_t> by_library_ = 0;
  Scratch operand_, attention_, gated_delta_, picks_, gathered_, sampling_, sampled_;
  StepArrays step_, other_;
  std::vector<int64_t> tilings_;  // that attention has asked for
  HostArray ids_, positions_, frequencies_, axes_, indices_, sample_rows_, edits_;
  std::map<const Expert*, HostArray> experts_;  // of each mixture where its matrices are
  struct NgramArrays {
    HostArray shards, numbers;
  };
  std::map<const WeightPtr*, NgramArrays> ngrams_;  // of each table of n-grams' embeddings
  std::vector<SampleRow> to_sample_;
  std::vector<LogitEdit> all_edits_;
  const int32_t* sampled_ids_ = nullptr;
  std::span<SampledRow> sampled_rows_;  // of which finish_sampling() is to be told
  Memory answers_;                      // pinned, where sample() has them copied
  std::unique_ptr<Event> answered_;
  Memory readback_;  // pinned
  std::array<std::atomic<int64_t>, static_cast<size_t>(Op::count) * kElements> counts_{};

  std::list<KnownStep> known_steps_;  // the one that was used last first
  bool graphs_work_ = true;
  bool repeats_ = true;           // what was computed since the step's beginning
  bool graphs_are_void_ = false;  // what they read has been replaced
  int64_t freed_ = 0;             // of the stream, as its graphs know it
  std::atomic<int64_t> captures_ = 0, replays_ = 0, ahead_ = 0;
};

}  // namespace qwen::cuda
