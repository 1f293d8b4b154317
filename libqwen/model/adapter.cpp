#include "model/adapter.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <map>

#include "base/error.h"
#include "model/weight_loader.h"

namespace qwen {
namespace {

using ByName = std::map<std::string_view, size_t, std::less<>>;  // -> Linear::index

// The part of a trained model's name before "layers.": transformers has put the text model in several places over the years.
std::string_view text_prefix(std::string_view module) {
  for (const std::string_view prefix : kTextPrefixes)
    if (module.starts_with(prefix) && module.substr(prefix.size()).starts_with("layers.")) return prefix;
  return {};
}

int64_t layer_of(std::string_view name) {
  int64_t layer = -1;
  name.remove_prefix(std::string_view("layers.").size());
  std::from_chars(name.data(), name.data() + name.size(), layer);
  return layer;
}

// "self_attn.q_proj, self_attn.k_proj, …": the matrices of all layers without their layers.
std::string tails(std::span<const LinearShape> linears) {
  std::vector<std::string_view> seen;
  std::string text;
  for (const LinearShape& linear : linears) {
    const std::string_view name = linear.name;
    const std::string_view tail = name.substr(name.find('.', name.find('.') + 1) + 1);
    if (std::find(seen.begin(), seen.end(), tail) != seen.end()) continue;
    seen.push_back(tail);
    text += cat(text.empty() ? "" : ", ", tail);
  }
  return text;
}

void check(const TensorView& tensor, const std::vector<int64_t>& shape, std::string_view why) {
  if (tensor.shape != shape)
    fail(Status::invalid_file, tensor.source, ": tensor ", quote(tensor.name), " has shape ",
         shape_text(tensor.shape), "; ", why, " imply ", shape_text(shape));
  if (tensor.dtype != DType::f32 && tensor.dtype != DType::f16 && tensor.dtype != DType::bf16)
    fail(Status::unsupported, tensor.source, ": tensor ", quote(tensor.name), " is ",
         dtype_name(tensor.dtype), "; supported are F32, F16 and BF16");
}

// A or B with its heads in the model's order, the bytes in `kept`.
TensorView reordered(const TensorView& tensor, const TiledHeads& heads,
                     std::vector<std::vector<std::byte>>& kept) {
  // Seen as [outer, elements, inner]: the rows of B [out, rank], the columns of A [rank, in].
  const auto outer = static_cast<size_t>(heads.of_inputs ? tensor.shape[0] : 1);
  const size_t row = tensor.bytes / outer;
  const size_t element = row / static_cast<size_t>(tensor.shape[heads.of_inputs ? 1 : 0]);
  const size_t head = element * static_cast<size_t>(heads.width);
  std::vector<std::byte>& bytes = kept.emplace_back(tensor.data, tensor.data + tensor.bytes);
  for (size_t i = 0; i < outer; ++i) {
    const size_t start = i * row + element * static_cast<size_t>(heads.first);
    for (int64_t group = 0; group < heads.groups; ++group)
      for (int64_t member = 0; member < heads.per_group; ++member)
        std::memcpy(bytes.data() + start + head * static_cast<size_t>(member * heads.groups + group),
                    tensor.data + start + head * static_cast<size_t>(group * heads.per_group + member), head);
  }
  TensorView view = tensor;
  view.data = bytes.data();
  return view;
}

// Of the matrices that target_modules names, each must have its tensors.
void check_complete(const AdapterCheckpoint& checkpoint, std::span<const LinearShape> linears,
                    const std::vector<LowRank>& found, std::string_view prefix) {
  for (size_t i = 0; i < linears.size(); ++i) {
    const std::string module = cat(prefix, linears[i].name);
    if (!found[i].a && checkpoint.config.targets(module, layer_of(linears[i].name)))
      fail(Status::invalid_file, checkpoint.tensors->description(), ": tensor 'base_model.model.", module,
           ".lora_A.weight' is missing; target_modules of adapter_config.json implies it");
  }
}

}  // namespace

Adapter load_adapter(const AdapterCheckpoint& checkpoint, std::span<const LinearShape> linears,
                     Backend& backend) {
  ByName by_name;
  for (size_t i = 0; i < linears.size(); ++i) by_name.emplace(linears[i].name, i);
  Adapter adapter;
  adapter.path = checkpoint.folder.string();
  adapter.tensors = checkpoint.tensors;
  adapter.low_ranks.resize(linears.size());
  for (const AdapterModule& module : checkpoint.modules) {
    const std::string_view prefix = text_prefix(module.name);
    const auto found = by_name.find(std::string_view(module.name).substr(prefix.size()));
    if (found == by_name.end())
      fail(Status::unsupported, module.a->source, ": tensor ", quote(module.a->name, 200),
           " is for no matrix of this model that an adapter may change; those are ", tails(linears),
           " of each layer that has them");
    const auto& [name, out, in, tiled] = linears[found->second];
    const int64_t rank = checkpoint.config.rank_of(module.name);
    const std::string why =
        cat("rank ", rank, " in adapter_config.json and the model's [", out, ", ", in, "]");
    check(*module.a, {rank, in}, why);
    check(*module.b, {out, rank}, why);
    LowRank& change = adapter.low_ranks[found->second];
    if (change.a)
      fail(Status::invalid_file, module.a->source, ": tensor ", quote(module.a->name, 200),
           " is there a second time under another prefix");
    TensorView a = *module.a, b = *module.b;
    if (tiled) (tiled->of_inputs ? a : b) = reordered(tiled->of_inputs ? a : b, *tiled, adapter.reordered);
    change = {.a = backend.load(a, WeightUse::matrix),
              .b = backend.load(b, WeightUse::matrix),
              .rank = rank,
              .scale = checkpoint.config.scale_of(module.name)};
    adapter.rank = std::max(adapter.rank, rank);
    adapter.parameters += rank * (in + out);
  }
  check_complete(checkpoint, linears, adapter.low_ranks, text_prefix(checkpoint.modules.front().name));
  return adapter;
}

}  // namespace qwen
