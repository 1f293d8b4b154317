#include "model/weight_loader.h"

#include "base/error.h"

namespace qwen {

WeightLoader::WeightLoader(const TensorSource& source, const std::optional<QuantizationConfig>& quantization,
                           Backend* backend, std::function<void(size_t)> progress)
    : source_(source), quantization_(quantization), backend_(backend), progress_(std::move(progress)) {
  // Qwen3-Embedding files hold the bare decoder: "embed_tokens.weight" instead of "model.embed_tokens.weight".
  if (!source.find("embed_tokens.weight")) prefix_ = "model.";
}

WeightPtr WeightLoader::matrix(std::string_view name, int64_t out, int64_t in) {
  return load_matrix(cat(prefix_, name), out, in);
}

WeightPtr WeightLoader::vector(std::string_view name, int64_t size) {
  return load(cat(prefix_, name), {size}, WeightUse::vector);
}

WeightPtr WeightLoader::head(int64_t out, int64_t in) {
  return load_matrix("lm_head.weight", out, in);
}

void WeightLoader::count(int64_t parameters, size_t bytes) {
  parameters_ += parameters;
  bytes_ += bytes;
}

WeightPtr WeightLoader::load_matrix(const std::string& name, int64_t out, int64_t in) {
  if (!quantization_) return load(name, {out, in}, WeightUse::matrix);
  const auto quantized = find_quantized(source_, *quantization_, name, out, in);
  if (!quantized) return load(name, {out, in}, WeightUse::matrix);
  count(out * in, quantized->bytes());
  WeightPtr weight = backend_ ? backend_->load(*quantized) : nullptr;
  if (progress_) progress_(quantized->bytes());
  return weight;
}

// What may have been meant where X.weight is missing.
std::string WeightLoader::missing_hint(const std::string& name) const {
  const std::string packed = name.ends_with(".weight") ? cat(name.substr(0, name.size() - 6), "qweight") : "";
  if (packed.empty() || !source_.find(packed)) return "";
  return cat(" (there is ", quote(packed), ", but config.json has no quantization_config for it)");
}

WeightPtr WeightLoader::load(const std::string& name, std::vector<int64_t> shape, WeightUse use) {
  const TensorView* tensor = source_.find(name);
  if (!tensor)
    fail(Status::invalid_file, source_.description(), ": tensor '", source_.name_in_file(name),
         "' is missing; ", source_.configuration(), " implies it with shape ", shape_text(shape),
         missing_hint(name));
  if (tensor->shape != shape)
    fail(Status::invalid_file, tensor->source, ": tensor ", quote(tensor->name), " has shape ",
         shape_text(tensor->shape), "; ", source_.configuration(), " implies ", shape_text(shape));
  const bool plain =
      tensor->dtype == DType::f32 || tensor->dtype == DType::f16 || tensor->dtype == DType::bf16;
  if (!plain && !(is_blocked(tensor->dtype) && use == WeightUse::matrix))
    fail(Status::unsupported, tensor->source, ": tensor ", quote(tensor->name), " is ",
         dtype_name(tensor->dtype), "; supported are F32, F16 and BF16",
         is_blocked(tensor->dtype) ? " where it is not a matrix"
                                   : ", and F8_E4M3 where quantization_config says 'fp8'");
  int64_t elements = 1;
  for (const int64_t size : shape) elements *= size;
  count(elements, tensor->bytes);
  WeightPtr weight = backend_ ? backend_->load(*tensor, use) : nullptr;
  if (progress_) progress_(tensor->bytes);
  return weight;
}

}  // namespace qwen
