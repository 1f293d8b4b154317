#include "checkpoint/model_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "checkpoint/json_fields.h"
#include "checkpoint/rope_config.h"

namespace qwen {
namespace {

// Where the text model's keys stand.
enum class Nesting : uint8_t { none, text_config, thinker };

struct Family {
  std::string_view architecture, model_type;
  bool query_key_value_bias = false;
  bool query_key_norm = false;
  int64_t default_head_dim = 0;  // where config.json has no such key; 0: hidden_size / num_attention_heads
  bool mixture_of_experts = false;
  bool shared_expert = false;
  bool normalises_experts = false;  // where config.json has no norm_topk_prob
  bool transposed_experts = false;
  bool hybrid = false;
  bool grouped_projections = false;
  bool qwen4_exp = false;
  Nesting nesting = Nesting::none;
  bool multimodal = false;     // of which the text side is run
  bool default_sizes = false;  // Qwen2-Audio leaves out what transformers' Qwen2Config says by default
};

constexpr Family qwen2(std::string_view architecture, std::string_view model_type) {
  return {.architecture = architecture, .model_type = model_type, .query_key_value_bias = true};
}
constexpr Family qwen3(std::string_view architecture, std::string_view model_type) {
  return {.architecture = architecture,
          .model_type = model_type,
          .query_key_norm = true,
          .default_head_dim = 128};
}
constexpr Family qwen3_moe(std::string_view architecture, std::string_view model_type) {
  return {.architecture = architecture,
          .model_type = model_type,
          .query_key_norm = true,
          .mixture_of_experts = true};
}
constexpr Family hybrid(std::string_view architecture, std::string_view model_type) {
  return {.architecture = architecture,
          .model_type = model_type,
          .query_key_norm = true,
          .default_head_dim = 256,
          .hybrid = true};
}
constexpr Family with_experts(Family family) {  // of the hybrids
  family.mixture_of_experts = family.shared_expert = family.normalises_experts = true;
  return family;
}
constexpr Family multimodal(Family family, Nesting nesting) {
  family.multimodal = true;
  family.nesting = nesting;
  return family;
}
constexpr Family qwen2_moe() {
  Family family = qwen2("Qwen2MoeForCausalLM", "qwen2_moe");
  family.mixture_of_experts = family.shared_expert = true;
  return family;
}
constexpr Family qwen3_next() {
  Family family = with_experts(hybrid("Qwen3NextForCausalLM", "qwen3_next"));
  family.grouped_projections = true;
  return family;
}
constexpr Family qwen4_exp() {
  Family family =
      multimodal(with_experts(hybrid("Qwen4ExpForConditionalGeneration", "qwen4_exp")), Nesting::text_config);
  family.qwen4_exp = true;
  return family;
}
constexpr Family qwen2_audio() {
  Family family =
      multimodal(qwen2("Qwen2AudioForConditionalGeneration", "qwen2_audio"), Nesting::text_config);
  family.default_sizes = true;
  return family;
}
constexpr Family qwen3_vl_moe() {
  Family family =
      multimodal(qwen3_moe("Qwen3VLMoeForConditionalGeneration", "qwen3_vl_moe"), Nesting::text_config);
  family.transposed_experts = true;
  return family;
}

// Qwen2ForCausalLM also covers Qwen1.5 and Qwen2.5; the dense Qwen3, its embedding and its reranker models
// are all Qwen3ForCausalLM; Qwen3.5, 3.6 and 3.8 are all Qwen3_5…. The defaults here and below are those of
// transformers' configuration classes.
constexpr std::array kFamilies = {
    qwen2("Qwen2ForCausalLM", "qwen2"),
    qwen3("Qwen3ForCausalLM", "qwen3"),
    qwen2_moe(),
    qwen3_moe("Qwen3MoeForCausalLM", "qwen3_moe"),
    qwen3_next(),
    hybrid("Qwen3_5ForCausalLM", "qwen3_5_text"),
    with_experts(hybrid("Qwen3_5MoeForCausalLM", "qwen3_5_moe_text")),
    multimodal(hybrid("Qwen3_5ForConditionalGeneration", "qwen3_5"), Nesting::text_config),
    multimodal(with_experts(hybrid("Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe")),
               Nesting::text_config),
    qwen4_exp(),
    multimodal(qwen2("Qwen2VLForConditionalGeneration", "qwen2_vl"), Nesting::none),
    multimodal(qwen2("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl"), Nesting::none),
    qwen2_audio(),
    multimodal(qwen2("Qwen2_5OmniModel", "qwen2_5_omni"), Nesting::thinker),
    multimodal(qwen2("Qwen2_5OmniForConditionalGeneration", "qwen2_5_omni"), Nesting::thinker),
    multimodal(qwen3("Qwen3VLForConditionalGeneration", "qwen3_vl"), Nesting::text_config),
    qwen3_vl_moe(),
    multimodal(qwen3_moe("Qwen3OmniMoeForConditionalGeneration", "qwen3_omni_moe"), Nesting::thinker),
};

// Far above any Qwen, and small enough that sizes computed from two of them and an element size stay below
// 2^52.
constexpr int64_t kMaxWidth = int64_t{1} << 24;
constexpr int64_t kMaxHeads = 65536;
constexpr int64_t kMaxLayers = 10000;
constexpr int64_t kMaxExperts = 65536;
constexpr int64_t kMaxPositions =
    std::numeric_limits<int32_t>::max();  // a position is an int32 in the engine

std::string supported_architectures() {
  std::string all;
  for (const auto& family : kFamilies) all += cat(all.empty() ? "" : ", ", family.architecture);
  return all;
}

// architectures[0]; "" when the key is missing or empty.
std::string declared_architecture(const JsonFields& root) {
  const JsonValue* list = root.find("architectures");
  if (!list) return {};
  if (!list->IsArray()) root.reject("architectures", json_value_text(*list), "a list of class names");
  if (list->Empty()) return {};
  const JsonValue& first = (*list)[0];
  if (!first.IsString())
    root.reject("architectures", cat("a list of ", json_kind(first)), "a list of class names");
  return std::string(json_text(first));
}

const Family& find_family(const JsonFields& root) {
  const std::string architecture = declared_architecture(root);
  const std::string model_type = root.text("model_type").value_or("");
  if (architecture.empty() && model_type.empty())
    root.reject("architectures", "missing", cat("a list of one of ", supported_architectures()));
  const auto family = std::find_if(kFamilies.begin(), kFamilies.end(), [&](const Family& candidate) {
    return architecture.empty() ? candidate.model_type == model_type : candidate.architecture == architecture;
  });
  if (family == kFamilies.end())
    fail(Status::unsupported, root.source(), ": ", architecture.empty() ? "model_type " : "architecture ",
         qwen::quote(architecture.empty() ? model_type : architecture),
         " is not supported by this version (supported: ", supported_architectures(), ")");
  if (!model_type.empty() && family->model_type != model_type)
    root.reject("model_type", qwen::quote(model_type),
                cat(quote(family->model_type), " for ", family->architecture));
  return *family;
}

void read_quantization(const JsonFields& root, ModelConfig& config) {
  if (const JsonValue* value = root.find("compression_config")) {  // compressed-tensors' older key
    const JsonFields compression(*value, root.source(), "compression_config.");
    fail(Status::unsupported, root.source(), ": quantization ",
         qwen::quote(compression.text("quant_method").value_or("(no quant_method)")),
         " in 'compression_config' is not supported by this version");
  }
  if (const JsonValue* value = root.find("quantization_config"))
    config.quantization = parse_quantization_config(*value, root.source());
}

// Settings that would change what the layers compute, and that no official dense model uses: running such a
// model as if they were not there would give wrong text without any error.
void refuse_other_arithmetic(const JsonFields& root, const Family& family) {
  const std::string activation = root.text("hidden_act").value_or("silu");
  if (activation != "silu") root.reject("hidden_act", qwen::quote(activation), "'silu'", Status::unsupported);
  // Qwen2 ignores the key: its q, k and v always have biases, its o_proj never.
  if (!family.query_key_value_bias && root.boolean("attention_bias").value_or(false))
    root.reject("attention_bias", "true", cat("false or absent for ", family.architecture),
                Status::unsupported);
  if (root.boolean("is_causal") == false)
    root.reject("is_causal", "false", "true or absent: only causal attention is supported by this version",
                Status::unsupported);
  if (root.boolean("use_mrope").value_or(false))
    root.reject("use_mrope", "true", "false or absent", Status::unsupported);
  if (family.hybrid && root.boolean("attn_output_gate") == false)
    root.reject("attn_output_gate", "false", cat("true or absent for ", family.architecture),
                Status::unsupported);
  const std::string gate = root.text("output_gate_type").value_or("swish");
  if (family.qwen4_exp) {
    if (gate != "swish" && gate != "silu" && gate != "sigmoid")
      root.reject("output_gate_type", qwen::quote(gate), "'sigmoid', 'swish', 'silu' or absent",
                  Status::unsupported);
  } else if (family.hybrid && gate != "swish")
    root.reject("output_gate_type", qwen::quote(gate), cat("'swish' or absent for ", family.architecture),
                Status::unsupported);
  if (!family.mixture_of_experts) return;
  if (root.boolean("qkv_bias") == false)
    root.reject("qkv_bias", "false", "true or absent", Status::unsupported);
  // The classes disagree about which layers would slide, and no published model does.
  if (root.boolean("use_sliding_window").value_or(false))
    root.reject("use_sliding_window", "true", cat("false or absent for ", family.architecture),
                Status::unsupported);
}

void read_sizes(const JsonFields& root, const Family& family, ModelConfig& config) {
  config.vocab_size = root.required_integer("vocab_size", 1, kMaxWidth);
  const auto size = [&](std::string_view key, int64_t most, int64_t by_default) {
    return family.default_sizes ? root.integer(key, 1, most).value_or(by_default)
                                : root.required_integer(key, 1, most);
  };
  config.hidden_size = size("hidden_size", kMaxWidth, 4096);
  // Qwen3.5-MoE has no dense layer, and does not name the size of one.
  if (!family.mixture_of_experts || root.find("intermediate_size"))
    config.intermediate_size = root.required_integer("intermediate_size", 1, kMaxWidth);
  config.num_hidden_layers = size("num_hidden_layers", kMaxLayers, 32);
  config.num_attention_heads = size("num_attention_heads", kMaxHeads, 32);
  config.num_key_value_heads =
      root.integer("num_key_value_heads", 1, kMaxHeads).value_or(config.num_attention_heads);
  if (config.num_attention_heads % config.num_key_value_heads != 0)
    root.reject(
        "num_key_value_heads", cat(config.num_key_value_heads),
        cat("a divisor of ", root.name("num_attention_heads"), ", which is ", config.num_attention_heads));
  config.max_position_embeddings = root.required_integer("max_position_embeddings", 1, kMaxPositions);
}

void read_head_dim(const JsonFields& root, const Family& family, ModelConfig& config) {
  if (const auto given = root.integer("head_dim", 1, kMaxWidth)) {
    config.head_dim = *given;
  } else if (family.default_head_dim > 0 && !root.has("head_dim")) {
    config.head_dim = family.default_head_dim;
  } else {
    if (config.hidden_size % config.num_attention_heads != 0)
      root.reject("hidden_size", cat(config.hidden_size),
                  cat("a multiple of ", root.name("num_attention_heads"), " (", config.num_attention_heads,
                      ") where ", root.name("head_dim"), " is not given"));
    config.head_dim = config.hidden_size / config.num_attention_heads;
  }
  if (config.head_dim % 2 != 0)
    root.reject("head_dim", cat(config.head_dim), "even: rotary positions turn pairs of elements");
  if (config.head_dim * config.num_attention_heads > kMaxWidth)
    root.reject("head_dim", cat(config.head_dim),
                cat("at most ", kMaxWidth / config.num_attention_heads, " with ", config.num_attention_heads,
                    " attention heads"));
}

std::vector<LayerKind> listed_layer_kinds(const JsonFields& root, const JsonValue& list, const Family& family,
                                          int64_t layers) {
  const LayerKind other = family.hybrid ? LayerKind::linear_attention : LayerKind::sliding_attention;
  const std::string_view other_name = family.hybrid ? "linear_attention" : "sliding_attention";

  if (!list.IsArray()) root.reject("layer_types", json_value_text(list), "a list of one entry per layer");
  if (static_cast<int64_t>(list.Size()) != layers)
    root.reject("layer_types", cat("a list of ", list.Size()),
                cat("a list of num_hidden_layers (", layers, ") entries"));
  std::vector<LayerKind> kinds;
  kinds.reserve(list.Size());
  for (const auto& entry : list.GetArray()) {
    const std::string_view kind = entry.IsString() ? json_text(entry) : std::string_view();
    // transformers writes Qwen4-Exp's with the other name, which says what they are; the published file does not.
    if (kind == "full_attention" || (family.qwen4_exp && kind == "indexed_attention")) {
      kinds.push_back(LayerKind::full_attention);
    } else if (kind == other_name) {
      kinds.push_back(other);
    } else {
      root.reject("layer_types", cat("a list with ", json_value_text(entry)),
                  cat("a list of 'full_attention' and ", quote(other_name)),
                  entry.IsString() ? Status::unsupported : Status::invalid_file);
    }
  }
  return kinds;
}

// As transformers: use_sliding_window = false switches a window off that is set nevertheless (most official
// files say so); with it, layers from max_window_layers on slide unless layer_types says which do.
void read_sliding_layers(const JsonFields& root, const Family& family, ModelConfig& config) {
  static constexpr int64_t kDefaultWindow = 4096, kDefaultFirstWindowLayer = 28;
  int64_t window = 0;
  const bool window_is_null = root.has("sliding_window") && !root.find("sliding_window");
  if (root.boolean("use_sliding_window").value_or(false) && !window_is_null)
    window = root.integer("sliding_window", 1, kMaxPositions).value_or(kDefaultWindow);

  if (const JsonValue* list = root.find("layer_types")) {
    config.layer_kinds = listed_layer_kinds(root, *list, family, config.num_hidden_layers);
  } else {
    config.layer_kinds.assign(static_cast<size_t>(config.num_hidden_layers), LayerKind::full_attention);
    if (window > 0) {
      const int64_t first =
          root.integer("max_window_layers", 0, kMaxPositions).value_or(kDefaultFirstWindowLayer);
      for (int64_t layer = first; layer < config.num_hidden_layers; ++layer)
        config.layer_kinds[static_cast<size_t>(layer)] = LayerKind::sliding_attention;
    }
  }
  const bool any_slides = std::find(config.layer_kinds.begin(), config.layer_kinds.end(),
                                    LayerKind::sliding_attention) != config.layer_kinds.end();
  if (any_slides && window == 0)
    root.reject("layer_types", "a list with 'sliding_attention'",
                "all 'full_attention' unless use_sliding_window is true and sliding_window is given");
  config.sliding_window = any_slides ? window : 0;
}

// The hybrids: every full_attention_interval-th layer attends, the others carry a state by the gated delta rule.
void read_linear_layers(const JsonFields& root, const Family& family, ModelConfig& config) {
  static constexpr int64_t kMaxHeadDim = 1024, kMaxKernel = 16;
  if (const JsonValue* list = root.find("layer_types")) {
    config.layer_kinds = listed_layer_kinds(root, *list, family, config.num_hidden_layers);
  } else {
    const int64_t interval = root.integer("full_attention_interval", 1, kMaxLayers).value_or(4);
    for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer)
      config.layer_kinds.push_back((layer + 1) % interval == 0 ? LayerKind::full_attention
                                                               : LayerKind::linear_attention);
  }
  if (std::find(config.layer_kinds.begin(), config.layer_kinds.end(), LayerKind::full_attention) ==
      config.layer_kinds.end())
    root.reject("layer_types", "a list without 'full_attention'", "a list with at least one",
                Status::unsupported);
  GatedDeltaShape delta;
  delta.key_heads = root.required_integer("linear_num_key_heads", 1, kMaxHeads);
  delta.value_heads = root.required_integer("linear_num_value_heads", 1, kMaxHeads);
  delta.key_dim = root.required_integer("linear_key_head_dim", 1, kMaxHeadDim);
  delta.value_dim = root.required_integer("linear_value_head_dim", 1, kMaxHeadDim);
  delta.conv_kernel = root.required_integer("linear_conv_kernel_dim", 1, kMaxKernel);
  config.grouped_projections = family.grouped_projections;
  if (delta.value_heads % delta.key_heads != 0)
    root.reject("linear_num_value_heads", cat(delta.value_heads),
                cat("a multiple of ", root.name("linear_num_key_heads"), ", which is ", delta.key_heads));
  config.gated_delta = delta;
}

// Which layers are sparse: every decoder_sparse_step-th one, but for those that mlp_only_layers lists.
void read_moe(const JsonFields& root, const Family& family, ModelConfig& config) {
  if (!family.mixture_of_experts) return;
  MoeConfig moe;
  moe.num_experts = root.required_integer("num_experts", 1, kMaxExperts);
  moe.num_experts_per_tok = root.required_integer("num_experts_per_tok", 1, moe.num_experts);
  moe.moe_intermediate_size = root.required_integer("moe_intermediate_size", 1, kMaxWidth);
  if (family.shared_expert)
    moe.shared_expert_intermediate_size =
        root.required_integer("shared_expert_intermediate_size", 1, kMaxWidth);
  moe.norm_topk_prob = root.boolean("norm_topk_prob").value_or(family.normalises_experts);
  moe.transposed_experts = family.transposed_experts;
  const int64_t step = root.integer("decoder_sparse_step", 1, kMaxLayers).value_or(1);
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer)
    moe.sparse_layers.push_back((layer + 1) % step == 0);
  if (const JsonValue* list = root.find("mlp_only_layers")) {
    if (!list->IsArray()) root.reject("mlp_only_layers", json_value_text(*list), "a list of layer numbers");
    for (const JsonValue& layer : list->GetArray()) {
      if (!layer.IsInt64() || layer.GetInt64() < 0)
        root.reject("mlp_only_layers", cat("a list with ", json_value_text(layer)),
                    "a list of layer numbers");
      if (layer.GetInt64() < config.num_hidden_layers)
        moe.sparse_layers[static_cast<size_t>(layer.GetInt64())] = false;
    }
  }
  if (std::find(moe.sparse_layers.begin(), moe.sparse_layers.end(), false) != moe.sparse_layers.end())
    root.required_integer("intermediate_size", 1, kMaxWidth);
  config.moe = std::move(moe);
}

// The object that holds the text model's keys.
const JsonValue& text_object(const JsonFields& root, const JsonValue& document, const Family& family,
                             std::string& prefix) {
  const JsonValue* object = &document;
  if (family.nesting == Nesting::none) return *object;
  if (family.nesting == Nesting::thinker) {
    object = root.find("thinker_config");
    if (!object) root.reject("thinker_config", "missing", cat("an object for ", family.architecture));
    prefix = "thinker_config.";
  }
  const JsonFields outer(*object, root.source(), prefix);
  object = outer.find("text_config");
  if (!object) outer.reject("text_config", "missing", cat("an object for ", family.architecture));
  prefix += "text_config.";
  return *object;
}

}  // namespace

int64_t ModelConfig::context_length() const {
  if (!rope_scaling) return max_position_embeddings;
  const double stretched =
      rope_scaling->factor * static_cast<double>(rope_scaling->original_max_position_embeddings);
  // Some files give max_position_embeddings before stretching, others after.
  return std::max(max_position_embeddings, static_cast<int64_t>(std::llround(stretched)));
}

ModelConfig parse_model_config(std::string_view json, std::string_view source, const KeyNames* names) {
  const JsonDocument document = parse_json(json, source);
  const JsonFields root(document, source, {}, names);
  const Family& family = find_family(root);
  ModelConfig config;
  read_quantization(root, config);
  std::string prefix;
  const JsonValue& object = text_object(root, document, family, prefix);
  const JsonFields text(object, source, prefix, names);
  refuse_other_arithmetic(text, family);

  config.architecture = family.architecture;
  config.model_type = family.model_type;
  config.attention_bias = family.query_key_value_bias;
  config.query_key_norm = family.query_key_norm;
  config.attention_gate = config.zero_centred_norms = family.hybrid;
  read_sizes(text, family, config);
  read_head_dim(text, family, config);
  config.rms_norm_eps = text.number("rms_norm_eps", {0, 1, Interval::End::excluded, Interval::End::excluded})
                            .value_or(config.rms_norm_eps);
  read_rope(text, {.hybrid = family.hybrid, .multimodal = family.multimodal}, config);
  auto tied = root.boolean("tie_word_embeddings");
  if (!tied) tied = text.boolean("tie_word_embeddings");
  config.tie_word_embeddings = tied.value_or(false);
  if (family.hybrid) {
    read_linear_layers(text, family, config);
  } else {
    read_sliding_layers(text, family, config);
  }
  read_moe(text, family, config);
  if (family.qwen4_exp) {
    config.sigmoid_output_gate = text.text("output_gate_type") == "sigmoid";
    read_qwen4_exp(text, config);
  }
  for (const JsonFields* fields : {&text, &root}) {
    auto dtype = fields->text("torch_dtype");
    if (!dtype) dtype = fields->text("dtype");  // the name of the key since transformers 5
    if (config.torch_dtype.empty()) config.torch_dtype = dtype.value_or("");
  }
  return config;
}

}  // namespace qwen
