// Engines with device = "cuda" over the checkpoints of tests/parity/data, for tests.
#pragma once

#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "checkpoint/safetensors.h"
#include "engine/engine.h"
#include "kernel_fixtures.h"

namespace qwen::test {

inline const std::filesystem::path kCommitted = QWEN_TEST_DATA "/../parity/data";

struct Expected {
  std::shared_ptr<const TensorSource> file;
  explicit Expected(const std::filesystem::path& path) {
    MappedFile mapped(path);
    auto tensors = read_safetensors_header(mapped);
    std::vector<MappedFile> files;
    files.push_back(std::move(mapped));
    file = make_file_tensor_source(std::move(files), std::move(tensors), path.string());
  }
  template <class T>
  std::vector<T> values(const char* name) const {
    const TensorView* view = file->find(name);
    REQUIRE(view != nullptr);
    std::vector<T> copy(view->bytes / sizeof(T));
    std::memcpy(copy.data(), view->data, view->bytes);
    return copy;
  }
};

inline Options options(const char* dtype, int64_t max_batch_tokens = 512) {
  Options made;
  made.set("device", std::string_view("cuda"));
  made.set("dtype", std::string_view(dtype));
  made.set("max_batch_tokens", max_batch_tokens);
  made.set("kv_cache_bytes", int64_t{4} << 20);
  return made;
}

// Several at once, each alone in its answer.
inline std::vector<std::shared_ptr<Request>> answer(Engine& engine, std::vector<RequestInput> inputs) {
  const auto queue = std::make_shared<EventQueue>();
  std::vector<std::shared_ptr<Request>> requests;
  for (RequestInput& input : inputs) {
    input.queue = queue;
    requests.push_back(engine.make_request(std::move(input)));
    engine.submit(requests.back());
  }
  for (size_t done = 0; done < requests.size();)
    for (const Event& event : queue->pop_all(-1)) done += event.type == EventType::done;
  for (const auto& request : requests) {
    INFO(request->outcome().message);
    REQUIRE(request->outcome().status == Status::ok);
  }
  return requests;
}

// At temperature 0 without a seed, else 1; with log-probabilities of the 20 likeliest tokens.
inline RequestInput generating(std::vector<int32_t> prompt, int64_t tokens, uint64_t seed = 0) {
  RequestInput input;
  input.prompt = std::move(prompt);
  input.params.max_tokens = tokens;
  input.params.temperature = seed == 0 ? 0 : 1;
  input.params.seed = seed;
  input.params.ignore_eos = true;
  input.params.logprobs = true;
  input.params.top_logprobs = 20;
  return input;
}

// The beginning of the checkpoint's long text, and sevens behind its end.
inline std::vector<int32_t> text(const char* name, size_t tokens) {
  auto ids = Expected(kCommitted / name / "expected.safetensors").values<int32_t>("long_input_ids");
  ids.resize(tokens, 7);
  return ids;
}

inline RequestInput wanting_logits(std::vector<int32_t> prompt) {
  RequestInput input;
  input.prompt = std::move(prompt);
  input.tensors.logits = true;
  return input;
}

inline Floats logits(Engine& engine, const std::vector<int32_t>& prompt) {
  return answer(engine, {wanting_logits(prompt)})[0]->logits;
}

// The same tokens, and log-probabilities to the bit.
inline void check_same(const Request& a, const Request& b) {
  const RequestOutcome ours = a.outcome(), theirs = b.outcome();
  REQUIRE(ours.choices.size() == theirs.choices.size());
  for (size_t i = 0; i < ours.choices.size(); ++i) {
    CAPTURE(i);
    CHECK(ours.choices[i].token_ids == theirs.choices[i].token_ids);
    CHECK(ours.choices[i].top_token_ids == theirs.choices[i].top_token_ids);
    CHECK(same_bits(ours.choices[i].logprobs, theirs.choices[i].logprobs));
    CHECK(same_bits(ours.choices[i].top_logprobs, theirs.choices[i].top_logprobs));
  }
}

inline void check_same(const std::vector<std::shared_ptr<Request>>& a,
                       const std::vector<std::shared_ptr<Request>>& b) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) check_same(*a[i], *b[i]);
}

}  // namespace qwen::test
