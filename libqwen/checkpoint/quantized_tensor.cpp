#include "checkpoint/quantized_tensor.h"

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "base/error.h"

namespace qwen {
namespace {

int64_t pieces(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

const TensorView* checked(const TensorSource& source, const std::string& name,
                          std::initializer_list<DType> dtypes, const std::vector<int64_t>& shape) {
  std::string wanted;
  for (const DType dtype : dtypes) wanted += cat(wanted.empty() ? "" : ", ", dtype_name(dtype));
  const TensorView* tensor = source.find(name);
  if (!tensor)
    fail(Status::invalid_file, source.description(), ": tensor ", quote(name),
         " is missing; quantization_config implies it with shape ", shape_text(shape), " (", wanted, ")");
  if (std::find(dtypes.begin(), dtypes.end(), tensor->dtype) == dtypes.end())
    fail(Status::invalid_file, tensor->source, ": tensor ", quote(name), " is ", dtype_name(tensor->dtype),
         "; quantization_config implies ", wanted);
  if (tensor->shape != shape)
    fail(Status::invalid_file, tensor->source, ": tensor ", quote(name), " has shape ",
         shape_text(tensor->shape), "; config.json and its quantization_config imply ", shape_text(shape));
  return tensor;
}

// Whole words only: a matrix that does not fill its last word is in no official file.
void check_divides(const TensorSource& source, const QuantizedTensor& tensor, std::string_view what,
                   int64_t size, int64_t divisor) {
  if (size % divisor != 0)
    fail(Status::invalid_file, source.description(), ": ", quote(tensor.name), " has ", size, " ", what,
         "; quantization ", quote(quantization_method_name(tensor.config.method)), " with bits ",
         tensor.config.bits, " and group_size ", tensor.config.group_size, " needs a multiple of ", divisor);
}

}  // namespace

size_t QuantizedTensor::bytes() const {
  size_t sum = 0;
  for (const TensorView* tensor : {weight, scales, zeros, g_idx})
    if (tensor) sum += tensor->bytes;
  return sum;
}

std::optional<QuantizedTensor> find_quantized(const TensorSource& source, const QuantizationConfig& config,
                                              std::string_view name, int64_t out, int64_t in) {
  static constexpr std::string_view kWeight = ".weight";
  if (!name.ends_with(kWeight)) return std::nullopt;
  QuantizedTensor tensor{.name = std::string(name.substr(0, name.size() - kWeight.size())),
                         .config = config,
                         .out = out,
                         .in = in};
  const auto part = [&](std::string_view suffix) { return cat(tensor.name, suffix); };
  const auto scales = {DType::f16, DType::bf16, DType::f32};

  // The tensors say which matrices are quantised: the lists in the configs are not always there.
  if (config.method == QuantizationMethod::fp8) {
    const TensorView* plain = source.find(name);
    if (!source.find(part(".weight_scale_inv")) && !(plain && plain->dtype == DType::f8_e4m3))
      return std::nullopt;
    tensor.weight = checked(source, part(".weight"), {DType::f8_e4m3}, {out, in});
    tensor.scales = checked(source, part(".weight_scale_inv"), scales,
                            {pieces(out, config.block_rows), pieces(in, config.block_columns)});
    return tensor;
  }

  if (!source.find(part(".qweight"))) return std::nullopt;
  if (const TensorView* plain = source.find(name))
    fail(Status::invalid_file, plain->source, ": tensors ", quote(name), " and ", quote(part(".qweight")),
         " hold the same matrix; there must be one of them");
  const int64_t per_word = 32 / config.bits;
  check_divides(source, tensor, "outputs", out, per_word);
  if (config.method == QuantizationMethod::gptq) {
    check_divides(source, tensor, "inputs", in, per_word);
    tensor.weight = checked(source, part(".qweight"), {DType::i32}, {in / per_word, out});
    if (config.desc_act || source.find(part(".g_idx")))
      tensor.g_idx = checked(source, part(".g_idx"), {DType::i32}, {in});
  } else {
    check_divides(source, tensor, "inputs", in, tensor.group_size());
    tensor.weight = checked(source, part(".qweight"), {DType::i32}, {in, out / per_word});
  }
  tensor.zeros = checked(source, part(".qzeros"), {DType::i32}, {tensor.groups(), out / per_word});
  tensor.scales = checked(source, part(".scales"), scales, {tensor.groups(), out});
  return tensor;
}

}  // namespace qwen
