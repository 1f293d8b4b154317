#include "checkpoint/checkpoint.h"

#include <dirent.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <new>
#include <string_view>
#include <system_error>

#include "base/error.h"
#include "checkpoint/gguf_config.h"
#include "checkpoint/gguf_tensors.h"

namespace qwen {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kConfig = "config.json";
constexpr std::string_view kGeneration = "generation_config.json";
constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndex = "model.safetensors.index.json";
constexpr std::string_view kWhatIsRight =
    "a checkpoint is a folder as Qwen publishes it, with config.json, tokenizer.json and the weights in "
    "model.safetensors or in the shards of model.safetensors.index.json, or a GGUF file";

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

void check_folder(const fs::path& folder) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (status.type() == fs::file_type::not_found)
    fail(Status::not_found, folder.string(),
         folder.extension() == ".gguf" ? ": no such file; " : ": no such folder; ", kWhatIsRight);
  if (status.type() == fs::file_type::none)
    fail(Status::io, folder.string(), ": ", system_reason(error.value()));
  if (status.type() == fs::file_type::directory) return;
  fail(Status::not_found, folder.string(), ": is a file; give the folder that holds it: ", kWhatIsRight);
}

// Names of what lies in a folder; none where it cannot be read. std::filesystem's iterators that report errors instead of
// throwing them are noexcept, and end the process when there is no memory for the next entry.
std::vector<std::string> names_in(const fs::path& folder) {
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(folder.c_str()), ::closedir);
  if (!open && errno == ENOMEM) throw std::bad_alloc();
  std::vector<std::string> names;
  while (const dirent* entry = open ? ::readdir(open.get()) : nullptr)
    if (const std::string_view name = entry->d_name; name != "." && name != "..") names.emplace_back(name);
  return names;
}

// What lies in a folder that is not a checkpoint, said so that the reader sees the mistake: " (it holds .bin or .pt
// files, which are not supported)", or "".
std::string what_it_holds_instead(const fs::path& folder) {
  bool gguf = false, pickled = false, snapshots = false;
  for (const fs::path name : names_in(folder)) {
    const fs::path extension = name.extension();
    gguf = gguf || extension == ".gguf";
    pickled = pickled || extension == ".bin" || extension == ".pt" || extension == ".pth";
    snapshots = snapshots || name == "snapshots";
  }
  if (gguf) return " (it holds .gguf files: give the path of one of them)";
  if (pickled) return " (it holds .bin or .pt files, which are not supported)";
  if (snapshots)
    return " (it is a folder of the Hugging Face cache: the checkpoint is a folder below its snapshots/)";
  return {};
}

[[noreturn]] void missing(const fs::path& folder, std::string_view files) {
  fail(Status::not_found, folder.string(), ": there is no ", files, " in this folder",
       what_it_holds_instead(folder), "; ", kWhatIsRight);
}

GenerationConfig read_generation(const fs::path& folder, const MappedFile& config_file) {
  GenerationConfig generation;
  const fs::path path = folder / kGeneration;
  if (is_file(path))
    generation = parse_generation_config(MappedFile(path, LoadMode::read).text(), path.string());
  if (generation.eos_token_ids.empty())
    generation.eos_token_ids = parse_eos_token_ids(config_file.text(), config_file.path().string());
  return generation;
}

std::shared_ptr<const TensorSource> open_tensors(const fs::path& folder, LoadMode mode) {
  // In this order where both are there, as transformers does.
  if (is_file(folder / kSingleFile)) return open_safetensors(folder / kSingleFile, mode);
  if (is_file(folder / kIndex)) return open_sharded_safetensors(folder / kIndex, mode);
  missing(folder, "model.safetensors and no model.safetensors.index.json");
}

// A stop token that the model cannot produce would mean generation without end.
void check_eos(const Checkpoint& checkpoint, std::string_view key) {
  for (const int32_t id : checkpoint.generation.eos_token_ids)
    if (id >= checkpoint.config.vocab_size)
      fail(Status::invalid_file, checkpoint.path.string(), ": ", key, " is ", id,
           "; it must be below vocab_size, which is ", checkpoint.config.vocab_size);
}

Checkpoint open_gguf(const fs::path& file, LoadMode mode) {
  Checkpoint checkpoint;
  checkpoint.path = file;
  checkpoint.gguf = std::make_shared<const GgufFile>(file, mode);
  checkpoint.config = gguf_model_config(*checkpoint.gguf);
  checkpoint.generation = gguf_generation_config(*checkpoint.gguf);
  check_eos(checkpoint,
            "a stop token among 'tokenizer.ggml.eos_token_id', '…eot_token_id' and '…eom_token_id'");
  checkpoint.tensors = make_gguf_tensor_source(checkpoint.gguf, checkpoint.config);
  return checkpoint;
}

}  // namespace

std::optional<fs::path> find_gguf(const fs::path& path) {
  if (is_gguf(path)) return path;
  std::vector<std::string> found;
  for (std::string& name : names_in(path)) {
    if (name == kConfig || name == kSingleFile || name == kIndex) return std::nullopt;
    if (fs::path(name).extension() == ".gguf" && is_file(path / name)) found.push_back(std::move(name));
  }
  if (found.empty()) return std::nullopt;
  std::sort(found.begin(), found.end());
  const auto first = parse_gguf_part_name(found[0]);
  const bool parts_of_one = first && std::all_of(found.begin(), found.end(), [&](const std::string& name) {
                              const auto part = parse_gguf_part_name(name);
                              return part && part->first == first->first;
                            });
  if (found.size() > 1 && !parts_of_one)
    fail(Status::not_found, path.string(), ": holds ", found.size(), " GGUF files, ", quote(found[0]),
         " and ", quote(found[1]), found.size() > 2 ? " among them" : "",
         "; give the path of the one that is meant");
  return path / found[0];
}

Checkpoint open_checkpoint(const fs::path& path, LoadMode mode) {
  if (const auto file = find_gguf(path)) return open_gguf(*file, mode);
  check_folder(path);
  if (!is_file(path / kConfig)) missing(path, kConfig);
  // Small files are read, never mapped: somebody may well edit them while we look.
  const MappedFile config_file(path / kConfig, LoadMode::read);

  Checkpoint checkpoint;
  checkpoint.path = path;
  checkpoint.config = parse_model_config(config_file.text(), config_file.path().string());
  checkpoint.generation = read_generation(path, config_file);
  check_eos(checkpoint, "key 'eos_token_id' of generation_config.json or config.json");
  checkpoint.tensors = open_tensors(path, mode);
  return checkpoint;
}

}  // namespace qwen
