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

// Row-major; borrowed: valid as long as the TensorSource that gave it. `data` may have any alignment. A tensor of a
// TensorSource is dense.
struct TensorView {
  std::string name;  // as the file has it
  DType dtype = DType::f32;
  std::vector<int64_t> shape;  // empty: a scalar
  const std::byte* data = nullptr;
  size_t bytes = 0;
  std::string source;      // the file (or "memory") it lives in, for error messages
  int64_t row_stride = 0;  // elements from one row to the next, where it is some columns of a wider matrix
};

// Matrix `index` of a stack [count, rows, columns]: its rows [first_row, first_row + rows), or its columns
// [first_column, first_column + columns). Precondition: they are there.
TensorView stack_rows(const TensorView& stack, int64_t index, int64_t first_row, int64_t rows);
TensorView stack_columns(const TensorView& stack, int64_t index, int64_t first_column, int64_t columns);

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
