// CudaBackend's linear attention: which rows, states and memory go to the kernels of recurrent.h.
#include "backend/cuda/cuda_backend.h"

namespace qwen::cuda {
namespace {

RecurrentCacheView view_of(const CacheStorage& storage, int64_t layer) {
  return static_cast<const CudaStateCache&>(storage).view(layer);
}

}  // namespace

RecurrentRows CudaBackend::recurrent_rows(const Batch& batch, int64_t group) {
  recurrent_sequences_.clear();
  row_sequence_.clear();
  tables_.clear();
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const SequenceRows& sequence = batch.sequences[s];
    const std::span<const int32_t> table = sequence.block_tables[static_cast<size_t>(group)];
    recurrent_sequences_.push_back({.first_row = sequence.first_row,
                                    .row_count = sequence.row_count,
                                    .context_length = sequence.context_length,
                                    .table = static_cast<int32_t>(tables_.size()),
                                    .slot = sequence.state_slot});
    row_sequence_.insert(row_sequence_.end(), static_cast<size_t>(sequence.row_count),
                         static_cast<int32_t>(s));
    tables_.insert(tables_.end(), table.begin(), table.end());
  }
  GroupArrays& arrays = arrays_of(group);
  return {.sequences = put(arrays.sequences, std::span<const RecurrentSequence>(recurrent_sequences_)),
          .sequence_count = static_cast<int64_t>(recurrent_sequences_.size()),
          .row_sequence = put(arrays.row_sequence, std::span<const int32_t>(row_sequence_)),
          .tables = put(arrays.tables, std::span<const int32_t>(tables_)),
          .rows = static_cast<int64_t>(row_sequence_.size())};
}

void CudaBackend::convolution(CacheStorage& cache, const Batch& batch, const ConvolutionArgs& args, Rows x,
                              const Weight& weight, Rows out) {
  counted(Op::convolution, Element::f32);
  convolve(*stream_, {.batch = recurrent_rows(batch, args.group),
                      .cache = view_of(cache, args.layer),
                      .x = static_cast<const float*>(x.data),
                      .weight = own(weight).floats(),
                      .out = static_cast<float*>(out.data)});
}

void CudaBackend::gated_delta(CacheStorage& cache, const Batch& batch, const GatedDeltaArgs& args,
                              const GatedDeltaInput& input, Rows out) {
  counted(Op::gated_delta, Element::f32);
  const RecurrentRows rows = recurrent_rows(batch, args.group);
  const auto floats =
      static_cast<size_t>(delta_rule_scratch_floats(args.shape, rows.rows, rows.sequence_count));
  delta_rule(*stream_, {.batch = rows,
                        .cache = view_of(cache, args.layer),
                        .qkv = static_cast<const float*>(input.qkv.data),
                        .beta = static_cast<const float*>(input.beta.data),
                        .decay = static_cast<const float*>(input.decay.data),
                        .a_log = own(input.a_log).floats(),
                        .dt_bias = own(input.dt_bias).floats(),
                        .scratch = static_cast<float*>(gated_delta_.get(
                            device_, *stream_, floats * sizeof(float), "rows of the gated delta rule")),
                        .out = static_cast<float*>(out.data)});
}

}  // namespace qwen::cuda
