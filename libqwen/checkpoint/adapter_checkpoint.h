// A LoRA adapter as PEFT saves it (https://github.com/huggingface/peft): a folder with adapter_config.json and
// adapter_model.safetensors. What of PEFT's many settings is not supported is an error that names the key.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/tensor.h"

namespace qwen {

// The modules of a model go by their names in the model that was trained: "model.layers.0.self_attn.q_proj".
struct AdapterConfig {
  template <class Value>
  using Patterns = std::vector<std::pair<std::string, Value>>;  // the first one that matches holds

  int64_t r = 0;
  double lora_alpha = 0;
  bool use_rslora = false;
  Patterns<int64_t> rank_pattern;
  Patterns<double> alpha_pattern;
  std::vector<std::string>
      target_modules;  // the ends of their names; empty: the file does not say it that way
  std::vector<int64_t> layers_to_transform;    // empty: all
  std::vector<std::string> exclude_modules{};  // the ends of their names

  int64_t rank_of(std::string_view module) const;
  // What B A counts.
  float scale_of(std::string_view module) const;
  // Whether the adapter has tensors for this module. `layer`: its place in the list of layers.
  bool targets(std::string_view module, int64_t layer) const;
};

// Throws Error naming `source` and the key.
AdapterConfig parse_adapter_config(std::string_view text, std::string_view source);

// The two tensors of one module.
struct AdapterModule {
  std::string name;
  const TensorView* a = nullptr;  // [rank, in]
  const TensorView* b = nullptr;  // [out, rank]
};

struct AdapterCheckpoint {
  std::filesystem::path folder;
  AdapterConfig config;
  std::vector<AdapterModule> modules;  // by name
  std::shared_ptr<const TensorSource> tensors;
};

// Both files are read, not mapped: they may be replaced or deleted afterwards. Throws Error naming the file, tensor or key.
AdapterCheckpoint open_adapter(const std::filesystem::path& folder);

}  // namespace qwen
