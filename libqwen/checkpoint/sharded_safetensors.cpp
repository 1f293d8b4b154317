// model.safetensors.index.json: {"metadata": {…}, "weight_map": {"tensor name":
// "model-00001-of-00002.safetensors", …}}
#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"

namespace qwen {
namespace {

struct MapEntry {
  std::string_view tensor, shard;
};

// A shard lies beside its index. A name with a separator could point anywhere on the machine, and one with
// control bytes would reach messages and terminals.
void check_shard_name(std::string_view shard, std::string_view tensor, std::string_view source) {
  const bool harmless = std::none_of(shard.begin(), shard.end(), [](char c) {
    return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
  });
  if (!harmless || shard.starts_with('.') || shard.size() > 255 || !shard.ends_with(".safetensors"))
    fail(Status::invalid_file, source, ": tensor ", quote(tensor), " is said to be in ", quote(shard),
         "; a shard must be the plain name of a .safetensors file beside the index");
}

// The weight map, sorted by tensor; borrows `index`.
std::vector<MapEntry> read_weight_map(const JsonValue& index, std::string_view source) {
  const JsonValue* map = nullptr;
  if (!index.IsObject())
    fail(Status::invalid_file, source, ": the index must be a JSON object, it is ", json_kind(index));
  for (const auto& member : index.GetObject())
    if (json_text(member.name) == "weight_map") {
      if (map) fail(Status::invalid_file, source, ": key 'weight_map' is there twice");
      map = &member.value;
    }
  if (!map || !map->IsObject())
    fail(Status::invalid_file, source, ": key 'weight_map' is ", map ? json_kind(*map) : "missing",
         "; it must be an object from tensor names to shard file names");
  if (map->ObjectEmpty()) fail(Status::invalid_file, source, ": key 'weight_map' lists no tensor");

  std::vector<MapEntry> entries;
  entries.reserve(map->MemberCount());
  for (const auto& member : map->GetObject()) {
    const std::string_view tensor = json_text(member.name);
    if (!member.value.IsString())
      fail(Status::invalid_file, source, ": the shard of tensor ", quote(tensor), " must be a string, it is ",
           json_kind(member.value));
    check_shard_name(json_text(member.value), tensor, source);
    entries.push_back({tensor, json_text(member.value)});
  }
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.tensor < b.tensor; });
  const auto twice = std::adjacent_find(entries.begin(), entries.end(),
                                        [](const auto& a, const auto& b) { return a.tensor == b.tensor; });
  if (twice != entries.end())
    fail(Status::invalid_file, source, ": tensor ", quote(twice->tensor), " is in 'weight_map' twice");
  return entries;
}

std::vector<std::string_view> distinct_shards(const std::vector<MapEntry>& entries) {
  std::vector<std::string_view> shards;
  shards.reserve(entries.size());
  for (const auto& entry : entries) shards.push_back(entry.shard);
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  return shards;
}

// All missing shards at once: whoever has to download them wants to know how many.
void check_all_present(const std::vector<std::string_view>& shards, const std::filesystem::path& folder,
                       std::string_view source) {
  size_t missing = 0;
  std::string_view first;
  for (const auto shard : shards) {
    std::error_code ignored;
    if (std::filesystem::exists(folder / shard, ignored)) continue;
    if (missing++ == 0) first = shard;
  }
  if (missing > 0)
    fail(Status::not_found, source, ": shard ", quote(first), " is not in the folder (", missing, " of ",
         shards.size(), " shards are missing); download the missing files");
}

}  // namespace

std::shared_ptr<const TensorSource> open_sharded_safetensors(const std::filesystem::path& index_file,
                                                             LoadMode mode) {
  const std::string source = index_file.string();
  const std::filesystem::path folder = index_file.parent_path();
  const MappedFile index(index_file, LoadMode::read);
  if (index.bytes().size() > kMaxHeaderBytes)
    fail(Status::invalid_file, source, ": has ", index.bytes().size(), " bytes, the limit for an index is ",
         kMaxHeaderBytes);
  const JsonDocument document = parse_json(index.text(), source);
  const std::vector<MapEntry> map = read_weight_map(document, source);
  const std::vector<std::string_view> shards = distinct_shards(map);
  check_all_present(shards, folder, source);

  std::vector<MappedFile> files;
  std::vector<TensorView> tensors;
  files.reserve(shards.size());
  tensors.reserve(map.size());
  for (const auto shard : shards) {
    files.emplace_back(folder / shard, mode);
    for (auto& tensor : read_safetensors_header(files.back())) {
      const auto listed =
          std::lower_bound(map.begin(), map.end(), std::string_view(tensor.name),
                           [](const MapEntry& entry, std::string_view name) { return entry.tensor < name; });
      if (listed == map.end() || listed->tensor != tensor.name)
        fail(Status::invalid_file, tensor.source, ": tensor ", qwen::quote(tensor.name),
             " is not listed in the 'weight_map' of ", source);
      if (listed->shard != shard)
        fail(Status::invalid_file, tensor.source, ": tensor ", qwen::quote(tensor.name),
             " is here, but the 'weight_map' of ", source, " says that it is in ", quote(listed->shard));
      tensors.push_back(std::move(tensor));
    }
  }
  // Every tensor found is one of the map, in the shard the map names, and a shard holds a name once: so
  // nothing is there twice, and equal counts mean that nothing is missing.
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  for (size_t i = 0; i < map.size(); ++i)
    if (i == tensors.size() || tensors[i].name != map[i].tensor)
      fail(Status::invalid_file, source, ": tensor ", quote(map[i].tensor), " is said to be in ",
           quote(map[i].shard), ", which does not hold it");
  return make_file_tensor_source(std::move(files), std::move(tensors), source);
}

}  // namespace qwen
