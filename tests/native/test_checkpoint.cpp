#include <doctest/doctest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/memory_tensors.h"
#include "model/model.h"
#include "temporary_folder.h"

using namespace qwen;
namespace fs = std::filesystem;

namespace {

constexpr std::string_view kConfig =
    R"({"architectures": ["Qwen3ForCausalLM"], "vocab_size": 512, "hidden_size": 64,
  "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
  "max_position_embeddings": 4096, "eos_token_id": [458, 456]})";
constexpr std::string_view kNoTensors("\2\0\0\0\0\0\0\0{}", 10);

void check_refused(const fs::path& folder, Status status, std::string_view fragment) {
  try {
    open_checkpoint(folder);
    FAIL_CHECK("no error");
  } catch (const Error& error) {
    CAPTURE(error.message());
    CHECK(error.status() == status);
    CHECK(error.message().find(folder.string()) == 0);
    CHECK(error.message().find(fragment) != std::string::npos);
  }
}

}  // namespace

TEST_CASE("a folder that is no checkpoint is an error that says what is missing and what would be right") {
  const TemporaryFolder temporary;
  const fs::path folder = temporary.path();
  check_refused(folder / "none", Status::not_found, "no such folder; a checkpoint is a folder");
  check_refused("", Status::not_found, "no such folder");
  check_refused(temporary.write("some.txt", "x"), Status::not_found, "is a file; give the folder");
  check_refused(folder / "none.gguf", Status::not_found, "no such file; a checkpoint is a folder");
  check_refused(temporary.write("model.gguf", "x"), Status::invalid_file, "this is not a GGUF file");
  check_refused(folder, Status::invalid_file, "model.gguf: does not begin with 'GGUF'");
  temporary.write("other.gguf", "x");
  check_refused(folder, Status::not_found,
                "holds 2 GGUF files, 'model.gguf' and 'other.gguf'; give the path");
  temporary.write("config.json", kConfig);
  check_refused(folder, Status::not_found, "(it holds .gguf files: give the path of one of them)");
  for (const char* name : {"config.json", "model.gguf", "other.gguf"}) fs::remove(folder / name);
  check_refused(folder, Status::not_found, "there is no config.json in this folder; a checkpoint is");
  fs::create_directory(folder / "snapshots");
  check_refused(folder, Status::not_found, "a folder below its snapshots/");

  temporary.write("config.json", kConfig);
  check_refused(folder, Status::not_found,
                "there is no model.safetensors and no model.safetensors.index.json");
  temporary.write("pytorch_model.bin", "PK");
  check_refused(folder, Status::not_found, "(it holds .bin or .pt files, which are not supported)");
  fs::create_directory(folder / "model.safetensors");
  check_refused(folder, Status::not_found, "there is no model.safetensors and");
}

TEST_CASE("a broken file inside a checkpoint is named with its path") {
  const TemporaryFolder temporary;
  temporary.write("model.safetensors", kNoTensors);
  temporary.write("config.json", "{");
  check_refused(temporary.path(), Status::invalid_file, "config.json: not valid JSON");
  temporary.write("config.json", kConfig);
  temporary.write("generation_config.json", R"({"top_p": 2})");
  check_refused(temporary.path(), Status::invalid_file, "generation_config.json: key 'top_p' is 2");
  temporary.write("generation_config.json", R"({"eos_token_id": [458, 512]})");
  check_refused(temporary.path(), Status::invalid_file, "is 512; it must be below vocab_size, which is 512");
  temporary.write("generation_config.json", "{}");
  temporary.write("model.safetensors", "");
  check_refused(temporary.path(), Status::invalid_file, "model.safetensors: has 0 bytes");
}

TEST_CASE("eos ids come from generation_config.json, else from config.json") {
  const TemporaryFolder temporary;
  temporary.write("config.json", kConfig);
  temporary.write("model.safetensors", kNoTensors);
  const std::vector<int32_t> of_config = {458, 456};
  CHECK(open_checkpoint(temporary.path()).generation.eos_token_ids == of_config);
  temporary.write("generation_config.json", R"({"top_k": 20})");
  const Checkpoint checkpoint = open_checkpoint(temporary.path());
  CHECK(checkpoint.generation.eos_token_ids == of_config);
  CHECK(checkpoint.generation.top_k == 20);
  CHECK(checkpoint.path == temporary.path());
  temporary.write("generation_config.json", R"({"eos_token_id": 7})");
  CHECK(open_checkpoint(temporary.path()).generation.eos_token_ids == std::vector<int32_t>{7});
}

// The reference checkpoints live outside the repository (QWEN_SHARED, or shared/ beside or in the checkout).
TEST_CASE("every reference checkpoint opens") {
  const char* given = std::getenv("QWEN_SHARED");
  fs::path reference;
  for (const fs::path& root : {fs::path(given ? given : ""), fs::path("shared"), fs::path("../shared")})
    if (reference.empty() && !root.empty() && fs::is_directory(root / "reference"))
      reference = root / "reference";
  if (reference.empty()) {
    MESSAGE("skipped: no reference folder (set QWEN_SHARED)");
    return;
  }
  size_t opened = 0;
  for (const auto& entry : fs::directory_iterator(reference)) {
    if (!fs::exists(entry.path() / "config.json")) continue;
    const std::string name = entry.path().filename().string();
    CAPTURE(name);
    try {
      for (const LoadMode mode : {LoadMode::mmap, LoadMode::read}) {
        const Checkpoint checkpoint = open_checkpoint(entry.path(), mode);
        CHECK(!checkpoint.tensors->names().empty());
        CHECK(!checkpoint.generation.eos_token_ids.empty());
        const TensorView* embedding = nullptr;
        for (const char* prefix :
             {"", "model.", "model.language_model.", "language_model.model.", "thinker.model."})
          if (!embedding) embedding = checkpoint.tensors->find(std::string(prefix) + "embed_tokens.weight");
        REQUIRE(embedding);
        CHECK(embedding->shape ==
              std::vector<int64_t>{checkpoint.config.vocab_size, checkpoint.config.hidden_size});
        CHECK((checkpoint.config.sliding_window > 0) == (name == "qwen2_sliding"));
        CHECK(checkpoint.config.rope_scaling.has_value() == (name == "qwen2_yarn" || name == "qwen3_yarn"));
      }
      ++opened;
    } catch (const Error& error) {
      FAIL_CHECK(error.message());
    }
    // What stands beside the weights are sound files too.
    for (const auto& file : fs::directory_iterator(entry.path()))
      if (file.path().extension() == ".safetensors")
        CHECK_NOTHROW(open_safetensors(file.path(), LoadMode::mmap));
  }
  MESSAGE(opened, " opened");
  CHECK(opened > 0);
}

TEST_CASE("nothing of a checkpoint is read before all of its tensors are known to be there") {
  const Checkpoint checkpoint = open_checkpoint(QWEN_TEST_DATA "/../parity/data/qwen3_embedding");
  const auto cpu = create_cpu_backend({});
  int read = 0, reported = 0;
  const auto load = [&](const TensorSource& tensors) {
    load_model(
        checkpoint.config, {}, tensors, *cpu,
        [&](double) {
          CHECK(read == 1);
          ++reported;
        },
        [&] { ++read; });
  };
  MemoryTensors lacking{nullptr};
  const std::vector<std::string> names = checkpoint.tensors->names();
  for (const std::string& name : names) {
    const TensorView& tensor = *checkpoint.tensors->find(name);
    if (name != names.back()) lacking.add(name, tensor.dtype, tensor.shape, tensor.data, tensor.bytes);
  }
  CHECK_THROWS_AS(load(lacking), Error);
  CHECK(read == 0);
  CHECK(reported == 0);
  load(*checkpoint.tensors);
  CHECK(read == 1);
  CHECK(reported > 0);
}
