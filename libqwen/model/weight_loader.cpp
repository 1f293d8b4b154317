#include "model/weight_loader.h"

#include <cstring>

#include "base/error.h"

namespace qwen {

WeightLoader::WeightLoader(const TensorSource& source, const std::optional<QuantizationConfig>& quantization,
                           Backend* backend, std::function<void(size_t)> progress)
    : source_(source), quantization_(quantization), backend_(backend), progress_(std::move(progress)) {
  // Qwen3-Embedding files hold the bare decoder; in multimodal ones the towers stand beside it.
  for (const std::string_view prefix : kTextPrefixes) {
    if (!source.find(cat(prefix, "embed_tokens.weight"))) continue;
    prefix_ = prefix;
    return;
  }
  prefix_ = "model.";
}

WeightPtr WeightLoader::matrix(std::string_view name, int64_t out, int64_t in) {
  return load_matrix(cat(prefix_, name), out, in);
}

Linear WeightLoader::linear(std::string_view name, int64_t out, int64_t in, std::optional<TiledHeads> tiled) {
  Linear linear{.weight = matrix(cat(name, ".weight"), out, in)};
  if (beside_) return linear;
  linear.index = static_cast<int64_t>(linears_.size());
  linears_.push_back({std::string(name), out, in, tiled});
  return linear;
}

WeightPtr WeightLoader::vector(std::string_view name, int64_t size) {
  return load(cat(prefix_, name), {size}, WeightUse::vector);
}

WeightPtr WeightLoader::norm(std::string_view name, int64_t size, bool zero_centred) {
  return load(cat(prefix_, name), {size}, zero_centred ? WeightUse::vector_minus_one : WeightUse::vector);
}

WeightPtr WeightLoader::convolution(std::string_view name, int64_t channels, int64_t kernel) {
  return load(cat(prefix_, name), {channels, 1, kernel}, WeightUse::convolution);
}

WeightPtr WeightLoader::stacked(std::string_view name, const StackPart& part) {
  const std::string full = cat(prefix_, name);
  if (part.transposed)
    return load(name,
                stack_columns(find(full, {part.count, part.in, part.rows}, WeightUse::transposed_matrix),
                              part.index, part.first, part.out),
                WeightUse::transposed_matrix);
  return load(name,
              stack_rows(find(full, {part.count, part.rows, part.in}, WeightUse::transposed_matrix),
                         part.index, part.first, part.out),
              WeightUse::matrix);
}

void WeightLoader::expect_integers(std::string_view name, std::span<const int64_t> values) {
  const TensorView& tensor = find_shape(cat(prefix_, name), {static_cast<int64_t>(values.size())});
  if (tensor.dtype != DType::i64)
    fail(Status::unsupported, tensor.source, ": tensor ", quote(tensor.name), " is ",
         dtype_name(tensor.dtype), "; it must be I64");
  for (size_t i = 0; i < values.size(); ++i) {
    int64_t stored;
    std::memcpy(&stored, tensor.data + i * sizeof stored, sizeof stored);
    if (stored != values[i])
      fail(Status::invalid_file, tensor.source, ": element ", i, " of tensor ", quote(tensor.name), " is ",
           stored, "; ", source_.configuration(), " implies ", values[i]);
  }
}

bool WeightLoader::has(std::string_view name) const {
  return source_.find(cat(prefix_, name)) != nullptr;
}

void WeightLoader::refuse(std::string_view name, std::string_view what) const {
  if (const TensorView* tensor = source_.find(cat(prefix_, name)))
    fail(Status::unsupported, tensor->source, ": tensor ", quote(tensor->name), " means ", what,
         ", which is not supported by this version");
}

WeightPtr WeightLoader::head(int64_t out, int64_t in) {
  return load_matrix(head_name(), out, in);
}

std::string WeightLoader::head_name() const {
  for (const char* outer : {"thinker.", "language_model."})
    if (prefix_.starts_with(outer)) return cat(outer, "lm_head.weight");
  return "lm_head.weight";
}

// name: with or without the prefix.
void WeightLoader::count(std::string_view name, int64_t parameters, size_t bytes) {
  parameters_ += parameters;
  bytes_ += bytes;
  const auto within = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  Part* const part = beside_                             ? &outside_
                     : within("embed_tokens.")           ? &embeddings_
                     : within(".ngram_embedding.shard_") ? &other_tables_
                     : within(".mlp.experts.")           ? &experts_
                                                         : nullptr;
  if (!part) return;
  part->parameters += parameters;
  part->bytes += static_cast<int64_t>(bytes);
}

ActiveWeights WeightLoader::active(const ModelConfig& config) const {
  const auto chosen = [&](int64_t all) {
    return config.moe ? all / config.moe->num_experts * config.moe->num_experts_per_tok : 0;
  };
  ActiveWeights active{.parameters = parameters_ + chosen(experts_.parameters),
                       .bytes = static_cast<int64_t>(bytes_) + chosen(experts_.bytes),
                       .expert_bytes = chosen(experts_.bytes)};
  for (const Part& part :
       {config.tie_word_embeddings ? Part{} : embeddings_, other_tables_, experts_, outside_}) {
    active.parameters -= part.parameters;
    active.bytes -= part.bytes;
  }
  return active;
}

WeightPtr WeightLoader::load_matrix(const std::string& name, int64_t out, int64_t in) {
  if (!quantization_) return load(name, {out, in}, WeightUse::matrix);
  const auto quantized = find_quantized(source_, *quantization_, name, out, in);
  if (!quantized) return load(name, {out, in}, WeightUse::matrix);
  count(name, out * in, quantized->bytes());
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

const TensorView& WeightLoader::find_shape(const std::string& name, const std::vector<int64_t>& shape) const {
  const TensorView* tensor = source_.find(name);
  if (!tensor)
    fail(Status::invalid_file, source_.description(), ": tensor '", source_.name_in_file(name),
         "' is missing; ", source_.configuration(), " implies it with shape ", shape_text(shape),
         missing_hint(name));
  if (tensor->shape != shape)
    fail(Status::invalid_file, tensor->source, ": tensor ", quote(tensor->name), " has shape ",
         shape_text(tensor->shape), "; ", source_.configuration(), " implies ", shape_text(shape));
  return *tensor;
}

const TensorView& WeightLoader::find(const std::string& name, const std::vector<int64_t>& shape,
                                     WeightUse use) const {
  const TensorView* tensor = &find_shape(name, shape);
  const bool plain =
      tensor->dtype == DType::f32 || tensor->dtype == DType::f16 || tensor->dtype == DType::bf16;
  if (!plain && !(is_blocked(tensor->dtype) && use == WeightUse::matrix))
    fail(Status::unsupported, tensor->source, ": tensor ", quote(tensor->name), " is ",
         dtype_name(tensor->dtype), "; supported are F32, F16 and BF16",
         is_blocked(tensor->dtype) ? " where it is not a matrix"
                                   : ", and F8_E4M3 where quantization_config says 'fp8'");
  return *tensor;
}

WeightPtr WeightLoader::load(const std::string& name, std::vector<int64_t> shape, WeightUse use) {
  return load(name, find(name, shape, use), use);
}

WeightPtr WeightLoader::load(std::string_view name, const TensorView& tensor, WeightUse use) {
  int64_t elements = 1;
  for (const int64_t size : tensor.shape) elements *= size;
  // Of a part of a wider matrix its own bytes, not those it spans.
  const size_t bytes =
      tensor.row_stride > 0 ? static_cast<size_t>(elements) * dtype_size(tensor.dtype) : tensor.bytes;
  count(name, elements, bytes);
  WeightPtr weight = backend_ ? backend_->load(tensor, use) : nullptr;
  if (progress_) progress_(bytes);
  return weight;
}

}  // namespace qwen
