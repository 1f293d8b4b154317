// Every configuration that Qwen has published, read or refused by name.
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>

#include "base/error.h"
#include "base/mapped_file.h"
#include "checkpoint/model_config.h"

using namespace qwen;

// The published configurations live outside the repository (QWEN_SHARED, or shared/ beside or in the
// checkout).
TEST_CASE("every published config is read or refused by name") {
  namespace fs = std::filesystem;
  const char* given = std::getenv("QWEN_SHARED");
  fs::path configs;
  for (const fs::path& root : {fs::path(given ? given : ""), fs::path("shared"), fs::path("../shared")})
    if (configs.empty() && !root.empty() && fs::is_directory(root / "qwen-configs"))
      configs = root / "qwen-configs";
  if (configs.empty()) {
    MESSAGE("skipped: no qwen-configs folder (set QWEN_SHARED)");
    return;
  }
  struct Sizes {
    int64_t layers, hidden, heads, kv_heads, head_dim, vocab;
    bool tied;
  };
  // Some of each family, by hand; the others must at least be read.
  const std::map<std::string, Sizes> known = {
      {"Qwen1.5-4B-Chat", {40, 2560, 20, 20, 128, 151936, false}},
      {"Qwen2-72B-Instruct", {80, 8192, 64, 8, 128, 152064, false}},
      {"Qwen2.5-0.5B", {24, 896, 14, 2, 64, 151936, true}},
      {"Qwen3-0.6B", {28, 1024, 16, 8, 128, 151936, true}},
      {"Qwen3-32B", {64, 5120, 64, 8, 128, 151936, false}},
      {"Qwen3-Embedding-8B", {36, 4096, 32, 8, 128, 151665, false}},
      {"Qwen3-Reranker-8B", {36, 4096, 32, 8, 128, 151669, false}},
      {"Qwen3-Next-80B-A3B-Instruct", {48, 2048, 16, 2, 256, 151936, false}},
      {"Qwen3.5-0.8B", {24, 1024, 8, 2, 256, 248320, true}},
      {"Qwen3.6-27B", {64, 5120, 24, 4, 256, 248320, false}},
      {"Qwen3.6-35B-A3B", {40, 2048, 16, 2, 256, 248320, false}},
      {"Qwen3.8-Flash-Next", {48, 2560, 24, 2, 256, 248320, false}},
      {"Qwen2-Audio-7B-Instruct", {32, 4096, 32, 32, 128, 156032, false}},
      {"Qwen3-VL-30B-A3B-Instruct", {48, 2048, 32, 4, 128, 151936, false}},
  };
  size_t read = 0, refused = 0, known_read = 0;
  for (const auto& entry : fs::directory_iterator(configs)) {
    const fs::path file = entry.path() / "config.json";
    const std::string model = entry.path().filename().string();
    CAPTURE(model);
    const fs::path generation = entry.path() / "generation_config.json";
    if (fs::exists(generation))
      CHECK_NOTHROW(parse_generation_config(MappedFile(generation, LoadMode::read).text(), model));
    if (!fs::exists(file)) continue;
    const MappedFile text(file, LoadMode::read);
    const auto starts = [&](std::string_view prefix) { return model.starts_with(prefix); };
    const bool expected = model.find("-ASR") == std::string::npos;
    try {
      const ModelConfig config = parse_model_config(text.text(), file.string());
      CHECK(expected);
      ++read;
      CHECK(config.sliding_window == 0);
      const bool omni = model.find("-Omni") != std::string::npos;
      CHECK(config.torch_dtype == (model.ends_with("-AWQ") && !omni ? "float16" : "bfloat16"));
      CHECK(config.quantization.has_value() == (model.ends_with("-AWQ") || model.ends_with("-FP8")));
      CHECK(config.query_key_norm == starts("Qwen3"));
      CHECK(config.attention_bias == !starts("Qwen3"));
      if (!omni) CHECK(parse_eos_token_ids(text.text(), file.string()).size() == 1);
      const bool hybrid = starts("Qwen3.") || starts("Qwen3-Next");
      CHECK(config.gated_delta.has_value() == hybrid);
      CHECK(config.zero_centred_norms == hybrid);
      CHECK(config.rotary_dim == (hybrid ? config.head_dim / 4 : config.head_dim));
      const auto sizes = known.find(model);
      if (sizes == known.end()) continue;
      ++known_read;
      const Sizes& wanted = sizes->second;
      CHECK(config.num_hidden_layers == wanted.layers);
      CHECK(config.hidden_size == wanted.hidden);
      CHECK(config.num_attention_heads == wanted.heads);
      CHECK(config.num_key_value_heads == wanted.kv_heads);
      CHECK(config.head_dim == wanted.head_dim);
      CHECK(config.vocab_size == wanted.vocab);
      CHECK(config.tie_word_embeddings == wanted.tied);
    } catch (const Error& error) {
      CAPTURE(error.message());
      CHECK(!expected);
      ++refused;
      CHECK(error.status() == Status::unsupported);
      CHECK(error.message().find("is not supported by this version (supported: ") != std::string::npos);
    }
  }
  MESSAGE(read, " read, ", refused, " refused by name");
  CHECK(read > 0);
  CHECK(refused > 0);
  CHECK(known_read == known.size());
}
