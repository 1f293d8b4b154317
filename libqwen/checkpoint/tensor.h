// Named, typed, shaped bytes: what a checkpoint (or a host's memory) offers and what a backend loads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
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
  boolean,
  // Blocks of GGUF files (backend/reference/blocks.h has the formulas): 32 elements of a row …
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  iq4_nl,
  mxfp4,
  // … or 256
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_xs
};

// Rows are kept in blocks of `elements` elements and `bytes` bytes; 1 element for the plain types.
struct DTypeBlock {
  int64_t elements;
  size_t bytes;
};
DTypeBlock dtype_block(DType dtype);
size_t dtype_size(DType dtype);            // bytes of one element of a plain type
std::string_view dtype_name(DType dtype);  // as the files name it: "F32", "BF16", "Q4_K", …
inline bool is_blocked(DType dtype) {
  return dtype >= DType::q4_0;
}

// Row-major; borrowed: valid as long as the TensorSource that gave it. `data` may have any alignment. A tensor of a
// TensorSource is dense.
struct TensorView {
  std::string name;  // as the file has it (a GGUF file: "blk.0.attn_q.weight")
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

// A set of tensors by the name that Qwen publishes them under. Immutable once a model uses it; safe for concurrent
// readers.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const TensorView* find(std::string_view name) const = 0;  // nullptr: absent
  virtual std::vector<std::string> names() const = 0;               // sorted
  virtual std::string description() const = 0;                      // for messages: the folder, or "memory"
  // For messages about a tensor that should be there: the name it would have in the file, and what says that it should.
  virtual std::string name_in_file(std::string_view name) const { return std::string(name); }
  virtual std::string_view configuration() const { return "config.json"; }
  // MappedFile::map_ahead() of the files, if there are any, one after the other. fraction: of all their bytes, 0…1.
  virtual void map_ahead(const std::function<bool(double fraction, bool from_disk)>&) const {}
};

}  // namespace qwen
