#include "checkpoint/memory_tensors.h"

#include "base/error.h"

namespace qwen {

void MemoryTensors::add(std::string name, DType dtype, std::vector<int64_t> shape, const void* data,
                        size_t bytes) {
  size_t expected = dtype_size(dtype);
  for (const int64_t size : shape) {
    if (size < 0)
      fail(Status::invalid_argument, "tensor ", quote(name), ": shape ", shape_text(shape), " is negative");
    if (__builtin_mul_overflow(expected, static_cast<size_t>(size), &expected))
      fail(Status::invalid_argument, "tensor ", quote(name), ": shape ", shape_text(shape), " is too large");
  }
  if (expected != bytes)
    fail(Status::invalid_argument, "tensor ", quote(name), ": shape ", shape_text(shape), " of ",
         dtype_name(dtype), " takes ", expected, " bytes, not ", bytes);
  TensorView view{.name = name,
                  .dtype = dtype,
                  .shape = std::move(shape),
                  .data = static_cast<const std::byte*>(data),
                  .bytes = bytes,
                  .source = "memory"};
  if (!tensors_.emplace(name, std::move(view)).second)
    fail(Status::invalid_argument, "tensor ", quote(name), " was added already");
}

const TensorView* MemoryTensors::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

std::vector<std::string> MemoryTensors::names() const {
  std::vector<std::string> names;
  for (const auto& [name, view] : tensors_) names.push_back(name);
  return names;
}

}  // namespace qwen
