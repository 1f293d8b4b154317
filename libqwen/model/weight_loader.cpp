#include "model/weight_loader.h"

#include "base/error.h"

namespace qwen {

WeightLoader::WeightLoader(const TensorSource& source, Backend* backend, std::function<void(size_t)> progress)
    : source_(source), backend_(backend), progress_(std::move(progress)) {
  // Qwen3-Embedding files hold the bare decoder: "embed_tokens.weight" instead of
  // "model.embed_tokens.weight".
  if (!source.find("embed_tokens.weight")) prefix_ = "model.";
}

WeightPtr WeightLoader::matrix(std::string_view name, int64_t out, int64_t in) {
  return load(cat(prefix_, name), {out, in}, WeightUse::matrix);
}

WeightPtr WeightLoader::vector(std::string_view name, int64_t size) {
  return load(cat(prefix_, name), {size}, WeightUse::vector);
}

WeightPtr WeightLoader::head(int64_t out, int64_t in) {
  return load("lm_head.weight", {out, in}, WeightUse::matrix);
}

WeightPtr WeightLoader::load(const std::string& name, std::vector<int64_t> shape, WeightUse use) {
  const TensorView* tensor = source_.find(name);
  if (!tensor)
    fail(Status::invalid_file, source_.description(), ": tensor '", name,
         "' is missing; config.json implies it with shape ", shape_text(shape));
  if (tensor->shape != shape)
    fail(Status::invalid_file, tensor->source, ": tensor '", name, "' has shape ", shape_text(tensor->shape),
         "; config.json implies ", shape_text(shape));
  if (tensor->dtype != DType::f32 && tensor->dtype != DType::f16 && tensor->dtype != DType::bf16)
    fail(Status::unsupported, tensor->source, ": tensor '", name, "' is ", dtype_name(tensor->dtype),
         "; supported are F32, F16 and BF16");
  parameters_ += static_cast<int64_t>(tensor->bytes / dtype_size(tensor->dtype));
  bytes_ += tensor->bytes;
  WeightPtr weight = backend_ ? backend_->load(*tensor, use) : nullptr;
  if (progress_) progress_(tensor->bytes);
  return weight;
}

}  // namespace qwen
