// How the CUDA backend keeps parameters: in device memory, matrices row by row in the type they are multiplied in, everything small as
// float32.
#pragma once

#include <mutex>

#include "backend/backend.h"
#include "backend/cuda/device.h"
#include "backend/cuda/element.h"

namespace qwen::cuda {

class CudaWeight final : public Weight {
 public:
  Element element = Element::f32;
  int64_t outputs = 0;  // of a matrix; elements of a vector; positions of a convolution's kernel
  int64_t width = 0;    // inputs of a matrix; 1 for a vector; channels of a convolution
  Memory memory;

  const float* floats() const {
    return reinterpret_cast<const float*>(memory.data());
  }  // of anything but a matrix
};

// A model's weights come from this backend's load().
inline const CudaWeight& own(const Weight& weight) {
  return static_cast<const CudaWeight&>(weight);
}

// Reads tensors into device memory: pieces are converted on the CPU into pinned memory while the one before is on its way. Threads
// take turns.
class WeightUploader {
 public:
  WeightUploader(const Device& device, Precision precision) : device_(device), precision_(precision) {}

  // Throws Error: unsupported (dtype, rank), invalid_file (bytes do not fit the shape), out_of_memory.
  WeightPtr load(const TensorView& tensor, WeightUse use);

 private:
  static constexpr size_t kPiece = size_t{8} << 20;  // bytes
  struct Staging {
    Memory pinned;
    std::unique_ptr<Event> copied;
  };
  // convert(first, count, to): elements [first, first + count) of the result.
  template <class Convert>
  void upload(Memory& memory, Element element, int64_t elements, const Convert& convert);

  const Device& device_;
  Precision precision_;
  std::mutex mutex_;
  Staging staging_[2];
  std::unique_ptr<Stream> stream_;
};

}  // namespace qwen::cuda
