#include "checkpoint/tensor.h"

#include "base/error.h"

namespace qwen {

DTypeBlock dtype_block(DType dtype) {
  switch (dtype) {
    case DType::q4_0:
      return {32, 2 + 16};
    case DType::q4_1:
      return {32, 2 + 2 + 16};
    case DType::q5_0:
      return {32, 2 + 4 + 16};
    case DType::q5_1:
      return {32, 2 + 2 + 4 + 16};
    case DType::q8_0:
      return {32, 2 + 32};
    case DType::iq4_nl:
      return {32, 2 + 16};
    case DType::mxfp4:
      return {32, 1 + 16};
    case DType::q2_k:
      return {256, 16 + 64 + 2 + 2};
    case DType::q3_k:
      return {256, 32 + 64 + 12 + 2};
    case DType::q4_k:
      return {256, 2 + 2 + 12 + 128};
    case DType::q5_k:
      return {256, 2 + 2 + 12 + 32 + 128};
    case DType::q6_k:
      return {256, 128 + 64 + 16 + 2};
    case DType::iq4_xs:
      return {256, 2 + 2 + 4 + 128};
    default:
      return {1, dtype_size(dtype)};
  }
}

size_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::f8_e4m3:
    case DType::f8_e5m2:
    case DType::i8:
    case DType::u8:
    case DType::boolean:
      return 1;
    case DType::f16:
    case DType::bf16:
    case DType::i16:
    case DType::u16:
      return 2;
    case DType::f32:
    case DType::i32:
    case DType::u32:
      return 4;
    case DType::f64:
    case DType::i64:
    case DType::u64:
      return 8;
    default:
      break;
  }
  fail(Status::internal, "dtype ", static_cast<int>(dtype), " has no size");
}

std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "F32";
    case DType::f16:
      return "F16";
    case DType::bf16:
      return "BF16";
    case DType::f64:
      return "F64";
    case DType::f8_e4m3:
      return "F8_E4M3";
    case DType::f8_e5m2:
      return "F8_E5M2";
    case DType::i8:
      return "I8";
    case DType::u8:
      return "U8";
    case DType::i16:
      return "I16";
    case DType::u16:
      return "U16";
    case DType::i32:
      return "I32";
    case DType::u32:
      return "U32";
    case DType::i64:
      return "I64";
    case DType::u64:
      return "U64";
    case DType::boolean:
      return "BOOL";
    case DType::q4_0:
      return "Q4_0";
    case DType::q4_1:
      return "Q4_1";
    case DType::q5_0:
      return "Q5_0";
    case DType::q5_1:
      return "Q5_1";
    case DType::q8_0:
      return "Q8_0";
    case DType::q2_k:
      return "Q2_K";
    case DType::q3_k:
      return "Q3_K";
    case DType::q4_k:
      return "Q4_K";
    case DType::q5_k:
      return "Q5_K";
    case DType::q6_k:
      return "Q6_K";
    case DType::iq4_nl:
      return "IQ4_NL";
    case DType::iq4_xs:
      return "IQ4_XS";
    case DType::mxfp4:
      return "MXFP4";
  }
  fail(Status::internal, "dtype ", static_cast<int>(dtype), " has no name");
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (const int64_t size : shape) {
    if (out.size() > 1) out += ", ";
    detail::append(out, size);
  }
  return out += "]";
}

TensorView stack_rows(const TensorView& stack, int64_t index, int64_t first_row, int64_t rows) {
  TensorView part = stack;
  const int64_t columns = stack.shape[2];
  const auto element = static_cast<int64_t>(dtype_size(stack.dtype));
  part.shape = {rows, columns};
  part.data += (index * stack.shape[1] + first_row) * columns * element;
  part.bytes = static_cast<size_t>(rows * columns * element);
  return part;
}

TensorView stack_columns(const TensorView& stack, int64_t index, int64_t first_column, int64_t columns) {
  TensorView part = stack;
  const int64_t rows = stack.shape[1];
  const auto element = static_cast<int64_t>(dtype_size(stack.dtype));
  part.shape = {rows, columns};
  part.row_stride = stack.shape[2];
  part.data += (index * rows * part.row_stride + first_column) * element;
  part.bytes = static_cast<size_t>(((rows - 1) * part.row_stride + columns) * element);
  return part;
}

}  // namespace qwen
