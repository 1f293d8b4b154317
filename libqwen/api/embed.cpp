// Texts to embeddings and scores.
#include "api/handles.h"
#include "engine/request_stream.h"

using namespace qwen;

namespace {

const TextInputs& checked(const qwen_inputs* inputs) {
  api::require(inputs, "inputs");
  if (inputs->inputs.size() == 0)
    fail(Status::invalid_argument, "there are no inputs; there must be at least one");
  return inputs->inputs;
}

// What both calls have in common. make(index): tokens and what is wanted of them; take(request, values): one input's numbers.
std::unique_ptr<qwen_tensors> compute(qwen_engine& engine, const TextInputs& inputs, int64_t width,
                                      const qwen_options* options, const std::function<bool(double)>& go_on,
                                      const std::function<RequestInput(size_t)>& make,
                                      const std::function<void(const Request&, std::span<float>)>& take) {
  const Options& given = api::options_for(OptionScope::request, options);
  auto handle = std::make_unique<qwen_tensors>();
  handle->values.resize(inputs.size() * static_cast<size_t>(width));
  const auto adapter = engine.engine.adapters().find(given.str_or_default("adapter"));
  RequestStream stream;
  stream.count = inputs.size();
  stream.timeout_ms = given.i64("timeout_ms");
  stream.make = [&](size_t index) {
    RequestInput input = make(index);
    input.tensors.first_row = std::max<int64_t>(0, static_cast<int64_t>(input.prompt.size()) - 1);
    input.adapter = adapter;
    input.priority = given.i64_or_default("priority");
    return input;
  };
  stream.take = [&](size_t index, const Request& request) {
    const RequestStats stats = request.outcome().stats;
    handle->prompt_tokens += stats.prompt_tokens;
    handle->cached_tokens += stats.cached_tokens;
    take(request,
         std::span(handle->values).subspan(index * static_cast<size_t>(width), static_cast<size_t>(width)));
  };
  stream.go_on = go_on;
  run(engine.engine, stream);
  return handle;
}

// The host's callback, in the host's float environment.
std::function<bool(double)> host_progress(qwen_progress_fn progress, void* user,
                                          DefaultFloatEnvironment& floats) {
  if (!progress) return nullptr;
  return
      [=, &floats](double fraction) { return floats.in_host([&] { return progress(fraction, user); }) == 0; };
}

}  // namespace

extern "C" {

int32_t qwen_inputs_new(uint32_t flags, qwen_inputs** inputs, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(inputs, "inputs");
    if (flags & ~static_cast<uint32_t>(QWEN_INPUTS_SPECIAL))
      fail(Status::invalid_argument, "flags ", flags, " are not QWEN_INPUTS_…");
    *inputs = new qwen_inputs{TextInputs((flags & QWEN_INPUTS_SPECIAL) != 0)};
  });
}

void qwen_inputs_free(qwen_inputs* inputs) {
  delete inputs;
}

int32_t qwen_inputs_add_text(qwen_inputs* inputs, const char* text, size_t length, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(inputs, "inputs");
    inputs->inputs.add_text(std::string(api::text_argument(text, length, "text")));
  });
}

int32_t qwen_inputs_add_tokens(qwen_inputs* inputs, const int32_t* ids, size_t count, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(inputs, "inputs");
    if (count > 0) api::require(ids, "ids");
    inputs->inputs.add_tokens({ids, ids + count});
  });
}

int32_t qwen_inputs_set_instruction(qwen_inputs* inputs, const char* text, size_t length,
                                    qwen_error** error) {
  return api::guard(error, [&] {
    api::require(inputs, "inputs");
    const std::string_view given = api::text_argument(text, length, "text");
    inputs->inputs.set_instruction(text ? std::optional<std::string>(given) : std::nullopt);
  });
}

int32_t qwen_inputs_encode(const qwen_inputs* inputs, size_t index, const char* query, size_t query_length,
                           const qwen_model* model, int32_t* ids, size_t capacity, size_t* count,
                           qwen_error** error) {
  return api::guard(error, [&] {
    api::require(inputs, "inputs");
    api::require(model, "model");
    api::require(count, "count");
    if (capacity > 0) api::require(ids, "ids");
    if (index >= inputs->inputs.size())
      fail(Status::not_found, "input ", index, "; there are ", inputs->inputs.size(), " inputs");
    const std::string_view asked = api::text_argument(query, query_length, "query");
    if (query) check_query(asked);
    *count = api::copy_ids(query ? inputs->inputs.for_reranking(*model->loaded, index, asked)
                                 : inputs->inputs.for_embedding(*model->loaded, index),
                           ids, capacity);
  });
}

int32_t qwen_embed(qwen_engine* engine, const qwen_inputs* inputs, int64_t dimensions,
                   const qwen_options* options, qwen_progress_fn progress, void* user, qwen_tensors** tensors,
                   qwen_error** error) {
  return api::guard(error, [&](DefaultFloatEnvironment& floats) {
    api::require(engine, "engine");
    api::require(tensors, "tensors");
    engine->owner.check("engine");
    const TextInputs& texts = checked(inputs);
    const LoadedModel& loaded = engine->engine.loaded();
    const int64_t hidden_size = loaded.model->config().hidden_size;
    if (dimensions != 0 && (dimensions < 32 || dimensions > hidden_size))
      fail(Status::invalid_argument, "dimensions is ", dimensions, "; it must be from 32 to ", hidden_size,
           ", the model's hidden_size, or 0 for all");
    const int64_t width = dimensions == 0 ? hidden_size : dimensions;
    const auto make = [&](size_t index) {
      RequestInput input;
      input.prompt = texts.for_embedding(loaded, index);
      input.tensors.last_hidden = true;
      return input;
    };
    const auto take = [](const Request& request, std::span<float> values) {
      write_embedding(request.last_hidden, values);
    };
    auto handle = compute(*engine, texts, width, options, host_progress(progress, user, floats), make, take);
    handle->name = "embeddings";
    handle->shape = {static_cast<int64_t>(texts.size()), width};
    *tensors = handle.release();
  });
}

int32_t qwen_rerank(qwen_engine* engine, const char* query, size_t query_length, const qwen_inputs* inputs,
                    const qwen_options* options, qwen_progress_fn progress, void* user,
                    qwen_tensors** tensors, qwen_error** error) {
  return api::guard(error, [&](DefaultFloatEnvironment& floats) {
    api::require(engine, "engine");
    api::require(tensors, "tensors");
    engine->owner.check("engine");
    const TextInputs& documents = checked(inputs);
    const std::string asked(api::text_argument(query, query_length, "query"));
    check_query(asked);
    const LoadedModel& loaded = engine->engine.loaded();
    if (!loaded.model->has_head())
      fail(Status::unsupported,
           "this checkpoint has no lm_head.weight: it is an embedding model, no reranker");
    const AnswerTokens answers = answer_tokens(loaded);
    const auto make = [&](size_t index) {
      RequestInput input;
      input.prompt = documents.for_reranking(loaded, index, asked);
      input.tensors.logits = true;
      input.tensors.logits_of = {answers.yes, answers.no};
      return input;
    };
    const auto take = [](const Request& request, std::span<float> values) {
      values[0] = yes_probability(request.logits[0], request.logits[1]);
    };
    auto handle = compute(*engine, documents, 1, options, host_progress(progress, user, floats), make, take);
    handle->name = "scores";
    handle->shape = {static_cast<int64_t>(documents.size())};
    *tensors = handle.release();
  });
}

}  // extern "C"
