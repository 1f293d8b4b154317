#include "backend/cpu/cpu_weight.h"

#include <algorithm>

#include "base/error.h"

namespace qwen::cpu {
namespace {

// Blocks have the same order in both enumerations.
Format block_format_of(DType dtype) {
  return static_cast<Format>(kFirstBlockFormat + static_cast<int>(dtype) - static_cast<int>(DType::q4_0));
}
static_assert(static_cast<int>(DType::q6_k) - static_cast<int>(DType::q4_0) == kBlockFormats - 1);

Format format_of(const TensorView& tensor) {
  if (is_blocked(tensor.dtype)) return block_format_of(tensor.dtype);
  switch (tensor.dtype) {
    case DType::f32:
      return Format::f32;
    case DType::f16:
      return Format::f16;
    case DType::bf16:
      return Format::bf16;
    default:
      fail(Status::unsupported, "tensor ", quote(tensor.name), " in ", tensor.source, " has dtype ",
           dtype_name(tensor.dtype), "; the CPU backend takes F32, F16, BF16 and the blocks of GGUF files");
  }
}

}  // namespace

CpuWeight::CpuWeight(const TensorView& tensor, WeightUse use, Precision precision, const Kernels& kernels)
    : format(format_of(tensor)), data(tensor.data) {
  const size_t rank = use == WeightUse::matrix ? 2 : 1;
  if (tensor.shape.size() != rank) {
    fail(Status::unsupported, "tensor ", quote(tensor.name), " in ", tensor.source, " has shape ",
         shape_text(tensor.shape), "; expected ", rank, " dimension", rank == 1 ? "" : "s");
  }
  outputs = tensor.shape[0];
  width = use == WeightUse::matrix ? tensor.shape[1] : 1;
  const int64_t elements = outputs * width;
  if (is_blocked(format)) {
    const auto [in_block, block_bytes] = dtype_block(tensor.dtype);
    if (use == WeightUse::vector || width % in_block != 0 ||
        tensor.bytes != static_cast<size_t>(elements / in_block) * block_bytes)
      fail(Status::unsupported, "tensor ", quote(tensor.name), " in ", tensor.source, " is ",
           dtype_name(tensor.dtype), " of shape ", shape_text(tensor.shape), " in ", tensor.bytes,
           " bytes; a matrix with rows of whole blocks of ", in_block, " elements and ", block_bytes,
           " bytes is expected");
    return;
  }
  if (tensor.bytes != static_cast<size_t>(outputs * row_bytes())) {
    fail(Status::invalid_file, "tensor ", quote(tensor.name), " in ", tensor.source, " has ", tensor.bytes,
         " bytes; its shape ", shape_text(tensor.shape), " needs ", outputs * row_bytes());
  }

  const auto purpose = [&] { return cat("tensor ", quote(tensor.name)); };
  if (use == WeightUse::vector) {
    copy_ = Buffer(static_cast<size_t>(elements) * sizeof(float), purpose());
    kernels.widen[static_cast<int>(format)](data, elements, reinterpret_cast<float*>(copy_.data()));
    format = Format::f32;
    data = copy_.data();
  } else if (format == Format::f32 && precision == Precision::bf16) {
    copy_ = Buffer(static_cast<size_t>(elements) * sizeof(uint16_t), purpose());
    // Row by row through an aligned line: the file's floats may lie at any byte offset.
    Buffer line(static_cast<size_t>(width) * sizeof(float), purpose());
    float* const floats = reinterpret_cast<float*>(line.data());
    for (int64_t row = 0; row < outputs; ++row) {
      kernels.widen[static_cast<int>(Format::f32)](data + row * width * 4, width, floats);
      kernels.narrow_bf16(floats, width, reinterpret_cast<uint16_t*>(copy_.data()) + row * width);
    }
    format = Format::bf16;
    data = copy_.data();
  }
}

CpuWeight::CpuWeight(const QuantizedTensor& tensor) : outputs(tensor.out), width(tensor.in) {
  quantized_.emplace(tensor);
  format = quantized_->format();
}

void CpuWeight::widen(const Kernels& kernels, const Panel& panel, float* to, int64_t stride) const {
  if (quantized_) return quantized_->dequantize(kernels, panel, to, stride);
  if (is_blocked(format)) return widen_blocks(kernels, panel, to, stride);
  const std::byte* const source = data + panel.output * row_bytes() + panel.input * element_bytes();
  for (int64_t n = 0; n < panel.outputs; ++n)
    kernels.widen[static_cast<int>(format)](source + n * row_bytes(), panel.inputs, to + n * stride);
}

void CpuWeight::widen_blocks(const Kernels& kernels, const Panel& panel, float* to, int64_t stride) const {
  const auto widen = kernels.widen_blocks[static_cast<int>(format) - kFirstBlockFormat];
  const int64_t elements = block_elements(format), bytes = block_bytes(format);
  for (int64_t n = 0; n < panel.outputs; ++n) {
    const std::byte* const row = data + (panel.output + n) * (width / elements) * bytes;
    float* out = to + n * stride;
    for (int64_t i = panel.input, end = i + panel.inputs; i < end;) {
      const std::byte* const block = row + i / elements * bytes;
      const int64_t whole = i % elements == 0 ? (end - i) / elements : 0;
      int64_t done = whole * elements;
      if (whole > 0) {
        widen(block, whole, out);
      } else {  // a panel may begin or end inside a block
        float values[kMaxBlockElements];
        widen(block, 1, values);
        done = std::min(elements - i % elements, end - i);
        std::copy_n(values + i % elements, done, out);
      }
      out += done;
      i += done;
    }
  }
}

}  // namespace qwen::cpu
