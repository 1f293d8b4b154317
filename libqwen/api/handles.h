// What stands behind the opaque handles of qwen.h.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "api/guard.h"
#include "base/immortal.h"
#include "base/options.h"
#include "checkpoint/memory_tensors.h"
#include "engine/engine.h"
#include "engine/event_queue.h"
#include "engine/loaded_model.h"
#include "engine/prompt.h"
#include "engine/request.h"
#include "engine/text_inputs.h"
#include "text/tokenizer.h"

namespace qwen::api {
// The host's "trace" callback as the engine calls it.
std::function<void(const StepTrace&)> step_trace(const Options& options);
}  // namespace qwen::api

struct qwen_options {
  qwen::Options options;
};

struct qwen_tokenizer {
  std::shared_ptr<const qwen::Tokenizer> tokenizer;
};

struct qwen_weights {
  qwen::ModelConfig config;
  std::shared_ptr<qwen::MemoryTensors> tensors;
};

// One object per opened model, shared by reference counting: qwen_model_retain and every engine add one.
struct qwen_model {
  std::shared_ptr<const qwen::LoadedModel> loaded;
  qwen_tokenizer tokenizer;
  mutable std::atomic<int64_t> references{1};

  void retain() const noexcept { references.fetch_add(1, std::memory_order_relaxed); }
  void release() const noexcept {
    if (references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
};

struct ModelReleaser {
  void operator()(const qwen_model* model) const noexcept { model->release(); }
};
using ModelReference = std::unique_ptr<const qwen_model, ModelReleaser>;

struct qwen_engine {
  // Takes one reference of its own.
  qwen_engine(const qwen_model& opened, const qwen::Options& options)
      : model((opened.retain(), &opened)), engine(opened.loaded, options, qwen::api::step_trace(options)) {
    for (const auto& count : engine.kernel_counts()) counter_names.push_back(count.name);
  }
  ModelReference model;
  qwen::Engine engine;
  std::vector<std::string> counter_names;  // [counter], fixed at creation: the texts qwen_counter lends out
  // The texts that qwen_adapter_info lends out: an adapter may be unloaded while its name is read.
  const char* kept(const std::string& text) const {
    const std::lock_guard lock(adapter_texts_mutex);
    return adapter_texts.insert(text).first->c_str();
  }
  mutable std::mutex adapter_texts_mutex;
  mutable std::set<std::string> adapter_texts;
  qwen::api::Owner owner;
};

struct qwen_prompt {
  qwen::Prompt prompt;
};

struct qwen_inputs {
  qwen::TextInputs inputs;
};

struct qwen_queue {
  std::shared_ptr<qwen::EventQueue> queue = std::make_shared<qwen::EventQueue>();
  std::vector<qwen::Event> taken;  // what qwen_queue_event lends out
  qwen::api::Owner owner;
};

struct qwen_request {
  std::shared_ptr<qwen::Request> request;
  std::shared_ptr<qwen::EventQueue> own_queue;  // null when events go to a qwen_queue
  std::optional<qwen::Event> current;           // what qwen_request_next lends out
  bool done_taken = false;
  qwen::api::Owner owner;
};

struct qwen_result {
  qwen::RequestOutcome outcome;
};

struct qwen_tensors {
  struct Sequence {
    std::shared_ptr<const qwen::Request> request;  // holds the memory
    int64_t rows = 0;
  };
  std::vector<Sequence> sequences;  // of qwen_forward
  int64_t vocab_size = 0;

  // Of qwen_embed and qwen_rerank: one tensor.
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;

  int64_t prompt_tokens = 0, cached_tokens = 0;
};

namespace qwen::api {

// The host's options, checked to be of the right kind for this call; NULL: none.
inline const Options& options_for(OptionScope scope, const qwen_options* options) {
  static Immortal<Options> none;
  if (options) options->options.check_scope(scope);
  return options ? options->options : *none;
}

template <class T>
const T* pointer_or_null(const std::vector<T>& values) {
  return values.empty() ? nullptr : values.data();
}
// Of a [tokens, count] array, the count.
inline size_t per_token(const std::vector<int32_t>& values, const std::vector<int32_t>& tokens) {
  return tokens.empty() ? 0 : values.size() / tokens.size();
}

void fill_event(const Event& event, qwen_event* out);

}  // namespace qwen::api
