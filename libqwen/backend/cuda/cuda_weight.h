// How the CUDA backend keeps parameters: in device memory, matrices row by row in the type they are multiplied in, everything small as
// float32.
#pragma once

#include <functional>
#include <memory>
#include <mutex>

#include "backend/backend.h"
#include "backend/cuda/device.h"
#include "backend/cuda/element.h"

namespace qwen::cuda {

// The copies of some weights on their way.
struct Upload;

class CudaWeight final : public Weight {
 public:
  ~CudaWeight() override;

  Element element = Element::f32;
  int64_t outputs = 0;  // of a matrix; elements of a vector; positions of a convolution's kernel
  int64_t width = 0;    // inputs of a matrix; 1 for a vector; channels of a convolution
  Memory memory;
  std::weak_ptr<Upload> upload;  // while there is one

  const float* floats() const {
    return reinterpret_cast<const float*>(memory.data());
  }  // of anything but a matrix
};

// A model's weights come from this backend's load().
inline const CudaWeight& own(const Weight& weight) {
  return static_cast<const CudaWeight&>(weight);
}

// Reads tensors into device memory: threads read and convert pieces into pinned memory, and while these are on their way the next
// ones. Threads that load take turns.
class WeightUploader {
 public:
  // threads: that read at most; 0: as many as are of use.
  WeightUploader(const Device& device, Precision precision, int threads)
      : device_(device), precision_(precision), threads_(threads) {}

  // Throws Error: unsupported (dtype, rank), invalid_file (bytes do not fit the shape), out_of_memory.
  WeightPtr load(const TensorView& tensor, WeightUse use);
  // As Backend::load_together().
  void together(const std::function<void()>& loads);

 private:
  const Device& device_;
  Precision precision_;
  int threads_;
  std::mutex mutex_;
  int together_ = 0;  // calls under way
  std::shared_ptr<Upload> upload_;
};

}  // namespace qwen::cuda
