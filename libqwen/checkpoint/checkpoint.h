// A Qwen folder or GGUF file on disk, opened: configuration and tensors, mapped and completely validated, nothing copied.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/mapped_file.h"
#include "checkpoint/gguf.h"
#include "checkpoint/model_config.h"
#include "checkpoint/tensor.h"

namespace qwen {

struct Checkpoint {
  std::filesystem::path path;            // the folder or the GGUF file
  std::shared_ptr<const GgufFile> gguf;  // null: a folder of safetensors
  ModelConfig config;
  GenerationConfig
      generation;  // eos ids are config.json's where generation_config.json is absent or names none
  std::shared_ptr<const TensorSource> tensors;
};

// A folder: opens config.json, generation_config.json (optional) and model.safetensors or the shards of
// model.safetensors.index.json. A GGUF file, or a folder with one and nothing of the above: opens that, which holds
// everything. Throws Error naming the file, tensor or key.
Checkpoint open_checkpoint(const std::filesystem::path& path, LoadMode mode = LoadMode::mmap);

// The GGUF file that `path` is or, being a folder without a config.json or model.safetensors, holds (of a
// split one the first part); nothing otherwise. Throws
// Error(not_found): a folder that holds several.
std::optional<std::filesystem::path> find_gguf(const std::filesystem::path& path);

// One or many safetensors files as a TensorSource. Every header is validated before this returns: length,
// JSON, known dtype, shape product without overflow, dtype x shape = bytes, offsets inside the file, no
// overlap, no hole, no duplicate name across shards, index and shards consistent.
std::shared_ptr<const TensorSource> open_safetensors(const std::filesystem::path& file, LoadMode mode);
std::shared_ptr<const TensorSource> open_sharded_safetensors(const std::filesystem::path& index_file,
                                                             LoadMode mode);

}  // namespace qwen
