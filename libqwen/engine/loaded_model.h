// Everything that belongs to one checkpoint and never changes: weights, tokenizer, chat template. Shared by engines.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "base/error.h"
#include "base/options.h"
#include "checkpoint/checkpoint.h"
#include "model/model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace qwen {

struct LoadedModel {
  std::string path;  // "" for weights from memory
  GenerationConfig generation;
  Precision precision = Precision::bf16;
  std::string device;                           // where the weights are: "cpu", "cuda:0"
  std::shared_ptr<const TensorSource> tensors;  // the mapped files: must outlive `model`
  std::shared_ptr<const Model> model;
  std::shared_ptr<const Tokenizer> tokenizer;         // null: the checkpoint has none
  std::shared_ptr<const ChatTemplate> chat_template;  // null: the checkpoint has none, or a broken one
  std::optional<Error> chat_template_error;           // why: raw prompts work all the same

  bool has_chat_template() const { return chat_template || chat_template_error; }
};

// Opens a checkpoint folder or a GGUF file. Engine options used: device, dtype, load, mtp, tokenizer,
// progress, gpu_check; where device is 'auto', those that say how large an engine's cache is. Throws Error.
std::shared_ptr<const LoadedModel> open_model(const std::filesystem::path& path, const Options& options);
// The same over tensors that are in memory already.
std::shared_ptr<const LoadedModel> open_model(const ModelConfig& config,
                                              std::shared_ptr<const TensorSource> tensors,
                                              std::shared_ptr<const Tokenizer> tokenizer,
                                              const Options& options);

// Options both a model and an engine look at.
CpuOptions resolve_cpu_options(const Options& options);
std::string resolve_device(const Options& options);  // "auto", "cpu", "cuda:0"

// A backend on LoadedModel::device; on a GPU of the CPU's options only the precision counts. Throws Error.
std::unique_ptr<Backend> create_backend(const CpuOptions& cpu, const Options& options,
                                        std::string_view device);

// How fast the device is that these options name; of "auto" the first GPU that this build has kernels for, else the CPU. Throws
// Error.
MachineLimits measure_machine(const Options& options);

}  // namespace qwen
