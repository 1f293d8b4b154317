#include "backend/cuda/cuda_backend.h"
#include "backend/row_sampler.h"

namespace qwen::cuda {

void CudaBackend::sample(Rows logits, std::span<const SampleArgs> args, std::span<SampledRow> out) {
  std::vector<float> copy;
  const auto values = host(logits, copy);
  RowSampler sampler;
  for (size_t i = 0; i < args.size(); ++i)
    sampler.sample(
        values.subspan(static_cast<size_t>(args[i].row * logits.width), static_cast<size_t>(logits.width)),
        args[i], out[i]);
}

}  // namespace qwen::cuda
