// CudaBackend's linear attention: which rows, states and memory go to the kernels of recurrent.h.
#include "backend/cuda/cuda_backend.h"

namespace qwen::cuda {
namespace {

RecurrentCacheView view_of(const CacheStorage& storage, int64_t layer) {
  return static_cast<const CudaStateCache&>(storage).view(layer);
}

}  // namespace

void CudaBackend::convolution(CacheStorage& cache, const Batch& batch, const ConvolutionArgs& args, Rows x,
                              const Weight& weight, Rows out) {
  counted(Op::convolution, Element::f32);
  convolve(*stream_, {.batch = arrays_of(batch).recurrent(args.group),
                      .cache = view_of(cache, args.layer),
                      .x = static_cast<const float*>(x.data),
                      .weight = own(weight).floats(),
                      .out = static_cast<float*>(out.data)});
}

void CudaBackend::gated_delta(CacheStorage& cache, const Batch& batch, const GatedDeltaArgs& args,
                              const GatedDeltaInput& input, Rows out) {
  counted(Op::gated_delta, Element::f32);
  const RecurrentRows rows = arrays_of(batch).recurrent(args.group);
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
