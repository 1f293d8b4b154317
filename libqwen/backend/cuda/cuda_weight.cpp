#include "backend/cuda/cuda_weight.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <optional>
#include <vector>

#include "backend/cuda/cuda_memory.h"
#include "backend/reference/reference.h"
#include "base/cores.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread_pool.h"

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

// Where what is kept stands in the file: element i of it is `column` of `row`, each so many elements from the one before.
struct Layout {
  int64_t columns, row_step, column_step;
};

// Elements [first, first + count) of a tensor, plus `added`, as float32 or bfloat16.
void convert(const TensorView& tensor, const Layout& layout, Element element, float added, int64_t first,
             int64_t count, std::byte* to) {
  int64_t row = first / layout.columns, column = first % layout.columns;
  for (int64_t i = 0; i < count; ++i) {
    const float value =
        value_at(tensor.data, tensor.dtype, row * layout.row_step + column * layout.column_step) + added;
    if (element == Element::bf16) {
      reinterpret_cast<uint16_t*>(to)[i] = narrow_bf16(value);
    } else {
      reinterpret_cast<float*>(to)[i] = value;
    }
    if (++column == layout.columns) column = 0, ++row;
  }
}

}  // namespace

// One stream, which the copies of all tensors share; each reader has two places of pinned memory, in turns. A copy of 2 MiB takes
// 40 us at 50 GB/s, reading it on one core some 200 us: a few cores fill the bus, more pinned memory than this is of no use.
struct Upload {
  static constexpr int64_t kPiece = int64_t{2} << 20;  // bytes
  static constexpr int kMostReaders = 8;
  struct Place {
    Memory pinned;
    std::unique_ptr<Event> copied;
  };
  struct Reader {
    Place places[2];
    int turn = 0;
  };

  Upload(const Device& device, int threads)
      : device(device), readers(static_cast<size_t>(threads)), stream(device.create_stream()) {}

  // fill(first, count, to) writes bytes [first, first + count) of what goes to `to`. Returns when all is read.
  template <class Fill>
  void copy(std::byte* to, int64_t bytes, const Fill& fill) {
    const int64_t pieces = (bytes + kPiece - 1) / kPiece;
    std::exception_ptr error;
    std::atomic<bool> failed = false;
    const auto read = [&](int64_t piece, int worker) {
      if (failed) return;
      try {
        const int64_t first = piece * kPiece, count = std::min(kPiece, bytes - first);
        Place& place = free_place(readers[static_cast<size_t>(worker)]);
        fill(first, count, place.pinned.data());
        const std::lock_guard lock(mutex);
        stream->to_device(to + first, place.pinned.data(), static_cast<size_t>(count));
        stream->record(*place.copied);
      } catch (...) {
        const std::lock_guard lock(mutex);
        error = std::current_exception();
        failed = true;
      }
    };
    if (pieces == 1) {
      read(0, 0);
    } else if (pieces > 1) {
      if (!pool) pool.emplace(static_cast<int>(readers.size()));
      pool->for_each(pieces, read);
    }
    if (error) std::rethrow_exception(error);
    copied_bytes += bytes;
  }
  Place& free_place(Reader& reader) {
    Place& place = reader.places[reader.turn ^= 1];
    if (place.copied) {
      place.copied->synchronize();
    } else {
      place.pinned = device.allocate_pinned(kPiece, "reading weights");
      place.copied = device.create_event();
    }
    return place;
  }
  void synchronize() {
    const std::lock_guard lock(mutex);
    stream->synchronize();
  }

  const Device& device;
  std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();
  int64_t copied_bytes = 0;
  std::vector<Reader> readers;
  std::mutex mutex;                // guards the stream
  std::unique_ptr<Stream> stream;  // after what it reads: it goes first, and waits
  std::optional<ThreadPool> pool;
};

// Where the loading of a model ends early, its weights go while they are being written.
CudaWeight::~CudaWeight() {
  if (const auto under_way = upload.lock()) {
    const std::lock_guard lock(under_way->mutex);
    under_way->stream->finish();
  }
}

// Matrices: bf16 as they are; f32 rounded to bf16 where that is the precision, as on the CPU; f16 as bf16 where that is exact, else
// widened.
WeightPtr WeightUploader::load(const TensorView& tensor, WeightUse use) {
  check(tensor, use);
  auto weight = std::make_shared<CudaWeight>();
  weight->outputs = tensor.shape[0];
  weight->width = 1;
  for (size_t i = 1; i < tensor.shape.size(); ++i) weight->width *= tensor.shape[i];
  const int64_t elements = weight->outputs * weight->width;
  const int64_t stride = tensor.row_stride > 0 ? tensor.row_stride : weight->width;
  Layout layout{.columns = weight->width, .row_step = stride, .column_step = 1};
  const bool turned = use == WeightUse::transposed_matrix || use == WeightUse::convolution;
  if (turned) {  // a convolution: [kernel][channels], so that neighbouring threads read neighbouring channels
    std::swap(weight->outputs, weight->width);
    layout = {.columns = weight->width, .row_step = 1, .column_step = stride};
  }

  if (is_matrix(use)) {
    bool narrow =
        tensor.dtype == DType::bf16 || (tensor.dtype == DType::f32 && precision_ == Precision::bf16);
    if (tensor.dtype == DType::f16) {
      narrow = true;
      for (int64_t row = 0; row < tensor.shape[0] && narrow; ++row)
        for (int64_t i = row * stride; i < row * stride + elements / tensor.shape[0] && narrow; ++i) {
          const float value = value_at(tensor.data, tensor.dtype, i);
          narrow = reference::from_bits(uint32_t{narrow_bf16(value)} << 16) == value;
        }
    }
    weight->element = narrow ? Element::bf16 : Element::f32;
  }
  const bool as_it_is =
      !turned && stride == weight->width && use != WeightUse::vector_minus_one &&
      (weight->element == Element::bf16 ? tensor.dtype == DType::bf16 : tensor.dtype == DType::f32);
  const auto size = static_cast<int64_t>(element_bytes(weight->element));
  weight->memory = device_.allocate(static_cast<size_t>(elements * size), "weights");

  const std::lock_guard lock(mutex_);
  std::shared_ptr<Upload> upload = upload_;
  if (!upload)
    upload = std::make_shared<Upload>(
        device_, std::clamp(threads_ > 0 ? threads_ : usable_cores(), 1, Upload::kMostReaders));
  if (together_ > 0) upload_ = upload;
  weight->upload = upload;
  upload->copy(weight->memory.data(), elements * size, [&](int64_t first, int64_t count, std::byte* to) {
    if (as_it_is) {
      std::memcpy(to, tensor.data + first, static_cast<size_t>(count));
    } else {
      convert(tensor, layout, weight->element, use == WeightUse::vector_minus_one ? 1.0f : 0.0f, first / size,
              count / size, to);
    }
  });
  if (together_ == 0) upload->synchronize();  // other streams read it next
  return weight;
}

void WeightUploader::together(const std::function<void()>& loads) {
  struct Call {
    explicit Call(WeightUploader& uploader) : of(uploader) {
      const std::lock_guard lock(of.mutex_);
      ++of.together_;
    }
    ~Call() {
      const std::lock_guard lock(of.mutex_);
      if (--of.together_ == 0) of.upload_.reset();
    }
    WeightUploader& of;
  };
  const Call call(*this);
  loads();
  const std::lock_guard lock(mutex_);
  if (!upload_) return;
  upload_->synchronize();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - upload_->began;
  log(LogLevel::info, "copied ", upload_->copied_bytes, " bytes of weights to GPU ", device_.info().ordinal,
      " in ", took.count(), " s, ", static_cast<double>(upload_->copied_bytes) / took.count() * 1e-9,
      " GB/s");
}

}  // namespace qwen::cuda
