#include "api/handles.h"

using namespace qwen;

namespace {

DType dtype_argument(int32_t dtype) {
  switch (dtype) {
    case QWEN_DTYPE_F32:
      return DType::f32;
    case QWEN_DTYPE_F16:
      return DType::f16;
    case QWEN_DTYPE_BF16:
      return DType::bf16;
    default:
      fail(Status::invalid_argument, "dtype ", dtype, " is not one of QWEN_DTYPE_F32, _F16, _BF16");
  }
}

ModelReference make_handle(std::shared_ptr<const LoadedModel> loaded) {
  qwen_tokenizer tokenizer{loaded->tokenizer};
  return ModelReference(new qwen_model{std::move(loaded), std::move(tokenizer)});
}

}  // namespace

namespace qwen::api {

std::function<void(const StepTrace&)> step_trace(const Options& options) {
  const HostCallback callback = options.callback("trace");
  if (!callback.function) return nullptr;
  return [callback](const StepTrace& trace) {
    const qwen_step step{.struct_size = sizeof step,
                         .sequences = static_cast<int32_t>(trace.sequences),
                         .number = trace.number,
                         .prompt_rows = trace.prompt_rows,
                         .generate_rows = trace.generate_rows,
                         .running = trace.running,
                         .waiting = trace.waiting,
                         .preempted = trace.preempted,
                         .cache_blocks_used = trace.cache_blocks_used,
                         .schedule_seconds = trace.schedule_seconds,
                         .forward_seconds = trace.forward_seconds,
                         .sample_seconds = trace.sample_seconds};
    reinterpret_cast<qwen_step_fn>(callback.function)(&step, callback.user.get());
  };
}

}  // namespace qwen::api

extern "C" {

int32_t qwen_model_open(const char* path, const qwen_options* options, qwen_model** model,
                        qwen_error** error) {
  return api::guard(error, [&] {
    api::require(path, "path");
    api::require(model, "model");
    *model = const_cast<qwen_model*>(
        make_handle(open_model(path, api::options_for(OptionScope::engine, options))).release());
  });
}

void qwen_model_retain(const qwen_model* model) {
  if (model) model->retain();
}

void qwen_model_free(qwen_model* model) {
  if (model) model->release();
}

int32_t qwen_model_info_get(const qwen_model* model, qwen_model_info* info, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(model, "model");
    const ModelConfig& config = model->loaded->model->config();
    const ActiveWeights& active = model->loaded->model->active_weights();
    const CacheReads cache = cache_reads(*model->loaded->model, model->loaded->precision);
    api::write_struct(
        info,
        {.struct_size = 0,
         .vocab_size = static_cast<int32_t>(config.vocab_size),
         .hidden_size = static_cast<int32_t>(config.hidden_size),
         .num_hidden_layers = static_cast<int32_t>(config.num_hidden_layers),
         .num_attention_heads = static_cast<int32_t>(config.num_attention_heads),
         .num_key_value_heads = static_cast<int32_t>(config.num_key_value_heads),
         .head_dim = static_cast<int32_t>(config.head_dim),
         .has_tokenizer = model->loaded->tokenizer != nullptr,
         .has_chat_template = model->loaded->has_chat_template(),
         .context_length = config.context_length(),
         .parameters = model->loaded->model->parameters(),
         .weight_bytes = static_cast<int64_t>(model->loaded->model->weight_bytes()),
         .architecture = config.architecture.c_str(),
         .path = model->loaded->path.c_str(),
         .active_parameters = active.parameters,
         .active_weight_bytes = active.bytes,
         .active_expert_bytes = active.expert_bytes,
         .num_experts = config.moe ? static_cast<int32_t>(config.moe->num_experts) : 0,
         .num_experts_per_tok = config.moe ? static_cast<int32_t>(config.moe->num_experts_per_tok) : 0,
         .cache_token_bytes = cache.token_bytes,
         .window_token_bytes = cache.window_token_bytes,
         .window_tokens = cache.window_tokens,
         .state_bytes = cache.state_bytes},
        "info");
  });
}

const qwen_tokenizer* qwen_model_tokenizer(const qwen_model* model) {
  return model && model->tokenizer.tokenizer ? &model->tokenizer : nullptr;
}

int32_t qwen_weights_new(const char* config, size_t length, qwen_destroy_fn released, void* user,
                         qwen_weights** weights, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(weights, "weights");
    ModelConfig parsed = parse_model_config(api::text_argument(config, length, "config"), "config");
    std::function<void()> on_release;
    if (released) on_release = [released, user] { released(user); };
    *weights = new qwen_weights{std::move(parsed), std::make_shared<MemoryTensors>(std::move(on_release))};
  });
}

int32_t qwen_weights_add(qwen_weights* weights, const char* name, int32_t dtype, const int64_t* shape,
                         size_t dimensions, const void* data, size_t bytes, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(weights, "weights");
    api::require(name, "name");
    if (dimensions > 0) api::require(shape, "shape");
    if (dimensions > 8)
      fail(Status::invalid_argument, "dimensions is ", dimensions, "; at most 8 are allowed");
    if (bytes > 0) api::require(data, "data");
    weights->tensors->add(name, dtype_argument(dtype), {shape, shape + dimensions}, data, bytes);
  });
}

void qwen_weights_free(qwen_weights* weights) {
  delete weights;
}

int32_t qwen_model_from_weights(const qwen_weights* weights, const qwen_tokenizer* tokenizer,
                                const qwen_options* options, qwen_model** model, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(weights, "weights");
    api::require(model, "model");
    auto loaded = open_model(weights->config, weights->tensors, tokenizer ? tokenizer->tokenizer : nullptr,
                             api::options_for(OptionScope::engine, options));
    *model = const_cast<qwen_model*>(make_handle(std::move(loaded)).release());
  });
}

int32_t qwen_create(const char* path, const qwen_options* options, qwen_engine** engine, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(path, "path");
    api::require(engine, "engine");
    const Options& resolved = api::options_for(OptionScope::engine, options);
    const ModelReference model = make_handle(open_model(path, resolved));
    *engine = new qwen_engine(*model, resolved);
  });
}

int32_t qwen_engine_new(const qwen_model* model, const qwen_options* options, qwen_engine** engine,
                        qwen_error** error) {
  return api::guard(error, [&] {
    api::require(model, "model");
    api::require(engine, "engine");
    *engine = new qwen_engine(*model, api::options_for(OptionScope::engine, options));
  });
}

void qwen_destroy(qwen_engine* engine) {
  // A forked child has none of the engine's threads: there is nothing to stop, and waiting for them would hang.
  if (engine && engine->owner.is_this_process()) delete engine;
}

int32_t qwen_engine_drain(qwen_engine* engine, int64_t timeout_ms, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(engine, "engine");
    engine->owner.check("engine");
    engine->engine.drain(timeout_ms);
  });
}

const qwen_model* qwen_engine_model(const qwen_engine* engine) {
  return engine ? engine->model.get() : nullptr;
}

int32_t qwen_engine_stats_get(const qwen_engine* engine, qwen_engine_stats* stats, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(engine, "engine");
    engine->owner.check("engine");
    const EngineStats now = engine->engine.stats();
    api::write_struct(stats,
                      {.struct_size = 0,
                       .threads = engine->engine.threads(),
                       .running = now.running,
                       .waiting = now.waiting,
                       .finished = now.finished,
                       .steps = now.steps,
                       .prompt_tokens = now.prompt_tokens,
                       .generated_tokens = now.generated_tokens,
                       .cache_blocks_total = now.cache_blocks_total,
                       .cache_blocks_used = now.cache_blocks_used,
                       .cache_block_tokens = kCacheBlock,
                       .cache_bytes = now.cache_bytes,
                       .backend = engine->engine.backend_name().c_str(),
                       .cached_tokens = now.cached_tokens},
                      "stats");
  });
}

int32_t qwen_engine_counter_get(const qwen_engine* engine, size_t index, qwen_counter* counter,
                                qwen_error** error) {
  return api::guard(error, [&] {
    api::require(engine, "engine");
    engine->owner.check("engine");
    const auto counts = engine->engine.kernel_counts();
    if (index >= counts.size()) fail(Status::not_found, "counter index ", index, " is past the last one");
    api::write_struct(counter,
                      {.struct_size = 0,
                       .reserved = 0,
                       .value = counts[index].calls,
                       .name = engine->counter_names[index].c_str()},
                      "counter");
  });
}

}  // extern "C"
