#include "checkpoint/gguf_tensors.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <span>
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
    Name{"ffn_gate.weight", "mlp.gate_proj.weight"},
    Name{"ffn_up.weight", "mlp.up_proj.weight"},
    Name{"ffn_down.weight", "mlp.down_proj.weight"},
    Name{"ffn_gate_inp.weight", "mlp.gate.weight"},
    Name{"ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight"},
    Name{"ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight"},
    Name{"ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight"},
    Name{"ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight"},
};
constexpr std::array kPureNames = {Name{"ffn_norm.weight", "post_attention_layernorm.weight"}};
// Of the hybrids. Norms hold the 1 that published ones lack, ssm_a is -exp(A_log).
constexpr std::array kHybridNames = {
    Name{"post_attention_norm.weight", "post_attention_layernorm.weight"},
    Name{"attn_qkv.weight", "linear_attn.in_proj_qkv.weight"},
    Name{"attn_gate.weight", "linear_attn.in_proj_z.weight"},
    Name{"ssm_in.weight", "linear_attn.in_proj_qkvz.weight"},  // older Qwen3-Next files
    Name{"ssm_ba.weight", "linear_attn.in_proj_ba.weight"},    // Qwen3-Next; later ones have two
    Name{"ssm_beta.weight", "linear_attn.in_proj_b.weight"},
    Name{"ssm_alpha.weight", "linear_attn.in_proj_a.weight"},
    Name{"ssm_conv1d.weight", "linear_attn.conv1d.weight"},
    Name{"ssm_a", "linear_attn.A_log"},
    Name{"ssm_dt.bias", "linear_attn.dt_bias"},
    Name{"ssm_norm.weight", "linear_attn.norm.weight"},
    Name{"ssm_out.weight", "linear_attn.out_proj.weight"},
};
// Of the multi-token-prediction head, which is a layer behind the last one; published "mtp." and this.
constexpr std::array kMtpNames = {
    Name{"nextn.eh_proj.weight", "fc.weight"},
    Name{"nextn.enorm.weight", "pre_fc_norm_embedding.weight"},
    Name{"nextn.hnorm.weight", "pre_fc_norm_hidden.weight"},
    Name{"nextn.shared_head_norm.weight", "norm.weight"},
    Name{"nextn.embed_tokens.weight", "embed_tokens.weight"},
    Name{"nextn.shared_head_head.weight", "lm_head.weight"},
};
// Stacks: the published name of expert e is "mlp.experts." e "." and this.
constexpr std::array kExpertNames = {
    Name{"ffn_gate_exps.weight", "gate_proj.weight"},
    Name{"ffn_up_exps.weight", "up_proj.weight"},
    Name{"ffn_down_exps.weight", "down_proj.weight"},
};
// One stack of both, gate above up.
constexpr std::string_view kFusedExperts = "ffn_gate_up_exps.weight";
constexpr std::array<std::string_view, 2> kFusedParts = {"gate_proj.weight", "up_proj.weight"};
constexpr std::string_view kLayerPrefix = "blk.", kPublishedLayerPrefix = "model.layers.",
                           kExperts = "mlp.experts.", kMtpPrefix = "mtp.", kMtpLayer = "mtp.layers.0.";

const Name* find_gguf(std::span<const Name> names, std::string_view gguf) {
  const auto found =
      std::find_if(names.begin(), names.end(), [&](const Name& name) { return name.gguf == gguf; });
  return found == names.end() ? nullptr : &*found;
}

const Name* find_published(std::span<const Name> names, std::string_view published) {
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
  GgufTensors(std::shared_ptr<const GgufFile> file, const ModelConfig& config)
      : file_(std::move(file)),
        layers_(config.num_hidden_layers),
        hybrid_(config.gated_delta),
        own_names_(hybrid_ ? std::span<const Name>(kHybridNames) : std::span<const Name>(kPureNames)) {
    for (const TensorView& tensor : file_->tensors()) add(tensor);
    std::sort(tensors_.begin(), tensors_.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    check_twins();
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
  void map_ahead(const std::function<bool(double, bool)>& go_on) const override { file_->map_ahead(go_on); }
  std::string_view configuration() const override { return "the metadata"; }

  std::string name_in_file(std::string_view name) const override {
    if (const Name* known = find_published(kNames, name)) return std::string(known->gguf);
    auto [layer, rest] = split_layer(name, kPublishedLayerPrefix);
    const std::string last = cat(layers_);
    if (hybrid_ && name.starts_with(kMtpPrefix)) {
      layer = last;
      rest = name.substr(kMtpPrefix.size());
      if (const Name* known = find_published(kMtpNames, rest)) return in_layer(layer, known->gguf);
      if (name.starts_with(kMtpLayer)) rest = name.substr(kMtpLayer.size());
    }
    if (const Name* known = find_published(kLayerNames, rest)) return in_layer(layer, known->gguf);
    if (const Name* known = find_published(own_names_, rest)) return in_layer(layer, known->gguf);
    const auto [expert, part] = split_layer(rest, kExperts);
    if (const Name* known = find_published(kExpertNames, part)) return in_layer(layer, known->gguf);
    return std::string(name);
  }

 private:
  static std::string in_layer(std::string_view layer, std::string_view name) {
    return cat(kLayerPrefix, layer, ".", name);
  }

  void add(const TensorView& tensor) {
    if (const Name* known = find_gguf(kNames, tensor.name)) {
      tensors_.emplace_back(known->published, tensor);
      return;
    }
    const auto [layer, rest] = split_layer(tensor.name, kLayerPrefix);
    int64_t number = 0;
    std::from_chars(layer.data(), layer.data() + layer.size(), number);
    if (hybrid_ && number > layers_) return;  // further heads, which no published model has
    const bool mtp = hybrid_ && number == layers_;
    const std::string prefix = mtp ? std::string(kMtpLayer) : cat(kPublishedLayerPrefix, layer, ".");
    const Name* known = find_gguf(kLayerNames, rest);
    if (!known) known = find_gguf(own_names_, rest);
    if (known) {
      tensors_.emplace_back(cat(prefix, known->published), published_shape(tensor, known->gguf));
    } else if (const Name* of_head = mtp ? find_gguf(kMtpNames, rest) : nullptr) {
      tensors_.emplace_back(cat(kMtpPrefix, of_head->published), tensor);
    } else if (const Name* stack = find_gguf(kExpertNames, rest)) {
      add_experts(tensor, cat(prefix, kExperts), std::array{stack->published});
    } else if (rest == kFusedExperts) {
      add_experts(tensor, cat(prefix, kExperts), kFusedParts);
    } else {
      fail(Status::unsupported, tensor.source, ": tensor ", quote(tensor.name),
           " is unknown: no Qwen decoder that this version runs has such a tensor");
    }
  }

  // The converter leaves out sizes of 1.
  static TensorView published_shape(TensorView tensor, std::string_view name) {
    if (name == "ffn_gate_inp_shexp.weight" && tensor.shape.size() == 1)
      tensor.shape.insert(tensor.shape.begin(), 1);
    if (name == "ssm_conv1d.weight" && tensor.shape.size() == 2)
      tensor.shape.insert(tensor.shape.begin() + 1, 1);
    return tensor;
  }

  // parts: what each matrix of the stack holds, one on top of the other.
  void add_experts(const TensorView& stack, std::string_view prefix,
                   std::span<const std::string_view> parts) {
    static constexpr int64_t kMaxExperts = 65536;  // as in config.json
    if (stack.shape.size() != 3 || stack.shape[0] > kMaxExperts)
      fail(Status::invalid_file, stack.source, ": tensor ", quote(stack.name), " has shape ",
           shape_text(stack.shape), "; a stack of experts has the shape [experts, out, in], of at most ",
           kMaxExperts, " experts");
    const auto experts = static_cast<size_t>(stack.shape[0]);
    if (stack.shape[1] % static_cast<int64_t>(parts.size()) != 0)
      fail(Status::invalid_file, stack.source, ": tensor ", quote(stack.name), " has shape ",
           shape_text(stack.shape), "; its matrices must have an even number of rows, half of them each for ",
           parts[0], " and ", parts[1]);
    TensorView part = stack;
    part.shape = {stack.shape[1] / static_cast<int64_t>(parts.size()), stack.shape[2]};
    part.bytes = stack.bytes / experts / parts.size();  // exact: a row is whole blocks
    for (size_t e = 0; e < experts; ++e)
      for (const std::string_view name : parts) {
        tensors_.emplace_back(cat(prefix, e, ".", name), part);
        part.data += part.bytes;
      }
  }

  // Two names of the format may mean one matrix: a stack by itself and fused with another.
  void check_twins() const {
    for (size_t i = 1; i < tensors_.size(); ++i)
      if (tensors_[i].first == tensors_[i - 1].first)
        fail(Status::invalid_file, tensors_[i].second.source, ": tensors ",
             quote(tensors_[i - 1].second.name), " and ", quote(tensors_[i].second.name),
             " hold the same matrix; there must be one of them");
  }

  std::shared_ptr<const GgufFile> file_;
  int64_t layers_;
  bool hybrid_;
  std::span<const Name> own_names_;
  std::vector<std::pair<std::string, TensorView>> tensors_;  // sorted by published name
};

}  // namespace

std::shared_ptr<const TensorSource> make_gguf_tensor_source(std::shared_ptr<const GgufFile> file,
                                                            const ModelConfig& config) {
  return std::make_shared<GgufTensors>(std::move(file), config);
}

}  // namespace qwen
