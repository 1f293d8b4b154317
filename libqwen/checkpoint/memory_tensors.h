// Tensors in the host's memory as a TensorSource: borrowed, never copied.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/tensor.h"

namespace qwen {

class MemoryTensors final : public TensorSource {
 public:
  // released runs once when nobody uses the memory any longer.
  explicit MemoryTensors(std::function<void()> released) : released_(std::move(released)) {}
  ~MemoryTensors() override {
    if (released_) released_();
  }
  MemoryTensors(const MemoryTensors&) = delete;
  MemoryTensors& operator=(const MemoryTensors&) = delete;

  // Throws Error(invalid_argument): a second tensor of that name, a negative dimension, shape x dtype !=
  // bytes.
  void add(std::string name, DType dtype, std::vector<int64_t> shape, const void* data, size_t bytes);

  const TensorView* find(std::string_view name) const override;
  std::vector<std::string> names() const override;
  std::string description() const override { return "memory"; }

 private:
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::function<void()> released_;
};

}  // namespace qwen
