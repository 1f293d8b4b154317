#include "checkpoint/adapter_checkpoint.h"

#include <system_error>

#include "base/error.h"
#include "base/mapped_file.h"
#include "checkpoint/checkpoint.h"

namespace qwen {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kConfig = "adapter_config.json";
constexpr std::string_view kTensors = "adapter_model.safetensors";
// What PEFT puts before the names of the model that it wraps.
constexpr std::string_view kWrapper = "base_model.model.";

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

void check_folder(const fs::path& folder) {
  std::error_code ignored;
  static constexpr std::string_view kWhatIsRight =
      "an adapter is a folder as PEFT saves it, with adapter_config.json and adapter_model.safetensors";
  if (!fs::is_directory(folder, ignored))
    fail(Status::not_found, folder.string(), ": no such folder; ", kWhatIsRight);
  for (const std::string_view name : {kConfig, kTensors}) {
    if (is_file(folder / name)) continue;
    fail(Status::not_found, folder.string(), ": there is no ", name, " in this folder",
         is_file(folder / "adapter_model.bin")
             ? " (adapter_model.bin is not supported; save the adapter with safe_serialization=True)"
             : "",
         "; ", kWhatIsRight);
  }
}

[[noreturn]] void reject(const TensorView& tensor, std::string_view why, Status status) {
  fail(status, tensor.source, ": tensor ", quote(tensor.name), " ", why);
}

// The name without what stands around it: {"model.layers.0.self_attn.q_proj", 'A'}.
std::pair<std::string_view, char> parse_name(const TensorView& tensor) {
  std::string_view name = tensor.name;
  if (!name.starts_with(kWrapper))
    reject(tensor, "does not begin with 'base_model.model.'", Status::invalid_file);
  name.remove_prefix(kWrapper.size());
  for (const char which : {'A', 'B'}) {
    const std::string end = cat(".lora_", which, ".weight");
    if (name.ends_with(end)) return {name.substr(0, name.size() - end.size()), which};
  }
  reject(tensor,
         "is neither a lora_A.weight nor a lora_B.weight; others (of embeddings, biases, magnitudes, whole "
         "modules) are not supported by this version",
         Status::unsupported);
}

std::vector<AdapterModule> pair_tensors(const TensorSource& tensors) {
  std::vector<AdapterModule> modules;
  for (const std::string& name : tensors.names()) {  // sorted: a module's A and B stand side by side
    const TensorView& tensor = *tensors.find(name);
    const auto [module, which] = parse_name(tensor);
    if (modules.empty() || modules.back().name != module) modules.push_back({std::string(module)});
    (which == 'A' ? modules.back().a : modules.back().b) = &tensor;
  }
  for (const AdapterModule& module : modules)
    if (!module.a || !module.b)
      reject(module.a ? *module.a : *module.b,
             module.a ? "has no lora_B.weight beside it" : "has no lora_A.weight beside it",
             Status::invalid_file);
  if (modules.empty()) fail(Status::invalid_file, tensors.description(), ": holds no tensors");
  return modules;
}

}  // namespace

AdapterCheckpoint open_adapter(const fs::path& folder) {
  check_folder(folder);
  const MappedFile config(folder / kConfig, LoadMode::read);
  AdapterCheckpoint checkpoint;
  checkpoint.folder = folder;
  checkpoint.config = parse_adapter_config(config.text(), config.path().string());
  checkpoint.tensors = open_safetensors(folder / kTensors, LoadMode::read);
  checkpoint.modules = pair_tensors(*checkpoint.tensors);
  return checkpoint;
}

}  // namespace qwen
