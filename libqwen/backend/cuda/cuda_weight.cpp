#include "backend/cuda/cuda_weight.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "backend/cuda/cuda_memory.h"
#include "backend/reference/reference.h"
#include "base/error.h"

namespace qwen::cuda {
namespace {

using reference::narrow_bf16;
using reference::widen_f16;

bool is_matrix(WeightUse use) {
  return use == WeightUse::matrix || use == WeightUse::transposed_matrix;
}

// A tensor's element as float32; its bytes may lie at any offset.
float value_at(const std::byte* data, DType dtype, int64_t i) {
  if (dtype == DType::f32) {
    float value;
    std::memcpy(&value, data + i * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data + i * 2, 2);
  return dtype == DType::bf16 ? reference::from_bits(uint32_t{bits} << 16) : widen_f16(bits);
}

void check(const TensorView& tensor, WeightUse use) {
  const size_t rank = is_matrix(use) ? 2 : use == WeightUse::convolution ? 3 : 1;
  if (tensor.dtype != DType::f32 && tensor.dtype != DType::f16 && tensor.dtype != DType::bf16)
    fail(Status::unsupported, "tensor ", quote(tensor.name), " in ", tensor.source, " has dtype ",
         dtype_name(tensor.dtype),
         "; on a GPU there are F32, F16 and BF16 so far (option 'device' = 'cpu' takes more)");
  if (tensor.shape.size() != rank)
    fail(Status::unsupported, "tensor ", quote(tensor.name), " in ", tensor.source, " has shape ",
         shape_text(tensor.shape), "; expected ", rank, " dimension", rank == 1 ? "" : "s");
  int64_t width = 1;
  for (size_t i = 1; i < rank; ++i) width *= tensor.shape[i];
  const int64_t stride = tensor.row_stride > 0 ? tensor.row_stride : width;
  const int64_t spanned = tensor.shape[0] == 0 ? 0 : (tensor.shape[0] - 1) * stride + width;
  const auto needed = static_cast<size_t>(spanned) * dtype_size(tensor.dtype);
  if (tensor.bytes != needed)
    fail(Status::invalid_file, "tensor ", quote(tensor.name), " in ", tensor.source, " has ", tensor.bytes,
         " bytes; its shape ", shape_text(tensor.shape), " needs ", needed);
}

}  // namespace

template <class Convert>
void WeightUploader::upload(Memory& memory, Element element, int64_t elements, const Convert& convert) {
  const size_t size = element_bytes(element);
  memory = device_.allocate(static_cast<size_t>(elements) * size, "weights");
  if (!stream_) stream_ = device_.create_stream();
  const auto in_piece = static_cast<int64_t>(kPiece / size);
  for (int64_t first = 0; first < elements; first += in_piece) {
    Staging& staging = staging_[first / in_piece % 2];
    if (!staging.copied) {
      staging.pinned = device_.allocate_pinned(kPiece, "reading weights");
      staging.copied = device_.create_event();
    }
    staging.copied->synchronize();
    const int64_t count = std::min(in_piece, elements - first);
    convert(first, count, staging.pinned.data());
    stream_->to_device(memory.data() + static_cast<size_t>(first) * size, staging.pinned.data(),
                       static_cast<size_t>(count) * size);
    stream_->record(*staging.copied);
  }
  stream_->synchronize();  // other streams read it next
}

// Matrices: bf16 as they are; f32 rounded to bf16 where that is the precision, as on the CPU; f16 as bf16 where that is exact, else
// widened.
WeightPtr WeightUploader::load(const TensorView& tensor, WeightUse use) {
  check(tensor, use);
  const std::lock_guard lock(mutex_);
  auto weight = std::make_shared<CudaWeight>();
  weight->outputs = tensor.shape[0];
  weight->width = 1;
  for (size_t i = 1; i < tensor.shape.size(); ++i) weight->width *= tensor.shape[i];
  const int64_t elements = weight->outputs * weight->width;
  const int64_t stride = tensor.row_stride > 0 ? tensor.row_stride : weight->width;
  // Where in the file element i of what is kept stands.
  std::function<int64_t(int64_t)> place = [](int64_t i) { return i; };
  const bool turned = use == WeightUse::transposed_matrix || use == WeightUse::convolution;
  if (turned) {  // a convolution: [kernel][channels], so that neighbouring threads read neighbouring channels
    std::swap(weight->outputs, weight->width);
    place = [inner = weight->width, stride](int64_t i) { return i % inner * stride + i / inner; };
  } else if (stride != weight->width) {
    place = [inner = weight->width, stride](int64_t i) { return i / inner * stride + i % inner; };
  }
  const bool dense = !turned && stride == weight->width;

  if (is_matrix(use)) {
    const auto is_bf16 = [&](float value) {
      return reference::from_bits(uint32_t{narrow_bf16(value)} << 16) == value;
    };
    bool narrow =
        tensor.dtype == DType::bf16 || (tensor.dtype == DType::f32 && precision_ == Precision::bf16);
    if (tensor.dtype == DType::f16) {
      narrow = true;
      for (int64_t i = 0; i < elements && narrow; ++i)
        narrow = is_bf16(value_at(tensor.data, tensor.dtype, place(i)));
    }
    weight->element = narrow ? Element::bf16 : Element::f32;
  }
  const bool as_it_is =
      dense && use != WeightUse::vector_minus_one &&
      (weight->element == Element::bf16 ? tensor.dtype == DType::bf16 : tensor.dtype == DType::f32);
  const size_t size = element_bytes(weight->element);
  upload(weight->memory, weight->element, elements, [&](int64_t first, int64_t count, std::byte* to) {
    if (as_it_is) {
      std::memcpy(to, tensor.data + static_cast<size_t>(first) * size, static_cast<size_t>(count) * size);
    } else if (weight->element == Element::bf16) {
      for (int64_t i = 0; i < count; ++i)
        reinterpret_cast<uint16_t*>(to)[i] =
            narrow_bf16(value_at(tensor.data, tensor.dtype, place(first + i)));
    } else {
      const float added = use == WeightUse::vector_minus_one ? 1 : 0;
      for (int64_t i = 0; i < count; ++i)
        reinterpret_cast<float*>(to)[i] = value_at(tensor.data, tensor.dtype, place(first + i)) + added;
    }
  });
  return weight;
}

}  // namespace qwen::cuda
