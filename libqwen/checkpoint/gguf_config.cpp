#include "checkpoint/gguf_config.h"

#include <algorithm>
#include <array>
#include <limits>

#include "base/error.h"
#include "checkpoint/json_fields.h"

namespace qwen {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxWidth = int64_t{1} << 24, kMaxLayers = 10000;  // as in config.json, which is read later

struct Family {
  std::string_view architecture, published;
  bool mixture_of_experts;
  bool norm_topk_prob;  // not in the files of llama.cpp's converter: what its graphs do
  bool hybrid = false;
  bool tiled_value_heads = false;
};
constexpr std::array kFamilies = {
    Family{"qwen2", "Qwen2ForCausalLM", false, false},
    Family{"qwen3", "Qwen3ForCausalLM", false, false},
    Family{"qwen2moe", "Qwen2MoeForCausalLM", true, false},
    Family{"qwen3moe", "Qwen3MoeForCausalLM", true, true},
    Family{"qwen3next", "Qwen3NextForCausalLM", true, true, true},
    Family{"qwen35", "Qwen3_5ForCausalLM", false, false, true, true},
    Family{"qwen35moe", "Qwen3_5MoeForCausalLM", true, true, true, true},
};

const Family& find_family(const GgufFile& file) {
  const auto architecture = file.text("general.architecture");
  std::string known;
  for (const Family& family : kFamilies) {
    if (architecture == family.architecture) return family;
    known += cat(known.empty() ? "" : ", ", family.architecture);
  }
  if (!architecture) file.reject("general.architecture", "missing", cat("one of ", known));
  fail(Status::unsupported, file.source(), ": architecture ", quote(*architecture),
       " is not supported by this version (supported: ", known, ")");
}

// The metadata in config.json's words, so that the checks of config.json (and their defaults, where a file does not say)
// are the only ones there are; `names` leads its messages back to the keys of this file.
class Translation {
 public:
  Translation(const GgufFile& file, const Family& family) : file_(file), family_(family) {}

  std::string own(std::string_view suffix) const { return cat(family_.architecture, ".", suffix); }

  // A value under another name. `prefix`: of the object in config.json, "rope_scaling."
  void take(std::string_view key, std::string_view suffix, std::string_view prefix = "") {
    const std::string name = own(suffix);
    names_.emplace(cat(prefix, key), name);
    if (const GgufValue* value = file_.find(name)) put(key, file_.json(name, *value));
  }
  void put(std::string_view key, std::string_view json) {
    text_ += cat(text_.empty() ? "" : ",", "\"", key, "\":", json);
  }
  // What is put from here on becomes the object `key`.
  std::string begin_object() { return std::exchange(text_, ""); }
  void end_object(std::string_view key, std::string outer) {
    const std::string inner = std::exchange(text_, std::move(outer));
    put(key, cat("{", inner, "}"));
  }
  void name(std::string_view key, std::string_view gguf_key) { names_.emplace(key, gguf_key); }

  std::string text() const { return cat("{", text_, "}"); }
  const KeyNames& names() const { return names_; }

 private:
  const GgufFile& file_;
  const Family& family_;
  std::string text_;
  KeyNames names_;
};

// Metadata that would change what the layers compute and may say one thing only.
void refuse_other_arithmetic(const GgufFile& file, const Translation& to) {
  const auto only = [&](std::string_view suffix, double wanted) {
    const std::string key = to.own(suffix);
    if (const auto value = file.number(key); value && *value != wanted)
      file.reject(key, cat(*value), cat(wanted, " or absent"), Status::unsupported);
  };
  only("rope.scale_linear", 1);
  only("rope.scaling.attn_factor", 1);
  only("rope.scaling.yarn_attn_factor", 1);
  only("rope.scaling.yarn_ext_factor", 1);
  only("expert_weights_scale", 1);
  const std::string causal = to.own("attention.causal");
  if (file.boolean(causal) == false)
    file.reject(causal, "false", "true or absent: only causal attention is supported by this version",
                Status::unsupported);
}

void take_head_dim(const GgufFile& file, const Family& family, Translation& to) {
  const std::string key = to.own("attention.key_length"), value = to.own("attention.value_length");
  const std::string rotated = to.own("rope.dimension_count");
  const auto key_length = file.integer(key, 1, kMaxWidth), value_length = file.integer(value, 1, kMaxWidth);
  if (key_length)
    to.take("head_dim", "attention.key_length");
  else
    to.put("head_dim", "null");  // embedding_length / head_count, whatever the architecture
  const auto embedding = file.integer(to.own("embedding_length"), 1, kMaxWidth);
  const auto heads = file.integer(to.own("attention.head_count"), 1, kMaxWidth);
  if (!embedding || !heads) return;  // said when they are read
  const int64_t head_dim = key_length.value_or(*embedding / *heads);
  if (value_length.value_or(head_dim) != head_dim)
    file.reject(value, cat(*value_length), cat("the length of keys, which is ", head_dim),
                Status::unsupported);
  if (family.hybrid) return;  // rotates a part: read_rotary_dim()
  if (const auto count = file.integer(rotated, 1, kMaxWidth); count.value_or(head_dim) != head_dim)
    file.reject(rotated, cat(*count), cat(head_dim, " or absent: these architectures rotate whole heads"),
                Status::unsupported);
}

void take_rope(const GgufFile& file, Translation& to) {
  to.take("rope_theta", "rope.freq_base");
  const std::string key = to.own("rope.scaling.type");
  const std::string type(file.text(key).value_or("none"));
  if (type == "none") return;
  std::string outer = to.begin_object();
  to.take("rope_type", "rope.scaling.type", "rope_scaling.");
  to.take("factor", "rope.scaling.factor", "rope_scaling.");
  to.take("original_max_position_embeddings", "rope.scaling.original_context_length", "rope_scaling.");
  to.take("beta_fast", "rope.scaling.yarn_beta_fast", "rope_scaling.");
  to.take("beta_slow", "rope.scaling.yarn_beta_slow", "rope_scaling.");
  to.end_object("rope_scaling", std::move(outer));
}

// The shape of a tensor of some layer, nothing where no layer has it.
std::optional<std::vector<int64_t>> shape_in_layers(const GgufFile& file, int64_t layers,
                                                    std::string_view suffix) {
  for (int64_t layer = 0; layer < layers; ++layer)
    if (const TensorView* tensor = file.tensor(cat("blk.", layer, ".", suffix))) return tensor->shape;
  return std::nullopt;
}

void take_experts(const GgufFile& file, const Family& family, int64_t layers, Translation& to) {
  to.take("num_experts", "expert_count");
  to.take("num_experts_per_tok", "expert_used_count");
  // Older files leave the widths to the tensors.
  const auto width = [&](std::string_view key, std::string_view suffix, std::string_view tensor) {
    to.take(key, suffix);
    if (file.find(to.own(suffix))) return;
    if (const auto shape = shape_in_layers(file, layers, tensor); shape && shape->size() >= 2)
      to.put(key, cat((*shape)[shape->size() - 2]));
  };
  width("moe_intermediate_size", "expert_feed_forward_length", "ffn_gate_exps.weight");
  width("shared_expert_intermediate_size", "expert_shared_feed_forward_length", "ffn_gate_shexp.weight");
  const auto norm = file.boolean(to.own("expert_weights_norm"));
  to.put("norm_topk_prob", norm.value_or(family.norm_topk_prob) ? "true" : "false");
  std::string dense;  // the layers without a router
  for (int64_t layer = 0; layer < layers; ++layer)
    if (!file.tensor(cat("blk.", layer, ".ffn_gate_inp.weight")))
      dense += cat(dense.empty() ? "" : ",", layer);
  to.put("mlp_only_layers", cat("[", dense, "]"));
}

// The decoder's layers; those behind them are of the multi-token-prediction head. Nothing where a key is missing that is
// required anyway.
std::optional<int64_t> take_layers(const GgufFile& file, const Family& family, Translation& to) {
  const std::string key = to.own("block_count");
  to.name("num_hidden_layers", key);
  auto layers = file.integer(key, 1, kMaxLayers);
  if (!layers) return layers;
  // Computed without that layer it would be another model.
  if (const TensorView* further = file.tensor(cat("blk.", *layers, ".attn_norm.weight")))
    file.reject(key, cat(*layers), cat("more: there is a tensor ", quote(further->name)));
  if (family.hybrid) *layers -= file.integer(to.own("nextn_predict_layers"), 0, *layers - 1).value_or(0);
  to.put("num_hidden_layers", cat(*layers));
  return layers;
}

// The sizes of linear attention, in the words of state-space models.
void take_gated_delta(const GgufFile& file, std::optional<int64_t> layers, Translation& to) {
  static constexpr int64_t kMaxHeadDim = 1024, kDefaultInterval = 4;  // as in config.json
  const std::string interval = to.own("full_attention_interval");
  const int64_t most = layers.value_or(kMaxLayers);
  if (file.integer(interval, 1, most).value_or(kDefaultInterval) > most)
    file.reject(interval, "missing", cat("an integer from 1 to ", most));
  to.take("full_attention_interval", "full_attention_interval");
  to.take("linear_num_key_heads", "ssm.group_count");
  to.take("linear_num_value_heads", "ssm.time_step_rank");
  to.take("linear_key_head_dim", "ssm.state_size");
  to.take("linear_conv_kernel_dim", "ssm.conv_kernel");
  const std::string inner = to.own("ssm.inner_size");
  to.name("linear_value_head_dim", inner);
  const auto heads = file.integer(to.own("ssm.time_step_rank"), 1, kMaxWidth);
  if (!heads) return;  // said when it is read, and so below
  const auto width = file.integer(inner, *heads, *heads * kMaxHeadDim);
  if (!width) return;
  if (*width % *heads != 0)
    file.reject(inner, cat(*width),
                cat("a multiple of ", to.own("ssm.time_step_rank"), ", which is ", *heads));
  to.put("linear_value_head_dim", cat(*width / *heads));
}

// Of a head's elements, how many are rotated. The sections of rope.dimension_sections, which tell apart the three positions
// that an image's patches have, mean nothing for text, where the three are the same number.
int64_t read_rotary_dim(const GgufFile& file, const Translation& to, int64_t head_dim) {
  const std::string key = to.own("rope.dimension_count");
  const auto count = file.integer(key, 2, head_dim);
  const std::string wanted = cat("an even number from 2 to ", head_dim);
  if (!count) file.reject(key, "missing", wanted);
  if (*count % 2 != 0) file.reject(key, cat(*count), wanted);
  return *count;
}

// "Q4_K_M": what the file says it is, for people. The names of llama.cpp's llama_ftype.
std::string file_type(const GgufFile& file) {
  static constexpr std::pair<int, std::string_view> kTypes[] = {
      {0, "F32"},     {1, "F16"},     {2, "Q4_0"},    {3, "Q4_1"},    {7, "Q8_0"},    {8, "Q5_0"},
      {9, "Q5_1"},    {10, "Q2_K"},   {11, "Q3_K_S"}, {12, "Q3_K_M"}, {13, "Q3_K_L"}, {14, "Q4_K_S"},
      {15, "Q4_K_M"}, {16, "Q5_K_S"}, {17, "Q5_K_M"}, {18, "Q6_K"},   {21, "Q2_K_S"}, {25, "IQ4_NL"},
      {30, "IQ4_XS"}, {32, "BF16"},   {38, "MXFP4"}};
  const auto number = file.integer("general.file_type", 0, kMaxInt32);
  for (const auto& [type, name] : kTypes)
    if (number == type) return std::string(name);
  return {};
}

std::optional<int32_t> token_id(const GgufFile& file, std::string_view key) {
  const auto id = file.integer(key, 0, kMaxInt32);
  if (!id) return std::nullopt;
  return static_cast<int32_t>(*id);
}

}  // namespace

ModelConfig gguf_model_config(const GgufFile& file) {
  const Family& family = find_family(file);
  Translation to(file, family);
  refuse_other_arithmetic(file, to);
  to.put("architectures", cat("[\"", family.published, "\"]"));
  to.take("hidden_size", "embedding_length");
  to.take("intermediate_size", "feed_forward_length");
  const auto layers = take_layers(file, family, to);
  to.take("num_attention_heads", "attention.head_count");
  to.take("num_key_value_heads", "attention.head_count_kv");
  to.take("max_position_embeddings", "context_length");
  to.take("rms_norm_eps", "attention.layer_norm_rms_epsilon");
  take_head_dim(file, family, to);
  take_rope(file, to);
  to.name("vocab_size", "rows of token_embd.weight");
  const TensorView* table = file.tensor("token_embd.weight");
  if (!table || table->shape.size() != 2)
    fail(Status::invalid_file, file.source(), ": tensor 'token_embd.weight' is ",
         table ? cat("of shape ", shape_text(table->shape)) : "missing",
         "; it must be the embedding table, [tokens, embedding_length]");
  to.put("vocab_size", cat(table->shape[0]));
  if (!file.tensor("output.weight")) to.put("tie_word_embeddings", "true");
  if (family.mixture_of_experts) take_experts(file, family, layers.value_or(0), to);
  if (family.hybrid) take_gated_delta(file, layers, to);
  ModelConfig config = parse_model_config(to.text(), file.source(), &to.names());
  if (family.hybrid) {
    config.rotary_dim = read_rotary_dim(file, to, config.head_dim);
    GatedDeltaShape& delta = *config.gated_delta;
    config.zero_centred_norms = false;  // the converter has added the 1 …
    delta.stored_rates = true;          // … and computed -exp(A_log)
    delta.tiled_value_heads = family.tiled_value_heads && delta.key_heads != delta.value_heads;
  }
  config.torch_dtype = file_type(file);
  return config;
}

GenerationConfig gguf_generation_config(const GgufFile& file) {
  GenerationConfig config;
  const auto ends = [&](int32_t id) {
    auto& ids = config.eos_token_ids;
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  };
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    if (const auto id = token_id(file, key)) ends(*id);
  config.bos_token_id = token_id(file, "tokenizer.ggml.bos_token_id");
  config.pad_token_id = token_id(file, "tokenizer.ggml.padding_token_id");
  static constexpr int64_t kControl = 3;
  const auto tokens = file.texts("tokenizer.ggml.tokens");
  const auto types = file.integers("tokenizer.ggml.token_type");
  if (tokens && types)
    for (size_t i = 0; i < std::min(tokens->size(), types->size()); ++i)
      if ((*types)[i] == kControl && ((*tokens)[i] == "<|im_end|>" || (*tokens)[i] == "<|endoftext|>"))
        ends(static_cast<int32_t>(i));

  // The same bounds as those of a generation_config.json.
  std::string json;
  KeyNames names;
  const auto take = [&](std::string_view key, std::string_view name) {
    names.emplace(key, name);
    if (const GgufValue* value = file.find(name))
      json += cat(json.empty() ? "" : ",", "\"", key, "\":", file.json(name, *value));
  };
  take("temperature", "general.sampling.temp");
  take("top_k", "general.sampling.top_k");
  take("top_p", "general.sampling.top_p");
  take("min_p", "general.sampling.min_p");
  take("repetition_penalty", "general.sampling.penalty_repeat");
  const GenerationConfig sampling = parse_generation_config(cat("{", json, "}"), file.source(), &names);
  config.temperature = sampling.temperature;
  config.top_k = sampling.top_k;
  config.top_p = sampling.top_p;
  config.min_p = sampling.min_p;
  config.repetition_penalty = sampling.repetition_penalty;
  return config;
}

}  // namespace qwen
