// With device = "cuda" what is not generating: embeddings and scores beside the reference and the CPU; and adapters, each for rows of
// its own in one batch.
#include <doctest/doctest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/memory_tensors.h"
#include "engine_fixtures.h"

using namespace qwen;
using qwen::test::answer;
using qwen::test::Floats;
using qwen::test::kCommitted;

namespace {

Options options(const char* device, const char* dtype) {
  Options made;
  made.set("device", std::string_view(device));
  made.set("dtype", std::string_view(dtype));
  made.set("kv_cache_bytes", int64_t{4} << 20);
  return made;
}

// An adapter of some of the model's matrices, with weights where the engine has its own.
std::shared_ptr<const Adapter> make_adapter(const LoadedModel& loaded, const Options& options, int32_t id) {
  test::Random random(static_cast<uint32_t>(id));
  const auto values = std::make_shared<std::vector<std::vector<float>>>();
  const auto tensors = std::make_shared<MemoryTensors>([values] {});
  AdapterCheckpoint checkpoint;
  checkpoint.config.r = 4 + id;
  checkpoint.config.lora_alpha = 16;
  for (const LinearShape& linear : loaded.model->linears()) {
    if (random.integer(0, 3) == 0) continue;
    const auto add = [&](const char* which, int64_t rows, int64_t columns) {
      const auto& data = values->emplace_back(random.floats(rows * columns, -0.1f, 0.1f));
      const std::string name = linear.name + which;
      tensors->add(name, DType::f32, {rows, columns}, data.data(), data.size() * sizeof(float));
      return name;
    };
    const std::string a = add(".a", checkpoint.config.r, linear.in),
                      b = add(".b", linear.out, checkpoint.config.r);
    checkpoint.modules.push_back({linear.name, tensors->find(a), tensors->find(b)});
  }
  checkpoint.tensors = tensors;
  const auto backend = create_backend(resolve_cpu_options(options), options, loaded.device);
  const auto adapter = std::make_shared<Adapter>();
  backend->load_together([&] { *adapter = load_adapter(checkpoint, loaded.model->linears(), *backend); });
  adapter->id = id;
  return adapter;
}

}  // namespace

TEST_CASE("embeddings on a GPU are the reference's") {
  const auto folder = kCommitted / "qwen3_embedding";
  MappedFile mapped(folder / "expected_embedding.safetensors");
  auto header = read_safetensors_header(mapped);
  std::vector<MappedFile> files;
  files.push_back(std::move(mapped));
  const auto expected = make_file_tensor_source(std::move(files), std::move(header), folder.string());
  for (const char* dtype : {"f32", "bf16"}) {
    CAPTURE(dtype);
    const auto loaded = open_model(folder, options("cuda", dtype));
    Engine engine(loaded, options("cuda", dtype));
    std::vector<RequestInput> inputs(4);
    for (size_t i = 0; i < inputs.size(); ++i) {
      const TensorView& ids = *expected->find(cat("text", i, ".input_ids"));
      inputs[i].prompt.resize(static_cast<size_t>(ids.shape[0]));
      std::memcpy(inputs[i].prompt.data(), ids.data, ids.bytes);
      inputs[i].tensors.last_hidden = true;
      inputs[i].tensors.first_row = ids.shape[0] - 1;
    }
    const auto together = answer(engine, inputs);
    for (size_t i = 0; i < inputs.size(); ++i) {
      const TensorView& hidden = *expected->find(cat("text", i, ".last_hidden"));
      Floats reference(hidden.bytes / sizeof(float));
      std::memcpy(reference.data(), hidden.data, hidden.bytes);
      CHECK(test::distance(together[i]->last_hidden, reference, 1) < (dtype[0] == 'f' ? 1e-3 : 0.05));
      CHECK(test::same_bits(answer(engine, {inputs[i]})[0]->last_hidden, together[i]->last_hidden));
    }
  }
}

TEST_CASE("scores and adapters on a GPU are the CPU's, and a row has the bits of its own adapter alone") {
#ifdef __SANITIZE_ADDRESS__
  constexpr const char* kNames[] = {"qwen3_yarn"};
#else
  constexpr const char* kNames[] = {"qwen3_yarn", "qwen2_moe", "qwen3_5", "qwen4_exp"};
#endif
  for (const char* name : kNames)
    for (const char* dtype : {"f32", "bf16"}) {
      CAPTURE(name);
      CAPTURE(dtype);
      std::vector<Floats> of_device[2];
      for (const char* device : {"cuda", "cpu"}) {
        const Options chosen = options(device, dtype);
        const auto loaded = open_model(kCommitted / name, chosen);
        Engine engine(loaded, chosen);
        std::vector<RequestInput> inputs;
        for (int32_t i = 0; i < 4; ++i) {
          RequestInput& input = inputs.emplace_back();
          for (int32_t token = 0; token < 9 + 5 * i; ++token) input.prompt.push_back((7 * token + 3) % 100);
          input.tensors.logits = true;
          if (i == 3) input.tensors.logits_of = {17, 4};  // a reranker's two words
          if (i == 1 || i == 2) input.adapter = make_adapter(*loaded, chosen, i);
        }
        auto& answers = of_device[std::string_view(device) == "cuda"];
        for (const auto& request : answer(engine, inputs)) answers.push_back(request->logits);
        if (std::string_view(device) == "cpu") continue;
        for (size_t i = 0; i < inputs.size(); ++i)
          CHECK(test::same_bits(answer(engine, {inputs[i]})[0]->logits, answers[i]));
        RequestInput plain = inputs[1];
        plain.adapter = nullptr;
        CHECK(test::distance(answer(engine, {plain})[0]->logits, answers[1], 1) > 0.01);
      }
      if (dtype[0] == 'f')
        for (size_t i = 0; i < of_device[0].size(); ++i)
          CHECK(test::distance(of_device[0][i], of_device[1][i], 1) < 1e-3);
    }
}
