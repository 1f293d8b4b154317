// Named, typed, shaped bytes: what a checkpoint (or a host's memory) offers and what a backend loads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace qwen {

enum class DType : uint8_t {
  f32,
  f16,
  bf16,
  f64,
  f8_e4m3,
  f8_e5m2,
  i8,
  u8,
  i16,
  u16,
  i32,
  u32,
  i64,
  u64,
  boolean
};

size_t dtype_size(DType dtype);            // bytes of one element
std::string_view dtype_name(DType dtype);  // the safetensors name: "F32", "BF16", …

// Row-major; borrowed: valid as long as the TensorSource that gave it. `data` may have any alignment.
struct TensorView {
  std::string name;  // as the file has it
  DType dtype = DType::f32;
  std::vector<int64_t> shape;  // empty: a scalar
  const std::byte* data = nullptr;
  size_t bytes = 0;
  std::string source;  // the file (or "memory") it lives in, for error messages
};

std::string shape_text(const std::vector<int64_t>& shape);  // "[1024, 3072]"

// A set of tensors by name. Immutable once a model uses it; safe for concurrent readers.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const TensorView* find(std::string_view name) const = 0;  // nullptr: absent
  virtual std::vector<std::string> names() const = 0;               // sorted
  virtual std::string description() const = 0;                      // for messages: the folder, or "memory"
};

}  // namespace qwen
