#include "checkpoint/gguf_tensors.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "base/error.h"

namespace qwen {
namespace {

struct Name {
  std::string_view gguf, published;
};

// The names of llama.cpp's converter (gguf-py/gguf/tensor_mapping.py of https://github.com/ggml-org/llama.cpp). Queries and
// keys of these architectures are stored as published: their rotations pair i with i + head_dim / 2 in both.
constexpr std::array kNames = {
    Name{"token_embd.weight", "model.embed_tokens.weight"},
    Name{"output_norm.weight", "model.norm.weight"},
    Name{"output.weight", "lm_head.weight"},
};
// Behind "blk.N." and "model.layers.N."
constexpr std::array kLayerNames = {
    Name{"attn_norm.weight", "input_layernorm.weight"},
    Name{"attn_q.weight", "self_attn.q_proj.weight"},
    Name{"attn_q.bias", "self_attn.q_proj.bias"},
    Name{"attn_k.weight", "self_attn.k_proj.weight"},
    Name{"attn_k.bias", "self_attn.k_proj.bias"},
    Name{"attn_v.weight", "self_attn.v_proj.weight"},
    Name{"attn_v.bias", "self_attn.v_proj.bias"},
    Name{"attn_output.weight", "self_attn.o_proj.weight"},
    Name{"attn_q_norm.weight", "self_attn.q_norm.weight"},
    Name{"attn_k_norm.weight", "self_attn.k_norm.weight"},
    Name{"ffn_norm.weight", "post_attention_layernorm.weight"},
    Name{"ffn_gate.weight", "mlp.gate_proj.weight"},
    Name{"ffn_up.weight", "mlp.up_proj.weight"},
    Name{"ffn_down.weight", "mlp.down_proj.weight"},
    Name{"ffn_gate_inp.weight", "mlp.gate.weight"},
    Name{"ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight"},
    Name{"ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight"},
    Name{"ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight"},
    Name{"ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"},
};
// Stacks: the published name of expert e is "mlp.experts." e "." and this.
constexpr std::array kExpertNames = {
    Name{"ffn_gate_exps.weight", "gate_proj.weight"},
    Name{"ffn_up_exps.weight", "up_proj.weight"},
    Name{"ffn_down_exps.weight", "down_proj.weight"},
};
constexpr std::string_view kLayerPrefix = "blk.", kPublishedLayerPrefix = "model.layers.",
                           kExperts = "mlp.experts.";

template <size_t N>
const Name* find_gguf(const std::array<Name, N>& names, std::string_view gguf) {
  const auto found =
      std::find_if(names.begin(), names.end(), [&](const Name& name) { return name.gguf == gguf; });
  return found == names.end() ? nullptr : &*found;
}

template <size_t N>
const Name* find_published(const std::array<Name, N>& names, std::string_view published) {
  const auto found =
      std::find_if(names.begin(), names.end(), [&](const Name& name) { return name.published == published; });
  return found == names.end() ? nullptr : &*found;
}

// "blk.12.attn_q.weight" -> "12", "attn_q.weight"; empty texts when it is not of that form.
std::pair<std::string_view, std::string_view> split_layer(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return {};
  name.remove_prefix(prefix.size());
  const size_t dot = name.find('.');
  if (dot == 0 || dot == std::string_view::npos || dot > 9) return {};
  const std::string_view number = name.substr(0, dot);
  const bool digits = std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!digits || (number.size() > 1 && number[0] == '0')) return {};
  return {number, name.substr(dot + 1)};
}

class GgufTensors final : public TensorSource {
 public:
  explicit GgufTensors(std::shared_ptr<const GgufFile> file) : file_(std::move(file)) {
    for (const TensorView& tensor : file_->tensors()) add(tensor);
    std::sort(tensors_.begin(), tensors_.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
  }

  const TensorView* find(std::string_view name) const override {
    const auto found =
        std::lower_bound(tensors_.begin(), tensors_.end(), name,
                         [](const auto& entry, std::string_view key) { return entry.first < key; });
    return found != tensors_.end() && found->first == name ? &found->second : nullptr;
  }

  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    all.reserve(tensors_.size());
    for (const auto& [name, tensor] : tensors_) all.push_back(name);
    return all;
  }

  std::string description() const override { return file_->source(); }
  std::string_view configuration() const override { return "the metadata"; }

  std::string name_in_file(std::string_view name) const override {
    if (const Name* known = find_published(kNames, name)) return std::string(known->gguf);
    const auto [layer, rest] = split_layer(name, kPublishedLayerPrefix);
    if (const Name* known = find_published(kLayerNames, rest))
      return cat(kLayerPrefix, layer, ".", known->gguf);
    const auto [expert, part] = split_layer(rest, kExperts);
    if (const Name* known = find_published(kExpertNames, part))
      return cat(kLayerPrefix, layer, ".", known->gguf);
    return std::string(name);
  }

 private:
  void add(const TensorView& tensor) {
    if (const Name* known = find_gguf(kNames, tensor.name)) {
      tensors_.emplace_back(known->published, tensor);
      return;
    }
    const auto [layer, rest] = split_layer(tensor.name, kLayerPrefix);
    if (const Name* known = find_gguf(kLayerNames, rest)) {
      TensorView view = tensor;
      // A matrix of one row, which the converter writes as a vector.
      if (known->gguf == "ffn_gate_inp_shexp.weight" && view.shape.size() == 1)
        view.shape.insert(view.shape.begin(), 1);
      tensors_.emplace_back(cat(kPublishedLayerPrefix, layer, ".", known->published), std::move(view));
    } else if (const Name* stack = find_gguf(kExpertNames, rest)) {
      add_experts(tensor, cat(kPublishedLayerPrefix, layer, ".", kExperts), stack->published);
    } else {
      fail(Status::unsupported, tensor.source, ": tensor ", quote(tensor.name),
           " is unknown: no Qwen decoder that this version runs has such a tensor");
    }
  }

  void add_experts(const TensorView& stack, std::string_view prefix, std::string_view suffix) {
    static constexpr int64_t kMaxExperts = 65536;  // as in config.json
    if (stack.shape.size() != 3 || stack.shape[0] > kMaxExperts)
      fail(Status::invalid_file, stack.source, ": tensor ", quote(stack.name), " has shape ",
           shape_text(stack.shape), "; a stack of experts has the shape [experts, out, in], of at most ",
           kMaxExperts, " experts");
    const auto experts = static_cast<size_t>(stack.shape[0]);
    TensorView expert = stack;
    expert.shape.erase(expert.shape.begin());
    expert.bytes = stack.bytes / experts;  // exact: a row is whole blocks
    for (size_t e = 0; e < experts; ++e, expert.data += expert.bytes)
      tensors_.emplace_back(cat(prefix, e, ".", suffix), expert);
  }

  std::shared_ptr<const GgufFile> file_;
  std::vector<std::pair<std::string, TensorView>> tensors_;  // sorted by published name
};

}  // namespace

std::shared_ptr<const TensorSource> make_gguf_tensor_source(std::shared_ptr<const GgufFile> file) {
  return std::make_shared<GgufTensors>(std::move(file));
}

}  // namespace qwen
