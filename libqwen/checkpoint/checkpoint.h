// A Qwen folder on disk, opened: configuration and tensors, mapped and completely validated, nothing copied.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/mapped_file.h"
#include "checkpoint/model_config.h"
#include "checkpoint/tensor.h"

namespace qwen {

struct Checkpoint {
  std::filesystem::path folder;
  ModelConfig config;
  GenerationConfig
      generation;  // eos ids are config.json's where generation_config.json is absent or names none
  std::shared_ptr<const TensorSource> tensors;
};

// Opens config.json, generation_config.json (optional) and model.safetensors or the shards of
// model.safetensors.index.json. Throws Error naming the file, tensor or key.
Checkpoint open_checkpoint(const std::filesystem::path& folder, LoadMode mode = LoadMode::mmap);

// One or many safetensors files as a TensorSource. Every header is validated before this returns: length,
// JSON, known dtype, shape product without overflow, dtype x shape = bytes, offsets inside the file, no
// overlap, no hole, no duplicate name across shards, index and shards consistent.
std::shared_ptr<const TensorSource> open_safetensors(const std::filesystem::path& file, LoadMode mode);
std::shared_ptr<const TensorSource> open_sharded_safetensors(const std::filesystem::path& index_file,
                                                             LoadMode mode);

}  // namespace qwen
