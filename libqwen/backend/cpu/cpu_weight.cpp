#include "backend/cpu/cpu_weight.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace qwen::cpu {
namespace {

// Blocks have the same order in both enumerations.
Format block_format_of(DType dtype) {
  return static_cast<Format>(kFirstBlockFormat + static_cast<int>(dtype) - static_cast<int>(DType::q4_0));
}
static_assert(static_cast<int>(DType::iq4_xs) - static_cast<int>(DType::q4_0) == kBlockFormats - 1);

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

bool is_matrix(WeightUse use) {
  return use == WeightUse::matrix || use == WeightUse::transposed_matrix;
}

size_t rank_of(WeightUse use) {
  return is_matrix(use) ? 2 : use == WeightUse::convolution ? 3 : 1;
}

}  // namespace

CpuWeight::CpuWeight(const TensorView& tensor, WeightUse use, Precision precision, const Kernels& kernels)
    : format(format_of(tensor)), data(tensor.data), transposed_(use == WeightUse::transposed_matrix) {
  const size_t rank = rank_of(use);
  if (tensor.shape.size() != rank) {
    fail(Status::unsupported, "tensor ", quote(tensor.name), " in ", tensor.source, " has shape ",
         shape_text(tensor.shape), "; expected ", rank, " dimension", rank == 1 ? "" : "s");
  }
  outputs = tensor.shape[0];
  width = 1;
  for (size_t i = 1; i < rank; ++i) width *= tensor.shape[i];
  row_stride_ = tensor.row_stride > 0 ? tensor.row_stride : width;
  if (is_blocked(format)) {
    const auto [in_block, block_bytes] = dtype_block(tensor.dtype);
    if (use != WeightUse::matrix || width % in_block != 0 ||
        tensor.bytes != static_cast<size_t>(outputs * width / in_block) * block_bytes)
      fail(Status::unsupported, "tensor ", quote(tensor.name), " in ", tensor.source, " is ",
           dtype_name(tensor.dtype), " of shape ", shape_text(tensor.shape), " in ", tensor.bytes,
           " bytes; a matrix with rows of whole blocks of ", in_block, " elements and ", block_bytes,
           " bytes is expected");
    return;
  }
  const int64_t spanned = outputs == 0 ? 0 : (outputs - 1) * row_stride_ + width;
  if (tensor.bytes != static_cast<size_t>(spanned * element_bytes())) {
    fail(Status::invalid_file, "tensor ", quote(tensor.name), " in ", tensor.source, " has ", tensor.bytes,
         " bytes; its shape ", shape_text(tensor.shape), " needs ", spanned * element_bytes());
  }
  if (transposed_) {
    std::swap(outputs, width);
  } else if (!is_matrix(use)) {
    keep_as_floats(tensor, use, kernels);
  } else if (format == Format::f32 && precision == Precision::bf16) {
    keep_as_bf16(tensor, kernels);
  }
}

void CpuWeight::keep_as_floats(const TensorView& tensor, WeightUse use, const Kernels& kernels) {
  const int64_t elements = outputs * width;
  const auto purpose = cat("tensor ", quote(tensor.name));
  copy_ = Buffer(static_cast<size_t>(elements) * sizeof(float), purpose);
  auto* const floats = reinterpret_cast<float*>(copy_.data());
  kernels.widen[static_cast<int>(format)](data, elements, floats);
  if (use == WeightUse::vector_minus_one) {
    for (int64_t i = 0; i < elements; ++i) floats[i] += 1;
  } else if (use ==
             WeightUse::convolution) {  // [kernel][channels], so that a vector is of neighbouring channels
    Buffer turned(static_cast<size_t>(elements) * sizeof(float), purpose);
    for (int64_t channel = 0; channel < outputs; ++channel)
      for (int64_t j = 0; j < width; ++j)
        reinterpret_cast<float*>(turned.data())[j * outputs + channel] = floats[channel * width + j];
    copy_ = std::move(turned);
  }
  format = Format::f32;
  data = copy_.data();
}

void CpuWeight::keep_as_bf16(const TensorView& tensor, const Kernels& kernels) {
  const auto purpose = cat("tensor ", quote(tensor.name));
  copy_ = Buffer(static_cast<size_t>(outputs * width) * sizeof(uint16_t), purpose);
  // Row by row through an aligned line: the file's floats may lie at any byte offset.
  Buffer line(static_cast<size_t>(width) * sizeof(float), purpose);
  float* const floats = reinterpret_cast<float*>(line.data());
  for (int64_t row = 0; row < outputs; ++row) {
    kernels.widen[static_cast<int>(Format::f32)](data + row * width * 4, width, floats);
    kernels.narrow_bf16(floats, width, reinterpret_cast<uint16_t*>(copy_.data()) + row * width);
  }
  format = Format::bf16;
  data = copy_.data();
}

CpuWeight::CpuWeight(const QuantizedTensor& tensor) : outputs(tensor.out), width(tensor.in) {
  quantized_.emplace(tensor);
  format = quantized_->format();
}

void CpuWeight::widen(const Kernels& kernels, const Panel& panel, float* to, int64_t stride) const {
  if (quantized_) return quantized_->dequantize(kernels, panel, to, stride);
  if (transposed_) {
    // Some outputs of one input at a time: they lie side by side.
    constexpr int64_t kPiece = 64;
    float line[kPiece];
    for (int64_t first = 0; first < panel.outputs; first += kPiece) {
      const int64_t count = std::min(kPiece, panel.outputs - first);
      for (int64_t i = 0; i < panel.inputs; ++i) {
        const int64_t at = (panel.input + i) * row_stride_ + panel.output + first;
        kernels.widen[static_cast<int>(format)](data + at * element_bytes(), count, line);
        for (int64_t n = 0; n < count; ++n) to[(first + n) * stride + i] = line[n];
      }
    }
    return;
  }
  if (is_blocked(format)) return widen_blocks(kernels, panel, to, stride);
  const std::byte* const source = data + panel.output * row_bytes() + panel.input * element_bytes();
  for (int64_t n = 0; n < panel.outputs; ++n)
    kernels.widen[static_cast<int>(format)](source + n * row_bytes(), panel.inputs, to + n * stride);
}

void CpuWeight::copy_bf16(const Panel& panel, uint16_t* to) const {
  const int64_t next_output = transposed_ ? 1 : width, next_input = transposed_ ? row_stride_ : 1;
  for (int64_t i = 0; i < panel.inputs; ++i) {
    const std::byte* from = data + (panel.output * next_output + (panel.input + i) * next_input) * 2;
    for (int64_t n = 0; n < panel.outputs; ++n, from += next_output * 2)
      std::memcpy(to + n * panel.inputs + i, from, 2);
  }
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
