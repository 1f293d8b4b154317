// The GGUF container: what a sound file says, and every way in which a file can be broken.
#include <doctest/doctest.h>

#include <functional>
#include <limits>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf.h"
#include "checkpoint/gguf_config.h"
#include "checkpoint/gguf_tensors.h"
#include "gguf_fixtures.h"
#include "kernel_fixtures.h"
#include "temporary_folder.h"
#include "text/tokenizer.h"
#include "text/tokenizer_gguf.h"

using namespace qwen;
using namespace qwen::test;

namespace {

GgufContent sound_file() {
  GgufContent file;
  file.values = {{"general.architecture", text("qwen3")},
                 {"a.number", u32(7)},
                 {"a.float", f32(1e-6f)},
                 {"a.flag", boolean(true)},
                 {"texts", texts({"one", "", "three"})},
                 {"integers", i32s({1, -2, 3})}};
  file.tensors = {{"b", {3, 2}, 0, 64},       // F32 [2, 3]: 24 bytes
                  {"a", {32, 3}, 8, 96},      // Q8_0 [3, 32]: 102 bytes
                  {"c", {256, 1}, 12, 224}};  // Q4_K [1, 256]: 144 bytes
  file.data_bytes = 368;
  return file;
}

class Opened {
 public:
  explicit Opened(std::string_view bytes) : file_(folder_.write("x.gguf", bytes), LoadMode::read) {}
  const GgufFile* operator->() const { return &file_; }
  const GgufFile& operator*() const { return file_; }

 private:
  TemporaryFolder folder_;
  GgufFile file_;
};

void check_fails(const std::function<void()>& action, Status status, std::string_view fragment) {
  std::string message = "no error";
  Status got = Status::ok;
  try {
    action();
  } catch (const Error& error) {
    message = error.message();
    got = error.status();
  }
  CAPTURE(message);
  CHECK(got == status);
  CHECK(message.find(fragment) != std::string::npos);
  for (const char c : message) CHECK(static_cast<unsigned char>(c) >= 0x20);
}

void check_refused(std::string_view bytes, Status status, std::string_view fragment) {
  CAPTURE(fragment);
  check_fails([&] { Opened file(bytes); }, status, fragment);
}

void check_refused(const GgufContent& content, Status status, std::string_view fragment) {
  check_refused(content.bytes(), status, fragment);
}

// A sound file, changed.
template <class Change>
GgufContent changed(Change change) {
  GgufContent content = sound_file();
  change(content);
  return content;
}

}  // namespace

TEST_CASE("a sound file is read as it is, at both versions") {
  for (const uint32_t version : {2u, 3u}) {
    const Opened file(changed([&](GgufContent& c) { c.version = version; }).bytes());
    CHECK(file->text("general.architecture") == "qwen3");
    CHECK(file->integer("a.number", 0, 10) == 7);
    CHECK(file->number("a.float") == double{1e-6f});
    CHECK(file->json("a.float", *file->find("a.float")) == "1e-06");
    CHECK(file->boolean("a.flag") == true);
    CHECK(file->texts("texts") == std::vector<std::string_view>{"one", "", "three"});
    CHECK(file->integers("integers") == std::vector<int64_t>{1, -2, 3});
    CHECK(file->integer("absent", 0, 10) == std::nullopt);
    CHECK(file->texts("absent") == std::nullopt);
    REQUIRE(file->tensors().size() == 3);
    CHECK(file->tensors()[0].name == "a");
    const TensorView* c = file->tensor("c");
    REQUIRE(c);
    CHECK(c->shape == std::vector<int64_t>{1, 256});
    CHECK(c->dtype == DType::q4_k);
    CHECK(c->bytes == 144);
    CHECK(c->data == file->tensor("b")->data + 160);
    CHECK(file->tensor("d") == nullptr);
  }
}

TEST_CASE("a value of another type or out of bounds is an error that names the key") {
  const Opened file(sound_file().bytes());
  const auto broken = Status::invalid_file;
  check_fails([&] { file->text("a.number"); }, broken, "x.gguf: key 'a.number' is 7; it must be a string");
  check_fails([&] { file->integer("a.number", 8, 9); }, broken, "is 7; it must be an integer from 8 to 9");
  check_fails([&] { file->integer("a.float", 0, 9); }, broken, "is a FLOAT32; it must be an integer");
  check_fails([&] { file->integer("texts", 0, 9); }, broken, "is an ARRAY; it must be an integer");
  check_fails([&] { file->boolean("a.number"); }, broken, "is 7; it must be true or false");
  check_fails([&] { file->number("a.flag"); }, broken, "is true; it must be a finite number");
  check_fails([&] { file->texts("integers"); }, broken, "is an ARRAY; it must be an array of strings");
  check_fails([&] { file->texts("a.flag"); }, broken, "is true; it must be an array of strings");
  check_fails([&] { file->integers("texts"); }, broken, "is an ARRAY; it must be an array of integers");
  const Opened large(changed([](GgufContent& c) {
                       c.values = {{"k", number(uint32_t{10}) + number(~uint64_t{0})},
                                   {"nan", f32(std::numeric_limits<float>::quiet_NaN())}};
                     }).bytes());
  check_fails([&] { large->integer("k", 0, 9); }, broken, "is 18446744073709551615; it must be an integer");
  check_fails([&] { large->json("nan", *large->find("nan")); }, broken, "is nan; it must be a finite number");
}

TEST_CASE("a file cut short anywhere in its header or data is refused") {
  const std::string whole = sound_file().bytes();
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::string_view part = std::string_view(whole).substr(0, length);
    check_refused(part, Status::invalid_file,
                  length < 4 ? "this is not a GGUF file" : "the file is cut short or damaged");
  }
}

TEST_CASE("a header that is not one is refused by name") {
  const auto broken = Status::invalid_file, not_supported = Status::unsupported;
  check_refused("PK\3\4 something else", broken, "does not begin with 'GGUF'");
  const auto with = [](auto change) { return changed(change); };
  check_refused(with([](auto& c) { c.version = 1; }), not_supported,
                "has GGUF version 1; supported are 2 and 3");
  check_refused(with([](auto& c) { c.version = 4; }), not_supported, "has GGUF version 4");
  check_refused(with([](auto& c) { c.version = 0x03000000; }), not_supported, "is a big-endian GGUF file");
  // Counts far beyond the file: nothing is allocated for them.
  std::string many = sound_file().bytes();
  many.replace(8, 8, number(~uint64_t{0}));
  check_refused(many, broken, "x.gguf: tensor 3 has a name of 0 bytes");  // the data, read on as a header
  many = sound_file().bytes();
  many.replace(16, 8, number(uint64_t{1} << 60));
  check_refused(many, broken, "x.gguf: ");
  check_refused(with([](auto& c) { c.values[1].first = ""; }), broken, "has a key of 0 bytes");
  check_refused(with([](auto& c) { c.values[1].first = std::string(65536, 'k'); }), broken,
                "a key of 65536 bytes");
  check_refused(with([](auto& c) { c.values[1].first = "a.flag"; }), broken, "key 'a.flag' is there twice");
  check_refused(with([](auto& c) { c.values[1].second = number(uint32_t{13}); }), broken,
                "is 13; GGUF has the types 0 to 12");
  // Lengths that wrap around when something is added to them or multiplied.
  for (const uint64_t length : {~uint64_t{0}, ~uint64_t{0} - 8, uint64_t{1} << 63, uint64_t{1} << 62}) {
    check_refused(with([&](auto& c) { c.values[1].second = number(uint32_t{8}) + number(length); }), broken,
                  cat("key 'a.number' at byte "));
    for (const uint32_t element : {0u, 4u, 8u, 12u})
      check_refused(
          with([&](auto& c) { c.values[1].second = number(uint32_t{9}) + number(element) + number(length); }),
          broken, "key 'a.number' at byte ");
  }
  check_refused(with([](auto& c) {
                  c.values[1].second = number(uint32_t{9}) + number(uint32_t{9}) + number(uint64_t{0});
                }),
                not_supported, "key 'a.number' is an array of arrays");
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 21})
    check_refused(with([&](auto& c) {
                    c.values[1] = {"general.alignment", u32(alignment)};
                  }),
                  broken, cat("key 'general.alignment' is ", alignment));
}

TEST_CASE("a tensor that is not as it says is refused by name") {
  const auto broken = Status::invalid_file, not_supported = Status::unsupported;
  const auto with = [](auto change) { return changed([&](GgufContent& c) { change(c.tensors[1]); }); };
  const uint64_t huge = uint64_t{1} << 62;
  check_refused(with([](auto& t) { t.name = ""; }), broken, "tensor 1 has a name of 0 bytes");
  check_refused(with([](auto& t) { t.name = "b"; }), broken, "tensor 'b' is there twice");
  check_refused(with([](auto& t) { t.sizes = {}; }), broken,
                "tensor 'a': it has 0 dimensions; it must have 1 to 4");
  check_refused(with([](auto& t) { t.sizes = {32, 1, 1, 1, 1}; }), broken, "it has 5 dimensions");
  check_refused(with([](auto& t) { t.sizes = {32, 0}; }), broken, "a dimension is 0");
  check_refused(with([](auto& t) {
                  t.sizes = {32, ~uint64_t{0}};
                }),
                broken, "a dimension is 18446744073709551615");
  check_refused(with([&](auto& t) { t.sizes = {huge, huge}; }), broken, "is more than 2^64 bytes");
  check_refused(with([&](auto& t) { t.sizes = {huge, 4, huge, 4}; }), broken, "is more than 2^64 bytes");
  check_refused(with([](auto& t) {
                  t.sizes = {33, 3};
                }),
                broken, "tensor 'a': its rows have 33 elements; Q8_0 needs a multiple of 32");
  check_refused(
      with([](auto& t) { t.type = 16; }), not_supported,
      "tensor 'a' has type IQ2_XXS, which is not supported by this version (supported: F32, F16, Q4_0");
  check_refused(with([](auto& t) { t.type = 4711; }), not_supported, "has type number 4711");
  check_refused(with([](auto& t) { t.offset = 97; }), broken, "which is no multiple of the alignment, 32");
  check_refused(with([](auto& t) { t.offset = 64; }), broken, "its data begins inside tensor");
  check_refused(with([](auto& t) { t.offset = 192; }), broken,
                "tensor 'c': its data begins inside tensor 'a'");
  check_refused(with([](auto& t) { t.offset = 288; }), broken,
                "from byte 288 of the data section on, which has only 368");
  check_refused(with([](auto& t) { t.offset = ~uint64_t{0} - 31; }), broken, "of the data section on");
  check_refused(with([](auto& t) {
                  t.sizes = {32, 1000};
                }),
                broken, "tensor 'a': Q8_0 of shape [1000, 32] is 34000 bytes from byte 96");
}

TEST_CASE("random damage to a header raises an Error or is read, and nothing else") {
  const std::string whole = sound_file().bytes();
  Random random(31);
  for (int round = 0; round < 4000; ++round) {
    std::string damaged = whole;
    for (int64_t n = random.integer(1, 4); n > 0; --n)
      damaged[static_cast<size_t>(random.integer(4, static_cast<int64_t>(whole.size()) - 400))] =
          static_cast<char>(random.integer(0, 255));
    try {
      const Opened file(damaged);
      for (const auto& [key, value] : file->metadata()) {
        try {
          file->texts(key);
        } catch (const Error&) {
        }
        try {
          file->integers(key);
        } catch (const Error&) {
        }
      }
      for (const TensorView& tensor : file->tensors()) {
        volatile std::byte last = tensor.data[tensor.bytes - 1];  // inside the file
        (void)last;
      }
    } catch (const Error&) {
    }
  }
}

TEST_CASE("tensors go by the published names, stacks of experts as matrices") {
  GgufContent content;
  const auto add = [&](const std::string& name, std::vector<uint64_t> sizes, uint32_t type = 0) {
    content.tensors.push_back({name, std::move(sizes), type, content.data_bytes});
    content.data_bytes += 4096;
  };
  add("token_embd.weight", {32, 10});
  add("blk.0.attn_q.weight", {32, 8});
  add("blk.0.attn_q.bias", {8});
  add("blk.12.ffn_gate_inp_shexp.weight", {32});
  add("blk.12.ffn_down_exps.weight", {64, 5, 3}, 8);
  const TemporaryFolder folder;
  ModelConfig config;
  config.num_hidden_layers = 13;
  const auto open = [&] {
    return make_gguf_tensor_source(
        std::make_shared<const GgufFile>(folder.write("x.gguf", content.bytes()), LoadMode::mmap), config);
  };
  const auto source = open();
  CHECK(source->names() == std::vector<std::string>{"model.embed_tokens.weight",
                                                    "model.layers.0.self_attn.q_proj.bias",
                                                    "model.layers.0.self_attn.q_proj.weight",
                                                    "model.layers.12.mlp.experts.0.down_proj.weight",
                                                    "model.layers.12.mlp.experts.1.down_proj.weight",
                                                    "model.layers.12.mlp.experts.2.down_proj.weight",
                                                    "model.layers.12.mlp.shared_expert_gate.weight"});
  CHECK(source->find("token_embd.weight") == nullptr);
  CHECK(source->find("model.layers.12.mlp.shared_expert_gate.weight")->shape == std::vector<int64_t>{1, 32});
  const TensorView* first = source->find("model.layers.12.mlp.experts.0.down_proj.weight");
  const TensorView* last = source->find("model.layers.12.mlp.experts.2.down_proj.weight");
  CHECK(first->shape == std::vector<int64_t>{5, 64});
  CHECK(first->bytes == 5 * 2 * 34);
  CHECK(last->data == first->data + 2 * first->bytes);
  CHECK(last->name == "blk.12.ffn_down_exps.weight");
  CHECK(source->name_in_file("model.layers.3.mlp.experts.7.up_proj.weight") == "blk.3.ffn_up_exps.weight");
  CHECK(source->name_in_file("model.layers.3.input_layernorm.weight") == "blk.3.attn_norm.weight");
  CHECK(source->name_in_file("lm_head.weight") == "output.weight");
  CHECK(source->name_in_file("other") == "other");

  for (const char* unknown :
       {"rope_freqs.weight", "blk.0.ssm_a", "blk..attn_q.weight", "blk.01.attn_q.weight",
        "blk.x.attn_q.weight", "blk.0.attn_q", "blk.12345678901.attn_q.weight", "blk."}) {
    content.tensors[1].name = unknown;
    check_fails([&] { open(); }, Status::unsupported, cat("tensor '", unknown, "' is unknown"));
  }
  content.tensors[1].name = "blk.0.ffn_up_exps.weight";
  check_fails([&] { open(); }, Status::invalid_file,
              "tensor 'blk.0.ffn_up_exps.weight' has shape [8, 32]; a stack of experts has the shape");
}

namespace {

GgufContent qwen3_metadata() {
  GgufContent content;
  content.values = {
      {"general.architecture", text("qwen3")}, {"general.file_type", u32(15)},
      {"qwen3.block_count", u32(2)},           {"qwen3.context_length", u32(4096)},
      {"qwen3.embedding_length", u32(64)},     {"qwen3.feed_forward_length", u32(96)},
      {"qwen3.attention.head_count", u32(4)},  {"qwen3.attention.head_count_kv", u32(2)},
      {"qwen3.attention.key_length", u32(32)}, {"qwen3.attention.layer_norm_rms_epsilon", f32(1e-6f)},
      {"qwen3.rope.freq_base", f32(1e6f)}};
  content.tensors = {{"token_embd.weight", {64, 10}, 0, 0}};
  content.data_bytes = 64 * 10 * 4;
  return content;
}

void set(GgufContent& content, const std::string& key, const std::string& value) {
  std::erase_if(content.values, [&](const auto& entry) { return entry.first == key; });
  if (!value.empty()) content.values.emplace_back(key, value);
}

}  // namespace

TEST_CASE("the metadata says what a config.json would") {
  GgufContent content = qwen3_metadata();
  const ModelConfig config = gguf_model_config(*Opened(content.bytes()));
  CHECK(config.architecture == "Qwen3ForCausalLM");
  CHECK(config.vocab_size == 10);
  CHECK(config.hidden_size == 64);
  CHECK(config.intermediate_size == 96);
  CHECK(config.num_key_value_heads == 2);
  CHECK(config.head_dim == 32);
  CHECK(config.rms_norm_eps == 1e-6);  // not the float next to it
  CHECK(config.rope_theta == 1e6);
  CHECK(config.tie_word_embeddings);
  CHECK(config.torch_dtype == "Q4_K_M");
  CHECK(config.query_key_norm);
  CHECK(!config.rope_scaling);

  set(content, "qwen3.attention.key_length", "");
  CHECK(gguf_model_config(*Opened(content.bytes())).head_dim ==
        16);  // not the 128 of a config.json without it
  set(content, "qwen3.rope.scaling.type", text("yarn"));
  set(content, "qwen3.rope.scaling.factor", f32(4));
  set(content, "qwen3.rope.scaling.original_context_length", u32(1024));
  const ModelConfig yarn = gguf_model_config(*Opened(content.bytes()));
  REQUIRE(yarn.rope_scaling);
  CHECK(yarn.rope_scaling->factor == 4);
  CHECK(yarn.rope_scaling->original_max_position_embeddings == 1024);
  set(content, "qwen3.rope.scaling.factor", f32(0.5));
  check_fails([&] { gguf_model_config(*Opened(content.bytes())); }, Status::invalid_file,
              "x.gguf: key 'qwen3.rope.scaling.factor' is 0.5; it must be a number at least 1");
}

TEST_CASE("a hybrid's metadata and names are those of state-space models") {
  GgufContent content;
  for (const auto& [key, value] : qwen3_metadata().values) {
    const bool own = key.starts_with("qwen3.");
    content.values.emplace_back(own ? cat("qwen35.", key.substr(6)) : key,
                                key == "general.architecture" ? text("qwen35") : value);
  }
  for (const auto& [key, value] :
       std::initializer_list<std::pair<const char*, uint32_t>>{{"block_count", 5},
                                                               {"nextn_predict_layers", 1},
                                                               {"rope.dimension_count", 10},
                                                               {"ssm.conv_kernel", 4},
                                                               {"ssm.state_size", 16},
                                                               {"ssm.group_count", 2},
                                                               {"ssm.time_step_rank", 6},
                                                               {"ssm.inner_size", 144},
                                                               {"full_attention_interval", 2}})
    set(content, cat("qwen35.", key), u32(value));
  content.tensors = {{"token_embd.weight", {64, 10}, 0, 0}};
  content.data_bytes = 64 * 10 * 4;
  const std::vector<std::pair<std::string, std::string>> names = {
      {"blk.0.post_attention_norm.weight", "model.layers.0.post_attention_layernorm.weight"},
      {"blk.0.attn_qkv.weight", "model.layers.0.linear_attn.in_proj_qkv.weight"},
      {"blk.0.ssm_a", "model.layers.0.linear_attn.A_log"},
      {"blk.0.ssm_dt.bias", "model.layers.0.linear_attn.dt_bias"},
      {"blk.3.attn_q.weight", "model.layers.3.self_attn.q_proj.weight"},
      {"blk.4.attn_q.weight", "mtp.layers.0.self_attn.q_proj.weight"},
      {"blk.4.ffn_gate_exps.weight", "mtp.layers.0.mlp.experts.0.gate_proj.weight"},
      {"blk.4.nextn.eh_proj.weight", "mtp.fc.weight"},
      {"blk.4.nextn.shared_head_norm.weight", "mtp.norm.weight"}};
  for (const auto& [gguf, published] : names) {
    const bool stack = gguf.find("exps") != std::string::npos;
    content.tensors.push_back(
        {gguf, stack ? std::vector<uint64_t>{8, 4, 1} : std::vector<uint64_t>{32}, 0, content.data_bytes});
    content.data_bytes += 128;
  }
  content.tensors.push_back({"blk.0.ssm_conv1d.weight", {4, 8}, 0, content.data_bytes});
  content.data_bytes += 128;

  const TemporaryFolder folder;
  const Checkpoint checkpoint = open_checkpoint(folder.write("x.gguf", content.bytes()));
  const ModelConfig& config = checkpoint.config;
  CHECK(config.architecture == "Qwen3_5ForCausalLM");
  CHECK(config.num_hidden_layers == 4);
  CHECK(config.rotary_dim == 10);
  CHECK(!config.zero_centred_norms);
  CHECK(config.layer_kinds == std::vector<LayerKind>{LayerKind::linear_attention, LayerKind::full_attention,
                                                     LayerKind::linear_attention, LayerKind::full_attention});
  const GatedDeltaShape& delta = config.gated_delta.value();
  CHECK(delta.key_heads == 2);
  CHECK(delta.value_heads == 6);
  CHECK(delta.key_dim == 16);
  CHECK(delta.value_dim == 24);
  CHECK(delta.conv_kernel == 4);
  CHECK(delta.stored_rates);
  CHECK(delta.tiled_value_heads);
  CHECK(delta.value_head(1, 2) == 5);
  CHECK(delta.value_head(0, 2) == 4);
  for (const auto& [gguf, published] : names) {
    REQUIRE(checkpoint.tensors->find(published));
    CHECK(checkpoint.tensors->find(published)->name == gguf);
    CHECK(checkpoint.tensors->name_in_file(published) == gguf);
  }
  CHECK(checkpoint.tensors->find("model.layers.0.linear_attn.conv1d.weight")->shape ==
        std::vector<int64_t>{8, 1, 4});

  set(content, "qwen35.ssm.group_count", u32(6));
  CHECK(!gguf_model_config(*Opened(content.bytes())).gated_delta.value().tiled_value_heads);
}

TEST_CASE("a mixture's widths may be left to its tensors, and layers without a router are dense") {
  GgufContent content;
  for (const auto& [key, value] : qwen3_metadata().values) {
    const bool own = key.starts_with("qwen3.");
    content.values.emplace_back(own ? cat("qwen2moe.", key.substr(6)) : key,
                                key == "general.architecture" ? text("qwen2moe") : value);
  }
  set(content, "qwen2moe.expert_count", u32(4));
  set(content, "qwen2moe.expert_used_count", u32(2));
  content.tensors = {{"token_embd.weight", {64, 10}, 0, 0},
                     {"blk.1.ffn_gate_inp.weight", {64, 4}, 0, 4096},
                     {"blk.1.ffn_gate_exps.weight", {64, 24, 4}, 0, 8192},
                     {"blk.1.ffn_gate_shexp.weight", {64, 40}, 0, 65536}};
  content.data_bytes = 1 << 17;
  const ModelConfig config = gguf_model_config(*Opened(content.bytes()));
  REQUIRE(config.moe);
  CHECK(config.moe->moe_intermediate_size == 24);
  CHECK(config.moe->shared_expert_intermediate_size == 40);
  CHECK(!config.moe->norm_topk_prob);
  CHECK(config.moe->sparse_layers == std::vector<bool>{false, true});
  set(content, "qwen2moe.expert_used_count", u32(5));
  check_fails([&] { gguf_model_config(*Opened(content.bytes())); }, Status::invalid_file,
              "key 'qwen2moe.expert_used_count' is 5; it must be an integer from 1 to 4");
}

namespace {

// A tokenizer of the 256 bytes, one merge, and tokens of every kind.
GgufContent tokenizer_metadata() {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const int character = printable ? byte : next++;
    std::string written;
    if (character < 0x80) {
      written = static_cast<char>(character);
    } else {
      written = {static_cast<char>(0xC0 | character >> 6), static_cast<char>(0x80 | (character & 0x3F))};
    }
    tokens.push_back(written);
    types.push_back(1);
  }
  for (const auto& [token, type] : std::initializer_list<std::pair<const char*, int>>{
           {"ab", 1}, {"<|im_end|>", 3}, {"<think>", 4}, {"[PAD259]", 5}}) {
    tokens.emplace_back(token);
    types.push_back(type);
  }
  GgufContent content;
  content.values = {
      {"tokenizer.ggml.model", text("gpt2")},
      {"tokenizer.ggml.pre", text("qwen2")},
      {"tokenizer.ggml.tokens", texts(tokens)},
      {"tokenizer.ggml.token_type", i32s(types)},
      {"tokenizer.ggml.merges", texts({"a b"})},
      {"tokenizer.ggml.eos_token_id", u32(37)},
      {"tokenizer.chat_template", text("{{ bos_token }}|{{ eos_token }}|{{ messages[0].content }}")}};
  return content;
}

}  // namespace

TEST_CASE("a tokenizer is built from tokens, types and merges") {
  const Opened file(tokenizer_metadata().bytes());
  const auto tokenizer = Tokenizer::open(*file);
  CHECK(tokenizer->size() == 259);
  CHECK(tokenizer->encode("abb<|im_end|><think>[PAD259]").size() == 4 + 8);
  CHECK(tokenizer->encode("ab") == std::vector<int32_t>{256});
  CHECK(tokenizer->find("<|im_end|>") == 257);
  CHECK(tokenizer->is_special(257));
  CHECK(tokenizer->is_added(258));
  CHECK(!tokenizer->is_special(258));
  CHECK(tokenizer->find("[PAD259]") == -1);
  CHECK(gguf_generation_config(*file).eos_token_ids == std::vector<int32_t>{37, 257});
  const auto chat_template = load_chat_template(*file);
  CHECK(chat_template->render(R"([{"role": "user", "content": "hi"}])", "", "", false) == "|%|hi");
}

TEST_CASE("a tokenizer that is not one is refused by key") {
  const auto check = [](const std::string& key, const std::string& value, Status status,
                        std::string_view fragment) {
    GgufContent content = tokenizer_metadata();
    set(content, key, value);
    const Opened file(content.bytes());
    check_fails([&] { Tokenizer::open(*file); }, status, fragment);
  };
  const auto broken = Status::invalid_file, not_supported = Status::unsupported;
  const std::string tokens = "tokenizer.ggml.tokens", types = "tokenizer.ggml.token_type";
  const std::string merges = "tokenizer.ggml.merges";
  check("tokenizer.ggml.model", text("bert"), not_supported,
        "'tokenizer.ggml.model' is 'bert'; it must be 'gpt2'");
  check("tokenizer.ggml.pre", "", broken, "'tokenizer.ggml.pre' is missing; it must be 'qwen2'");
  check("tokenizer.ggml.pre", text("gpt-2"), not_supported, "'tokenizer.ggml.pre' is 'gpt-2'");
  check(tokens, texts({"a", "b"}), broken,
        "is an array of 260; it must be an array of as many integers as there are tokens, 2");
  check(types, "", broken, "'tokenizer.ggml.token_type' is missing");
  check(types, i32s(std::vector<int32_t>(260, 3)), not_supported, "has no token for byte 0");
  check(types, i32s(std::vector<int32_t>(260, 6)), not_supported, "is an array with 6 for token 0");
  check(types, i32s(std::vector<int32_t>(260, 1)), Status::ok, "no error");
  check(merges, texts({"a b", "a b"}), broken,
        "key 'tokenizer.ggml.merges': merge 1 ('a', 'b') is there twice");
  check(merges, texts({"ab"}), broken, "merge 0 is 'ab'; it must be two tokens with one space");
  check(merges, texts({"a c"}), broken, "names token 'ac', which 'tokenizer.ggml.tokens' does not have");
}

TEST_CASE(
    "a checkpoint can be one GGUF file, given by name, by its content, or as all there is in a folder") {
  GgufContent content = qwen3_metadata();
  const TemporaryFolder temporary;
  const std::filesystem::path file = temporary.write("m.gguf", content.bytes());
  for (const auto& path : {file, temporary.path()}) {
    const Checkpoint checkpoint = open_checkpoint(path);
    CHECK(checkpoint.gguf);
    CHECK(checkpoint.config.hidden_size == 64);
    CHECK(checkpoint.tensors->description() == file.string());
    CHECK(checkpoint.tensors->find("model.embed_tokens.weight"));
  }
  const std::filesystem::path blob = temporary.path() / "blob";  // as caches call files
  std::filesystem::rename(file, blob);
  CHECK(open_checkpoint(blob).gguf);
  CHECK(!find_gguf(temporary.path()));
}

TEST_CASE("a split model is opened by its first part, and a part that is missing or another's is named") {
  const TemporaryFolder temporary;
  const auto part = [&](uint32_t number, uint32_t count, uint32_t tensors, std::vector<GgufTensor> own) {
    GgufContent content = number == 0 ? qwen3_metadata() : GgufContent();
    for (const auto& [key, value] : {std::pair{"split.no", number}, std::pair{"split.count", count},
                                     std::pair{"split.tensors.count", tensors}})
      set(content, key, u32(value));
    content.tensors = std::move(own);
    content.data_bytes = 64 * 10 * 4;
    return content.bytes();
  };
  const GgufTensor table{"token_embd.weight", {64, 10}, 0, 0}, norm{"output_norm.weight", {64}, 0, 0};
  const auto first = temporary.write("m-00001-of-00003.gguf", part(0, 3, 2, {table}));
  check_fails([&] { open_checkpoint(first); }, Status::not_found,
              "part 'm-00002-of-00003.gguf' of the 3 is not in");
  const auto second = temporary.write("m-00002-of-00003.gguf", part(1, 3, 2, {norm}));
  temporary.write("m-00003-of-00003.gguf", part(2, 3, 2, {}));
  for (const auto& path : {first, temporary.path()}) {
    const Checkpoint checkpoint = open_checkpoint(path);
    CHECK(checkpoint.tensors->names() ==
          std::vector<std::string>{"model.embed_tokens.weight", "model.norm.weight"});
    CHECK(checkpoint.tensors->find("model.norm.weight")->source == second.string());
    volatile std::byte last = checkpoint.tensors->find("model.norm.weight")->data[255];
    (void)last;
  }
  check_fails([&] { open_checkpoint(second); }, Status::not_found,
              "give the first part, 'm-00001-of-00003.gguf'");
  temporary.write("m-00003-of-00003.gguf", part(2, 3, 2, {norm}));
  check_fails([&] { open_checkpoint(first); }, Status::invalid_file,
              "tensor 'output_norm.weight' is there twice");
  temporary.write("m-00003-of-00003.gguf", part(2, 4, 2, {}));
  check_fails([&] { open_checkpoint(first); }, Status::invalid_file,
              "m-00003-of-00003.gguf: keys 'split.no' and 'split.count' are 2 and 4; they must be 2 and 3");
  temporary.write("m-00003-of-00003.gguf", part(2, 3, 2, {}));
  temporary.write("m-00001-of-00003.gguf", part(0, 3, 5, {table}));
  check_fails([&] { open_checkpoint(first); }, Status::invalid_file,
              "'split.tensors.count' is 5; it must be");
  const auto renamed = temporary.write("m.gguf", part(0, 3, 2, {table}));
  check_fails([&] { open_checkpoint(renamed); }, Status::invalid_file,
              "names must be like 'model-00001-of-00003.gguf'");
}
