// config.json, read and checked: what a model needs to know about itself. Every value has been range-checked,
// so the code that follows may allocate and index by them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/gated_delta_shape.h"
#include "checkpoint/json_fields.h"
#include "checkpoint/quantization_config.h"

namespace qwen {

enum class LayerKind : uint8_t { full_attention, sliding_attention, linear_attention };

struct RopeScaling {  // YaRN (https://arxiv.org/abs/2309.00071) as transformers computes it
  double factor = 1;
  int64_t original_max_position_embeddings = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  std::optional<double> attention_factor;  // absent: 0.1 * ln(factor) + 1; DeepSeek's mscale keys end up here
};

// Mixture of experts in place of the MLP, in some layers or all.
struct MoeConfig {
  int64_t num_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t moe_intermediate_size = 0;
  int64_t shared_expert_intermediate_size = 0;  // 0: there is none
  bool norm_topk_prob = false;                  // the chosen experts' probabilities are scaled to sum to 1
  bool transposed_experts = false;              // Qwen3-VL-MoE: a stack of [in, out] matrices
  std::vector<bool> sparse_layers;              // [num_hidden_layers]
};

struct ModelConfig {
  std::string architecture;  // "Qwen3ForCausalLM": architectures[0]
  std::string model_type;    // "qwen2", "qwen3", "qwen3_moe", "qwen3_5", …
  int64_t vocab_size = 0;    // rows of the embedding and of the logits, padding included
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;    // independent of hidden_size / num_attention_heads
  int64_t rotary_dim = 0;  // of each head's elements, how many rotary positions turn: the first ones
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  std::optional<RopeScaling> rope_scaling;
  bool tie_word_embeddings = false;
  bool attention_bias = false;      // q/k/v biases (Qwen2); o_proj never has one
  bool query_key_norm = false;      // per-head RMSNorm of q and k (Qwen3)
  bool attention_gate = false;      // q_proj also gives a gate for the attention's output (hybrids)
  bool zero_centred_norms = false;  // the file holds a norm's weight minus one (hybrids)
  int64_t sliding_window = 0;  // positions a sliding layer sees, the current one included; 0: none is sliding
  std::vector<LayerKind> layer_kinds;          // [num_hidden_layers]
  std::optional<GatedDeltaShape> gated_delta;  // where a layer is of kind linear_attention
  bool grouped_projections = false;  // Qwen3-Next: in_proj_qkvz and in_proj_ba, interleaved by key head
  std::optional<MoeConfig> moe;
  std::optional<QuantizationConfig> quantization;  // absent: all weights are BF16, F16 or F32
  std::string torch_dtype;  // as the file says it, informative only: each tensor carries its own

  int64_t context_length()
      const;  // longest sequence: max_position_embeddings, stretched by YaRN where it applies
};

// Parses the text of a config.json. `source` names it in errors. Throws Error: invalid_file (key, value, what
// is right), unsupported (architecture, rope type, quantisation … by name). `names`: what messages call the keys of a
// text that was made from something else.
ModelConfig parse_model_config(std::string_view json, std::string_view source,
                               const KeyNames* names = nullptr);

// generation_config.json; every member is optional there.
struct GenerationConfig {
  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> bos_token_id, pad_token_id;
  std::optional<bool> do_sample;
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k, max_new_tokens;
};
GenerationConfig parse_generation_config(std::string_view json, std::string_view source,
                                         const KeyNames* names = nullptr);

// The eos_token_id of a config.json: an id, a list of ids, or nothing. What counts where
// generation_config.json is absent or names none.
std::vector<int32_t> parse_eos_token_ids(std::string_view json, std::string_view source);

}  // namespace qwen
