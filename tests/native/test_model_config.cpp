#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/model_config.h"

using namespace qwen;

namespace {

// As published: Qwen2.5-1.5B-Instruct (a window that is switched off, rope_theta a float) …
constexpr std::string_view kQwen2 = R"({
  "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
  "hidden_act": "silu", "hidden_size": 1536, "initializer_range": 0.02, "intermediate_size": 8960,
  "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 12,
  "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
  "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.43.1",
  "use_cache": true, "use_sliding_window": false, "vocab_size": 151936
})";
// … and Qwen3-4B (head_dim of its own, nulls, rope_theta an integer).
constexpr std::string_view kQwen3 = R"({
  "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 151643,
  "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2560, "initializer_range": 0.02,
  "intermediate_size": 9728, "max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3",
  "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
  "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true,
  "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": true, "use_sliding_window": false,
  "vocab_size": 151936
})";

// `config` with the members of `changes` (JSON text of "key": value pairs) in place of its own. A value of
// <absent> removes the key.
using Changes = std::map<std::string, std::string>;
constexpr const char* kAbsent = "";

std::string changed(std::string_view config, const Changes& changes) {
  std::string text(config), added;
  for (const auto& [key, value] : changes) {
    const std::string member = cat('"', key, "\":");
    if (!value.empty()) added += cat(member, value, ",");
    size_t begin = text.find(member);
    if (begin == std::string::npos) continue;
    size_t end = begin;
    for (int depth = 0; depth > 0 || (text[end] != ',' && text[end] != '\n'); ++end)
      depth += text[end] == '[' || text[end] == '{' ? 1 : text[end] == ']' || text[end] == '}' ? -1 : 0;
    // The last member has no comma behind it: then the one before goes.
    if (text[end] == ',') {
      ++end;
    } else {
      begin = text.rfind(',', begin);
    }
    text.erase(begin, end - begin);
  }
  return text.insert(1, added);
}

ModelConfig parse(std::string_view base, const Changes& changes) {
  return parse_model_config(changed(base, changes), "config.json");
}

void check_refused(std::string_view json, Status status, std::string_view fragment) {
  CAPTURE(json);
  try {
    parse_model_config(json, "config.json");
    FAIL_CHECK("no error");
  } catch (const Error& error) {
    CAPTURE(error.message());
    CHECK(error.status() == status);
    CHECK(error.message().find("config.json: ") == 0);
    CHECK(error.message().find(fragment) != std::string::npos);
  }
}

const Changes kMoe = {{"architectures", R"(["Qwen3MoeForCausalLM"])"},
                      {"model_type", R"("qwen3_moe")"},
                      {"num_hidden_layers", "6"},
                      {"num_experts", "8"},
                      {"num_experts_per_tok", "3"},
                      {"moe_intermediate_size", "48"}};

Changes moe_with(Changes more) {
  more.insert(kMoe.begin(), kMoe.end());
  return more;
}

// quantization_config with these members.
Changes quantized(std::string_view members) {
  return {{"quantization_config", cat("{", members, "}")}};
}
Changes gptq(std::string_view members) {
  return quantized(cat(R"("quant_method": "gptq", "group_size": 128, )", members));
}
Changes awq(std::string_view members) {
  return quantized(cat(R"("quant_method": "awq", "group_size": 128, )", members));
}

std::vector<LayerKind> kinds(std::string_view letters) {
  std::vector<LayerKind> out;
  for (const char c : letters)
    out.push_back(c == 's' ? LayerKind::sliding_attention : LayerKind::full_attention);
  return out;
}

}  // namespace

TEST_CASE("a Qwen2 config is read as it stands") {
  const ModelConfig config = parse(kQwen2, {});
  CHECK(config.architecture == "Qwen2ForCausalLM");
  CHECK(config.model_type == "qwen2");
  CHECK(config.vocab_size == 151936);
  CHECK(config.hidden_size == 1536);
  CHECK(config.intermediate_size == 8960);
  CHECK(config.num_hidden_layers == 28);
  CHECK(config.num_attention_heads == 12);
  CHECK(config.num_key_value_heads == 2);
  CHECK(config.head_dim == 128);
  CHECK(config.max_position_embeddings == 32768);
  CHECK(config.context_length() == 32768);
  CHECK(config.rms_norm_eps == 1e-6);
  CHECK(config.rope_theta == 1e6);
  CHECK(!config.rope_scaling);
  CHECK(config.tie_word_embeddings);
  CHECK(config.attention_bias);
  CHECK(!config.query_key_norm);
  CHECK(config.sliding_window == 0);
  CHECK(config.layer_kinds == std::vector<LayerKind>(28, LayerKind::full_attention));
  CHECK(config.torch_dtype == "bfloat16");
}

TEST_CASE("a Qwen3 config is read as it stands") {
  const ModelConfig config = parse(kQwen3, {});
  CHECK(config.architecture == "Qwen3ForCausalLM");
  CHECK(config.model_type == "qwen3");
  CHECK(config.head_dim == 128);
  CHECK(config.head_dim * config.num_attention_heads != config.hidden_size);
  CHECK(config.rope_theta == 1e6);
  CHECK(!config.attention_bias);
  CHECK(config.query_key_norm);
  CHECK(config.sliding_window == 0);
  CHECK(config.layer_kinds.size() == 36);
}

TEST_CASE("what a config leaves out has transformers' default") {
  for (const char* none : {"null", kAbsent}) {
    const ModelConfig config = parse(kQwen2, {{"num_key_value_heads", none},
                                              {"tie_word_embeddings", none},
                                              {"rms_norm_eps", none},
                                              {"rope_theta", none},
                                              {"hidden_act", none},
                                              {"torch_dtype", none},
                                              {"head_dim", none},
                                              {"model_type", none},
                                              {"sliding_window", none},
                                              {"use_sliding_window", none}});
    CHECK(config.num_key_value_heads == 12);
    CHECK(!config.tie_word_embeddings);
    CHECK(config.rms_norm_eps == 1e-6);
    CHECK(config.rope_theta == 10000);
    CHECK(config.torch_dtype.empty());
    CHECK(config.head_dim == 128);
    CHECK(config.model_type == "qwen2");
    CHECK(config.sliding_window == 0);
  }
  CHECK(parse(kQwen3, {{"head_dim", kAbsent}}).head_dim == 128);  // Qwen3Config's default, not 2560 / 32
  CHECK(parse(kQwen3, {{"head_dim", "null"}}).head_dim == 80);
  CHECK(parse(kQwen3, {{"torch_dtype", kAbsent}, {"dtype", R"("float16")"}}).torch_dtype == "float16");
}

TEST_CASE("a mixture of experts is read, and which layers are sparse") {
  const ModelConfig plain = parse(kQwen3, kMoe);
  REQUIRE(plain.moe);
  CHECK(plain.moe->num_experts == 8);
  CHECK(plain.moe->num_experts_per_tok == 3);
  CHECK(plain.moe->moe_intermediate_size == 48);
  CHECK(plain.moe->shared_expert_intermediate_size == 0);
  CHECK(!plain.moe->norm_topk_prob);
  CHECK(plain.moe->sparse_layers == std::vector<bool>(6, true));
  const ModelConfig mixed =
      parse(kQwen3, moe_with({{"decoder_sparse_step", "2"}, {"mlp_only_layers", "[1, 99]"}}));
  CHECK(mixed.moe->sparse_layers == std::vector<bool>{false, false, false, true, false, true});
  const Changes qwen2 = moe_with({{"architectures", R"(["Qwen2MoeForCausalLM"])"},
                                  {"model_type", R"("qwen2_moe")"},
                                  {"shared_expert_intermediate_size", "96"},
                                  {"norm_topk_prob", "true"}});
  CHECK(parse(kQwen2, qwen2).moe->shared_expert_intermediate_size == 96);
  CHECK(parse(kQwen2, qwen2).moe->norm_topk_prob);
  CHECK(parse(kQwen2, qwen2).attention_bias);
}

TEST_CASE("model_type names the family where architectures does not") {
  CHECK(parse(kQwen2, {{"architectures", kAbsent}}).architecture == "Qwen2ForCausalLM");
  CHECK(parse(kQwen3, {{"architectures", "[]"}}).architecture == "Qwen3ForCausalLM");
  CHECK(parse(kQwen3, {{"architectures", "null"}}).query_key_norm);
}

TEST_CASE("integers written as floats are integers") {
  CHECK(parse(kQwen3, {{"hidden_size", "2560.0"}, {"max_position_embeddings", "1e5"}}).hidden_size == 2560);
}

TEST_CASE("sliding layers follow transformers") {
  const Changes four = {{"num_hidden_layers", "4"}, {"use_sliding_window", "true"}, {"sliding_window", "8"}};
  const auto with = [&](Changes more) {
    more.insert(four.begin(), four.end());
    return parse(kQwen2, more);
  };
  CHECK(with({{"max_window_layers", "1"}}).layer_kinds == kinds("fsss"));
  CHECK(with({{"max_window_layers", "1"}}).sliding_window == 8);
  CHECK(with({{"max_window_layers", "0"}}).layer_kinds == kinds("ssss"));
  CHECK(with({{"max_window_layers", "4"}}).layer_kinds == kinds("ffff"));
  CHECK(with({{"max_window_layers", "4"}}).sliding_window == 0);
  CHECK(with({{"max_window_layers", kAbsent}}).layer_kinds == kinds("ffff"));  // the default is 28
  CHECK(with({{"max_window_layers", "1"}, {"sliding_window", "null"}}).layer_kinds == kinds("ffff"));
  CHECK(with({{"max_window_layers", "1"}, {"sliding_window", kAbsent}}).sliding_window == 4096);
  CHECK(with({{"max_window_layers", "1"}, {"use_sliding_window", "false"}}).layer_kinds == kinds("ffff"));
  const std::string listed = R"(["full_attention","sliding_attention","full_attention","full_attention"])";
  CHECK(with({{"max_window_layers", "0"}, {"layer_types", listed}}).layer_kinds == kinds("fsff"));
  CHECK(with({{"layer_types", listed}}).sliding_window == 8);
  const std::string full = R"(["full_attention","full_attention","full_attention","full_attention"])";
  CHECK(with({{"max_window_layers", "0"}, {"layer_types", full}}).sliding_window == 0);
  check_refused(changed(kQwen2, {{"num_hidden_layers", "4"}, {"layer_types", listed}}), Status::invalid_file,
                "key 'layer_types' is a list with 'sliding_attention'");
}

TEST_CASE("YaRN is read from either key and stretches the context once") {
  const ModelConfig before = parse(
      kQwen2,
      {{"rope_scaling", R"({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768})"}});
  REQUIRE(before.rope_scaling);
  CHECK(before.rope_scaling->factor == 4);
  CHECK(before.rope_scaling->original_max_position_embeddings == 32768);
  CHECK(before.rope_scaling->beta_fast == 32);
  CHECK(before.rope_scaling->beta_slow == 1);
  CHECK(!before.rope_scaling->attention_factor);
  CHECK(before.context_length() == 131072);

  const ModelConfig after = parse(
      kQwen3, {{"max_position_embeddings", "131072"}, {"rope_scaling", R"({"rope_type": "yarn", "factor": 4,
                                             "original_max_position_embeddings": 32768, "attention_factor": 1.25,
                                             "beta_fast": 16, "beta_slow": 2.5})"}});
  CHECK(after.context_length() == 131072);
  CHECK(after.rope_scaling->attention_factor == 1.25);
  CHECK(after.rope_scaling->beta_fast == 16);
  CHECK(after.rope_scaling->beta_slow == 2.5);

  const ModelConfig modern = parse(kQwen3, {{"rope_theta", kAbsent},
                                            {"rope_scaling", kAbsent},
                                            {"rope_parameters", R"({"rope_type": "yarn", "factor": 2.0,
                                              "rope_theta": 5e6})"}});
  CHECK(modern.rope_theta == 5e6);
  CHECK(modern.rope_scaling->original_max_position_embeddings == 40960);
  CHECK(modern.context_length() == 81920);

  const ModelConfig deepseek = parse(kQwen3, {{"rope_scaling", R"({"type": "yarn", "factor": 4, "mscale": 2.0,
                                               "mscale_all_dim": 1.0})"}});
  CHECK(*deepseek.rope_scaling->attention_factor ==
        doctest::Approx((0.2 * std::log(4.0) + 1) / (0.1 * std::log(4.0) + 1)));
  CHECK(!parse(kQwen3, {{"rope_scaling", R"({"type":"yarn","factor":4,"mscale":0,"mscale_all_dim":1})"}})
             .rope_scaling->attention_factor);
}

TEST_CASE("the default rope type is no scaling") {
  for (const char* scaling :
       {"null", "{}", R"({"type": "default"})", R"({"rope_type": "default", "rope_theta": 7e5})"})
    CHECK(!parse(kQwen3, {{"rope_scaling", scaling}}).rope_scaling);
  CHECK(parse(kQwen3, {{"rope_parameters", R"({"rope_type": "default", "rope_theta": 7e5})"}}).rope_theta ==
        7e5);
}

TEST_CASE("the official quantised formats are read") {
  CHECK(!parse(kQwen3, {}).quantization);
  CHECK(!parse(kQwen3, {{"quantization_config", "null"}}).quantization);
  const auto fp8 =
      *parse(kQwen3, quantized(R"("activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                    "weight_block_size": [128, 64], "modules_to_not_convert": ["lm_head"])"))
           .quantization;
  CHECK(fp8.method == QuantizationMethod::fp8);
  CHECK(fp8.block_rows == 128);
  CHECK(fp8.block_columns == 64);
  const auto v1 =
      *parse(kQwen3, gptq(R"("bits": 8, "desc_act": true, "sym": false, "dynamic": {})")).quantization;
  CHECK(v1.method == QuantizationMethod::gptq);
  CHECK(v1.bits == 8);
  CHECK(v1.group_size == 128);
  CHECK(v1.zero_offset == 1);
  CHECK(parse(kQwen3, gptq(R"("bits": 4, "checkpoint_format": "gptq", "pack_dtype": "int32")"))
            .quantization->zero_offset == 1);
  CHECK(parse(kQwen3, gptq(R"("bits": 4, "checkpoint_format": "gptq_v2")")).quantization->zero_offset == 0);
  const auto whole =
      *parse(kQwen2, quantized(R"("quant_method": "awq", "bits": 4, "group_size": -1, "version": "gemm",
                      "zero_point": true, "modules_to_not_convert": null)"))
           .quantization;
  CHECK(whole.method == QuantizationMethod::awq);
  CHECK(whole.group_size == -1);
  CHECK(whole.zero_offset == 0);
}

TEST_CASE("what this version cannot run is refused by name") {
  struct Case {
    std::string_view base;
    Changes changes;
    const char* fragment;
  };
  const std::vector<Case> cases = {
      {kQwen3,
       {{"architectures", R"(["OtherForCausalLM"])"}, {"model_type", R"("other")"}},
       "architecture 'OtherForCausalLM' is not supported by this version (supported: "
       "Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen2MoeForCausalLM, Qwen3MoeForCausalLM, "
       "Qwen3NextForCausalLM, "},
      {kQwen3, moe_with({{"use_sliding_window", "true"}}), "key 'use_sliding_window' is true"},
      {kQwen3, {{"architectures", R"(["Qwen3\u001bModel"])"}}, "'Qwen3\\x1bModel'"},
      {kQwen3, {{"architectures", kAbsent}, {"model_type", R"("qwen3_asr")"}}, "model_type 'qwen3_asr'"},
      {kQwen2, quantized(R"("quant_method": "bitsandbytes")"),
       "quantization 'bitsandbytes' is not supported by this version (supported: 'fp8', 'gptq', 'awq', and "
       "weights "},
      {kQwen2, quantized(""), "no quant_method"},
      {kQwen2, {{"compression_config", R"({"quant_method": "gptq"})"}}, "'gptq' in 'compression_config'"},
      {kQwen2, quantized(R"("quant_method": "fp8")"),
       "key 'quantization_config.weight_block_size' is missing"},
      {kQwen2, quantized(R"("quant_method": "fp8", "fmt": "e5m2")"),
       "key 'quantization_config.fmt' is 'e5m2'"},
      {kQwen2, quantized(R"("quant_method": "fp8", "activation_scheme": "static")"),
       "key 'quantization_config.activation_scheme' is 'static'; it must be 'dynamic' or absent"},
      {kQwen2, gptq(R"("bits": 3)"), "key 'quantization_config.bits' is 3; it must be 4 or 8"},
      {kQwen2, gptq(R"("bits": 4, "checkpoint_format": "marlin")"), "checkpoint_format' is 'marlin'"},
      {kQwen2, gptq(R"("bits": 4, "format": "bitblas")"), "format' is 'bitblas'"},
      {kQwen2, gptq(R"("bits": 4, "pack_dtype": "int64")"), "pack_dtype' is 'int64'"},
      {kQwen2, gptq(R"("bits": 4, "lm_head": true)"), "lm_head' is true"},
      {kQwen2, gptq(R"("bits": 4, "is_marlin_format": true)"), "is_marlin_format' is true"},
      {kQwen2, gptq(R"("bits": 4, "dynamic": {"+:.*": {"bits": 8}})"), "dynamic' is an object"},
      {kQwen3, awq(R"("bits": 8)"), "key 'quantization_config.bits' is 8; it must be 4"},
      {kQwen3, awq(R"("bits": 4, "version": "gemv")"), "version' is 'gemv'; it must be 'gemm' or absent"},
      {kQwen3, awq(R"("bits": 4, "zero_point": false)"), "zero_point' is false"},
      {kQwen2, {{"hidden_act", R"("gelu")"}}, "key 'hidden_act' is 'gelu'; it must be 'silu'"},
      {kQwen3, {{"attention_bias", "true"}}, "key 'attention_bias' is true"},
      {kQwen2, {{"is_causal", "false"}}, "key 'is_causal' is false"},
      {kQwen2, {{"use_mrope", "true"}}, "key 'use_mrope' is true"},
      {kQwen2, {{"partial_rotary_factor", "0.5"}}, "key 'partial_rotary_factor' is 0.5"},
      {kQwen2,
       {{"rope_scaling", R"({"type": "linear", "factor": 2})"}},
       "key 'rope_scaling.type' is 'linear'"},
      {kQwen2, {{"rope_scaling", R"({"type": "dynamic", "factor": 2})"}}, "'dynamic'"},
      {kQwen2,
       {{"rope_scaling", R"({"rope_type": "llama3", "factor": 2})"}},
       "key 'rope_scaling.rope_type' is 'llama3'"},
      {kQwen2,
       {{"rope_parameters", R"({"rope_type": "longrope"})"}},
       "key 'rope_parameters.rope_type' is 'longrope'"},
      {kQwen2, {{"rope_scaling", R"({"type": "mrope", "mrope_section": [16, 24, 24]})"}}, "mrope_section"},
      {kQwen2,
       {{"rope_scaling", R"({"type": "yarn", "factor": 2, "truncate": false})"}},
       "rope_scaling.truncate"},
      {kQwen2, {{"rope_parameters", R"({"full_attention": {"rope_type": "default"}})"}}, "full_attention"},
      {kQwen2,
       {{"num_hidden_layers", "2"}, {"layer_types", R"(["full_attention","linear_attention"])"}},
       "'linear_attention'"},
  };
  for (const auto& [base, changes, fragment] : cases)
    check_refused(changed(base, changes), Status::unsupported, fragment);
}

TEST_CASE("a value out of bounds is an error that names key, value and what is allowed") {
  struct Case {
    std::string_view base;
    Changes changes;
    const char* fragment;
  };
  const std::vector<Case> cases = {
      {kQwen3, moe_with({{"num_experts_per_tok", "9"}}), "key 'num_experts_per_tok' is 9"},
      {kQwen3, moe_with({{"num_experts_per_tok", "0"}}), "key 'num_experts_per_tok' is 0"},
      {kQwen3, moe_with({{"num_experts", kAbsent}}), "key 'num_experts' is missing"},
      {kQwen3, moe_with({{"moe_intermediate_size", "0"}}), "key 'moe_intermediate_size' is 0"},
      {kQwen3, moe_with({{"mlp_only_layers", "3"}}), "key 'mlp_only_layers' is 3"},
      {kQwen3, moe_with({{"mlp_only_layers", "[-1]"}}), "key 'mlp_only_layers' is a list with -1"},
      {kQwen3, moe_with({{"decoder_sparse_step", "0"}}), "key 'decoder_sparse_step' is 0"},
      {kQwen3, {{"vocab_size", "0"}}, "key 'vocab_size' is 0; it must be an integer from 1 to 16777216"},
      {kQwen3, {{"vocab_size", "-1"}}, "key 'vocab_size' is -1"},
      {kQwen3, {{"vocab_size", kAbsent}}, "key 'vocab_size' is missing; it must be an integer from 1"},
      {kQwen3, {{"vocab_size", "null"}}, "key 'vocab_size' is missing"},
      {kQwen3, {{"hidden_size", "\"2560\""}}, "key 'hidden_size' is '2560'; it must be an integer"},
      {kQwen3, {{"hidden_size", "2560.5"}}, "key 'hidden_size' is 2560.5"},
      {kQwen3, {{"hidden_size", "[2560]"}}, "key 'hidden_size' is an array"},
      {kQwen3, {{"hidden_size", "true"}}, "key 'hidden_size' is true"},
      {kQwen3, {{"hidden_size", "18446744073709551615"}}, "key 'hidden_size' is 18446744073709551615"},
      {kQwen3, {{"hidden_size", "99999999999999999999999"}}, "key 'hidden_size' is 1e+23"},
      {kQwen3, {{"hidden_size", "1e999"}}, "not valid JSON"},
      {kQwen3, {{"hidden_size", "NaN"}}, "not valid JSON"},
      {kQwen3, {{"intermediate_size", "16777217"}}, "key 'intermediate_size' is 16777217"},
      {kQwen3, {{"num_hidden_layers", "10001"}}, "from 1 to 10000"},
      {kQwen3, {{"num_hidden_layers", "1e300"}}, "key 'num_hidden_layers' is 1e+300"},
      {kQwen3, {{"num_attention_heads", "0"}}, "key 'num_attention_heads' is 0"},
      {kQwen3, {{"num_key_value_heads", "0"}}, "key 'num_key_value_heads' is 0"},
      {kQwen3, {{"num_key_value_heads", "7"}}, "a divisor of num_attention_heads, which is 32"},
      {kQwen3, {{"num_key_value_heads", "64"}}, "a divisor of num_attention_heads"},
      {kQwen3, {{"head_dim", "127"}}, "key 'head_dim' is 127; it must be even"},
      {kQwen3, {{"head_dim", "0"}}, "key 'head_dim' is 0"},
      {kQwen3, {{"head_dim", "1048576"}}, "at most 524288 with 32 attention heads"},
      {kQwen2, {{"hidden_size", "1537"}}, "a multiple of num_attention_heads (12)"},
      {kQwen2, {{"hidden_size", "12"}}, "key 'head_dim' is 1; it must be even"},
      {kQwen3, {{"max_position_embeddings", "0"}}, "key 'max_position_embeddings' is 0"},
      {kQwen3, {{"max_position_embeddings", "2147483648"}}, "from 1 to 2147483647"},
      {kQwen3, {{"rms_norm_eps", "0"}}, "a number greater than 0 and less than 1"},
      {kQwen3, {{"rms_norm_eps", "1"}}, "key 'rms_norm_eps' is 1"},
      {kQwen3, {{"rms_norm_eps", "-1e-6"}}, "key 'rms_norm_eps' is -1e-06"},
      {kQwen3, {{"rms_norm_eps", "\"1e-6\""}}, "key 'rms_norm_eps' is '1e-6'"},
      {kQwen3, {{"rope_theta", "0"}}, "key 'rope_theta' is 0"},
      {kQwen3, {{"rope_theta", "-1e6"}}, "key 'rope_theta' is -1e+06"},
      {kQwen3, {{"rope_theta", "1e999"}}, "not valid JSON"},
      {kQwen3, {{"rope_theta", "[1e6]"}}, "key 'rope_theta' is an array"},
      {kQwen3, {{"tie_word_embeddings", "1"}}, "key 'tie_word_embeddings' is 1; it must be true or false"},
      {kQwen3, {{"torch_dtype", "16"}}, "key 'torch_dtype' is 16; it must be a string"},
      {kQwen3,
       {{"model_type", R"("qwen2")"}},
       "key 'model_type' is 'qwen2'; it must be 'qwen3' for Qwen3ForCausalLM"},
      {kQwen3, {{"architectures", R"("Qwen3ForCausalLM")"}}, "key 'architectures' is 'Qwen3ForCausalLM'"},
      {kQwen3, {{"architectures", "[3]"}}, "key 'architectures' is a list of a number"},
      {kQwen3, {{"architectures", kAbsent}, {"model_type", kAbsent}}, "key 'architectures' is missing"},
      {kQwen3, {{"quantization_config", "\"awq\""}}, "key 'quantization_config': a JSON object is expected"},
      {kQwen3, quantized(R"("quant_method": 8)"), "key 'quantization_config.quant_method' is 8"},
      {kQwen3, quantized(R"("quant_method": "awq", "bits": 4)"),
       "key 'quantization_config.group_size' is missing"},
      {kQwen3, quantized(R"("quant_method": "gptq", "group_size": 128)"),
       "key 'quantization_config.bits' is missing"},
      {kQwen3, quantized(R"("quant_method": "awq", "bits": 4, "group_size": 0)"), "group_size' is 0"},
      {kQwen3, quantized(R"("quant_method": "awq", "bits": 4, "group_size": -2)"), "group_size' is -2"},
      {kQwen3, awq(R"("bits": 4, "modules_to_not_convert": "lm_head")"),
       "modules_to_not_convert' is 'lm_head'"},
      {kQwen3, awq(R"("bits": 4, "modules_to_not_convert": [1])"),
       "modules_to_not_convert' is a list with 1"},
      {kQwen3, gptq(R"("bits": 4, "desc_act": 1)"), "desc_act' is 1; it must be true or false"},
      {kQwen3, quantized(R"("quant_method": "fp8", "weight_block_size": 128)"), "weight_block_size' is 128"},
      {kQwen3, quantized(R"("quant_method": "fp8", "weight_block_size": [128])"),
       "weight_block_size' is an array"},
      {kQwen3, quantized(R"("quant_method": "fp8", "weight_block_size": [128, 0])"), "is a list with 0"},
      {kQwen3, quantized(R"("quant_method": "fp8", "weight_block_size": [128, 4294967424])"),
       "with 4294967424"},
      {kQwen3,
       {{"rope_scaling", "4"}},
       "key 'rope_scaling': a JSON object is expected here, this is a number"},
      {kQwen3, {{"rope_scaling", R"({"factor": 4})"}}, "key 'rope_scaling.rope_type' is missing"},
      {kQwen3, {{"rope_scaling", R"({"type": "yarn"})"}}, "key 'rope_scaling.factor' is missing"},
      {kQwen3, {{"rope_scaling", R"({"type": "yarn", "factor": 0.5})"}}, "key 'rope_scaling.factor' is 0.5"},
      {kQwen3, {{"rope_scaling", R"({"type": "yarn", "factor": 65536})"}}, "at most 2147483647"},
      {kQwen3,
       {{"rope_scaling", R"({"type": "yarn", "factor": 2, "factor": 4})"}},
       "key 'rope_scaling.factor' is there twice"},
      {kQwen3,
       {{"rope_scaling", R"({"type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2})"}},
       "at least beta_slow, which is 2"},
      {kQwen3,
       {{"rope_scaling", R"({"type": "yarn", "factor": 2, "beta_slow": 0})"}},
       "rope_scaling.beta_slow"},
      {kQwen3,
       {{"rope_scaling", R"({"type": "yarn", "factor": 2, "original_max_position_embeddings": 0})"}},
       "key 'rope_scaling.original_max_position_embeddings' is 0"},
      {kQwen3,
       {{"rope_scaling", R"({"type": "yarn", "factor": 2, "attention_factor": 0})"}},
       "key 'rope_scaling.attention_factor' is 0"},
      {kQwen3, {{"layer_types", R"(["full_attention"])"}}, "a list of num_hidden_layers (36) entries"},
      {kQwen3, {{"layer_types", R"("full_attention")"}}, "key 'layer_types' is 'full_attention'"},
      {kQwen3, {{"num_hidden_layers", "1"}, {"layer_types", "[1]"}}, "key 'layer_types' is a list with 1"},
      {kQwen3, {{"use_sliding_window", "true"}, {"sliding_window", "0"}}, "key 'sliding_window' is 0"},
      {kQwen3,
       {{"use_sliding_window", "true"}, {"sliding_window", "8"}, {"max_window_layers", "-1"}},
       "key 'max_window_layers' is -1"},
  };
  for (const auto& [base, changes, fragment] : cases)
    check_refused(changed(base, changes), Status::invalid_file, fragment);
  check_refused("", Status::invalid_file, "not valid JSON");
  check_refused("[]", Status::invalid_file, "a JSON object is expected here, this is an array");
  check_refused("null", Status::invalid_file, "this is null");
  check_refused(R"({"hidden_size": 1, "hidden_size": 2})", Status::invalid_file,
                "key 'hidden_size' is there twice");
}

TEST_CASE("damaged configs give an error or a config within its bounds") {
  std::mt19937 random(7);
  for (int round = 0; round < 4000; ++round) {
    std::string text(round % 2 ? kQwen2 : kQwen3);
    for (unsigned flips = 1 + random() % 3; flips > 0; --flips)
      text[random() % text.size()] =
          random() % 2 ? "0123456789[]{},:\"-e"[random() % 19] : static_cast<char>(random());
    if (random() % 8 == 0) text.resize(random() % text.size());
    try {
      const ModelConfig config = parse_model_config(text, "config.json");
      CHECK(config.num_attention_heads % config.num_key_value_heads == 0);
      CHECK(config.head_dim % 2 == 0);
      CHECK(static_cast<int64_t>(config.layer_kinds.size()) == config.num_hidden_layers);
      CHECK(config.context_length() >= 1);
    } catch (const Error& error) {
      CHECK((error.status() == Status::invalid_file || error.status() == Status::unsupported));
    }
  }
}

TEST_CASE("generation_config.json is read, each key optional") {
  const GenerationConfig config = parse_generation_config(R"({"bos_token_id": 151643, "do_sample": true,
    "eos_token_id": [151645, 151643], "pad_token_id": 151643, "repetition_penalty": 1.05, "temperature": 0.7,
    "top_p": 0.8, "top_k": 20, "min_p": 0, "max_new_tokens": 2048, "transformers_version": "4.37.0"})",
                                                          "generation_config.json");
  CHECK(config.eos_token_ids == std::vector<int32_t>{151645, 151643});
  CHECK(config.bos_token_id == 151643);
  CHECK(config.pad_token_id == 151643);
  CHECK(config.do_sample == true);
  CHECK(config.temperature == 0.7);
  CHECK(config.top_p == 0.8);
  CHECK(config.min_p == 0.0);
  CHECK(config.repetition_penalty == 1.05);
  CHECK(config.top_k == 20);
  CHECK(config.max_new_tokens == 2048);

  const GenerationConfig empty = parse_generation_config("{}", "g");
  CHECK(empty.eos_token_ids.empty());
  CHECK(!empty.temperature);
  CHECK(parse_generation_config(R"({"eos_token_id": 7})", "g").eos_token_ids == std::vector<int32_t>{7});
  CHECK(parse_generation_config(R"({"eos_token_id": null, "top_k": null})", "g").eos_token_ids.empty());
  CHECK(parse_eos_token_ids(kQwen3, "c") == std::vector<int32_t>{151645});
  CHECK(parse_eos_token_ids(R"({"eos_token_id": [1, 2], "temperature": "any"})", "c") ==
        std::vector<int32_t>{1, 2});
}

TEST_CASE("a generation setting out of bounds is an error that names key and value") {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {R"({"eos_token_id": -1})", "key 'eos_token_id' is -1; it must be an integer from 0 to 2147483647"},
      {R"({"eos_token_id": [1, 2147483648]})", "key 'eos_token_id' is 2147483648"},
      {R"({"eos_token_id": [[1]]})", "key 'eos_token_id' is an array"},
      {R"({"eos_token_id": [null]})", "key 'eos_token_id' is null"},
      {R"({"eos_token_id": "<|im_end|>"})", "key 'eos_token_id' is '<|im_end|>'"},
      {R"({"bos_token_id": 1.5})", "key 'bos_token_id' is 1.5"},
      {R"({"do_sample": "yes"})", "key 'do_sample' is 'yes'; it must be true or false"},
      {R"({"temperature": -0.1})",
       "key 'temperature' is -0.1; it must be a number at least 0 and at most 1000"},
      {R"({"temperature": 1e999})", "not valid JSON"},
      {R"({"top_p": 1.01})", "key 'top_p' is 1.01; it must be a number at least 0 and at most 1"},
      {R"({"min_p": -1})", "key 'min_p' is -1"},
      {R"({"repetition_penalty": 0})", "key 'repetition_penalty' is 0; it must be a number greater than 0"},
      {R"({"top_k": -1})", "key 'top_k' is -1"},
      {R"({"max_new_tokens": 0})", "key 'max_new_tokens' is 0"},
      {R"({"top_k": 1, "top_k": 2})", "key 'top_k' is there twice"},
      {"[]", "a JSON object is expected"},
  };
  for (const auto& [json, fragment] : cases) {
    CAPTURE(json);
    try {
      parse_generation_config(json, "g.json");
      FAIL_CHECK("no error");
    } catch (const Error& error) {
      CAPTURE(error.message());
      CHECK(error.status() == Status::invalid_file);
      CHECK(error.message().find(fragment) != std::string::npos);
    }
  }
}

// The hybrids' keys, as Qwen3-Next has them and as Qwen3.5 nests them.
const std::string kNext = R"({"architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next",
  "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 5,
  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4096,
  "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48,
  "shared_expert_intermediate_size": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
  "linear_key_head_dim": 16, "linear_value_head_dim": 24, "linear_conv_kernel_dim": 4)";

std::string next_with(std::string_view changes) {
  return cat(kNext, ", ", changes, "}");
}

std::string qwen3_5_with(std::string_view text_changes,
                         std::string_view top_changes = R"("eos_token_id": 7)") {
  return cat(R"({"architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5", )",
             top_changes,
             R"(, "text_config": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
  "max_position_embeddings": 4096, "eos_token_id": 5, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
  "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4, )",
             text_changes, "}}");
}

TEST_CASE("the hybrids' configuration") {
  const ModelConfig next = parse_model_config(next_with(R"("rope_theta": 10000)"), "config.json");
  using enum LayerKind;
  CHECK(next.layer_kinds ==
        std::vector{linear_attention, linear_attention, linear_attention, full_attention, linear_attention});
  REQUIRE(next.gated_delta);
  CHECK(next.gated_delta->value_heads == 4);
  CHECK(next.gated_delta->value_dim == 24);
  CHECK(next.gated_delta->channels() == 2 * 2 * 16 + 4 * 24);
  CHECK(next.grouped_projections);
  CHECK(next.attention_gate);
  CHECK(next.rotary_dim == 8);
  REQUIRE(next.moe);
  CHECK(next.moe->norm_topk_prob);
  CHECK(next.moe->shared_expert_intermediate_size == 32);

  const std::string text = qwen3_5_with(
      R"("layer_types": ["full_attention", "linear_attention"], "rope_parameters": {"rope_type": "default",
      "rope_theta": 5000, "partial_rotary_factor": 0.5, "mrope_section": [11, 11, 10], "mrope_interleaved": true})",
      R"("tie_word_embeddings": true)");
  const ModelConfig dense = parse_model_config(text, "config.json");
  CHECK(dense.layer_kinds == std::vector{full_attention, linear_attention});
  CHECK(dense.head_dim == 256);
  CHECK(dense.rotary_dim == 128);
  CHECK(dense.rope_theta == 5000);
  CHECK(dense.tie_word_embeddings);
  CHECK(!dense.grouped_projections);
  CHECK(!dense.moe);
  CHECK(parse_eos_token_ids(text, "config.json") == std::vector<int32_t>{5});

  struct Case {
    std::string json;
    Status status;
    const char* fragment;
  };
  const std::vector<Case> cases = {
      {next_with(R"("linear_conv_kernel_dim": 17)"), Status::invalid_file, "linear_conv_kernel_dim"},
      {qwen3_5_with(R"("output_gate_type": "sigmoid")"), Status::unsupported,
       "key 'text_config.output_gate_type' is 'sigmoid'; it must be 'swish' or absent"},
      {qwen3_5_with(R"("attn_output_gate": false)"), Status::unsupported, "text_config.attn_output_gate"},
      {qwen3_5_with(R"("layer_types": ["linear_attention", "linear_attention"])"), Status::unsupported,
       "key 'text_config.layer_types' is a list without 'full_attention'"},
      {qwen3_5_with(R"("layer_types": ["full_attention", "sliding_attention"])"), Status::unsupported,
       "it must be a list of 'full_attention' and 'linear_attention'"},
      {qwen3_5_with(R"("partial_rotary_factor": 0.001)"), Status::invalid_file,
       "such that an even number of a head's 256 elements is turned"},
      {R"({"architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5"})",
       Status::invalid_file,
       "key 'text_config' is missing; it must be an object for Qwen3_5ForConditionalGeneration"},
      {R"({"architectures": ["Qwen2_5OmniModel"], "model_type": "qwen2_5_omni", "thinker_config": {}})",
       Status::invalid_file, "key 'thinker_config.text_config' is missing"},
      {R"({"architectures": ["Qwen2_5OmniModel"], "model_type": "qwen2_5_omni"})", Status::invalid_file,
       "key 'thinker_config' is missing"},
  };
  for (const Case& wrong : cases) {
    CAPTURE(wrong.json);
    check_refused(wrong.json, wrong.status, wrong.fragment);
  }
}

// Qwen4-Exp's keys, small; `changes` come first, so that they count where a key would be twice.
ModelConfig qwen4_with(const Changes& changes) {
  const std::string text = changed(R"({
  "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
  "head_dim": 32, "max_position_embeddings": 4096, "eos_token_id": [458, 7], "linear_num_key_heads": 2,
  "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4,
  "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 32,
  "ple_layer_ids": [3, 1], "ple_embed_dim": 32, "heads_per_ngram": 4, "ngram_vocab_size_base": 67,
  "split_ngram_parts": 4, "indexer_n_heads": 8, "indexer_kv_heads": 1, "indexer_head_dim": 16,
  "indexer_budget": 16, "indexer_compress_ratio": 4, "output_gate_type": "sigmoid"
})",
                                   changes);
  return parse_model_config(
      cat(R"({"architectures": ["Qwen4ExpForConditionalGeneration"], "model_type": "qwen4_exp", "text_config": )",
          text, "}"),
      "config.json");
}

TEST_CASE("Qwen4-Exp's configuration") {
  const ModelConfig config = qwen4_with({});
  REQUIRE(config.qwen4_exp);
  const Qwen4ExpConfig& own = *config.qwen4_exp;
  CHECK(config.sigmoid_output_gate);
  CHECK(config.moe->norm_topk_prob);
  CHECK(own.hc_count == 4);
  CHECK(own.hc_lowrank == 320);
  CHECK(own.ple_layers == std::vector<int64_t>{0, 2});
  CHECK(own.ngram_heads() == 8);
  CHECK(own.ple_window() == 9);
  CHECK(own.seed == 1234);
  CHECK(own.eos_token_id == 458);
  CHECK(own.indexer.rotary_dim == 8);
  CHECK(config.hidden_width(0) == 256);
  CHECK(config.hidden_width(3) == 256);
  CHECK(config.hidden_width(4) == 64);
  CHECK(!qwen4_with({{"output_gate_type", R"("swish")"}}).sigmoid_output_gate);
  CHECK(!qwen4_with({{"output_gate_type", "null"}}).sigmoid_output_gate);
  CHECK(qwen4_with({{"layer_types",
                     R"(["linear_attention","linear_attention","linear_attention","indexed_attention"])"}})
            .layer_kinds == config.layer_kinds);
  CHECK(qwen4_with({{"ple_layer_ids", kAbsent}, {"eos_token_id", kAbsent}}).qwen4_exp->ple_layers.empty());

  struct Case {
    Changes changes;
    const char* fragment;
    Status status = Status::invalid_file;
  };
  const std::vector<Case> cases = {
      {{{"hc_count", "1"}}, "text_config.hc_count' is 1"},
      {{{"hc_count", "65"}}, "text_config.hc_count' is 65"},
      {{{"hc_lowrank", "0"}}, "text_config.hc_lowrank' is 0"},
      {{{"ple_layer_ids", "3"}},
       "text_config.ple_layer_ids' is 3; it must be a list of layer numbers from 1 to 4"},
      {{{"ple_layer_ids", "[0]"}}, "text_config.ple_layer_ids' is a list with 0"},
      {{{"ple_layer_ids", "[5]"}}, "text_config.ple_layer_ids' is a list with 5"},
      {{{"ple_layer_ids", "[4]"}}, "a list of layers that are 'linear_attention'", Status::unsupported},
      {{{"ple_embed_dim", "36"}}, "a multiple of (ngram_size - 1) x heads_per_ngram, which is 8"},
      {{{"ple_conv_kernel_size", "0"}}, "text_config.ple_conv_kernel_size"},
      {{{"ple_conv_kernel_size", "17"}}, "text_config.ple_conv_kernel_size"},
      {{{"ple_conv_kernel_size", "14"}, {"ngram_size", "5"}}, "text_config.ple_conv_kernel_size"},
      {{{"ngram_size", "1"}}, "text_config.ngram_size"},
      {{{"heads_per_ngram", "1025"}}, "text_config.heads_per_ngram"},
      {{{"ngram_vocab_size_base", "0"}}, "text_config.ngram_vocab_size_base"},
      {{{"make_ngram_vocab_size_divisible_by", "0"}}, "text_config.make_ngram_vocab_size_divisible_by"},
      {{{"seed", "-1"}}, "text_config.seed"},
      {{{"split_ngram_parts", "0"}}, "text_config.split_ngram_parts"},
      {{{"eos_token_id", kAbsent}}, "text_config.eos_token_id' is missing"},
      {{{"indexer_n_heads", kAbsent}}, "text_config.indexer_n_heads' is missing"},
      {{{"indexer_kv_heads", "2"}}, "text_config.indexer_kv_heads' is 2"},
      {{{"indexer_head_dim", "4"}},
       "text_config.indexer_head_dim' is 4; it must be at least the part of a head"},
      {{{"indexer_head_dim", "1025"}}, "text_config.indexer_head_dim' is 1025"},
      {{{"indexer_compress_ratio", "33"}}, "text_config.indexer_compress_ratio' is 33"},
      {{{"indexer_compress_ratio", "5"}}, "a divisor of 32", Status::unsupported},
      {{{"indexer_budget", "18"}}, "a multiple of indexer_compress_ratio, which is 4"},
      {{{"output_gate_type", R"("tanh")"}}, "text_config.output_gate_type' is 'tanh'", Status::unsupported},
  };
  for (const Case& wrong : cases) {
    CAPTURE(wrong.fragment);
    try {
      qwen4_with(wrong.changes);
      FAIL_CHECK("no error");
    } catch (const Error& error) {
      CAPTURE(error.message());
      CHECK(error.status() == wrong.status);
      CHECK(error.message().find(wrong.fragment) != std::string::npos);
    }
  }
}
