// From a host's prompt to a request in the engine, and from the engine's events back to the host.
#include "api/handles.h"

using namespace qwen;

namespace qwen::api {

void fill_event(const Event& event, qwen_event* out) {
  write_struct(out,
               {.struct_size = 0,
                .type = static_cast<int32_t>(event.type),
                .choice = event.choice,
                .channel = static_cast<int32_t>(event.channel),
                .finish_reason = static_cast<int32_t>(event.finish_reason),
                .status = static_cast<int32_t>(event.status),
                .tag = event.request->input().tag,
                .text = event.text.c_str(),
                .text_length = event.text.size(),
                .token_ids = event.token_ids.data(),
                .logprobs = pointer_or_null(event.logprobs),
                .token_count = event.token_ids.size(),
                .message = event.type == EventType::done ? event.request->message().c_str() : "",
                .request = static_cast<const qwen_request*>(event.request->host_handle),
                .tool_name = event.call ? event.call->name.c_str() : nullptr,
                .tool_name_length = event.call ? event.call->name.size() : 0,
                .tool_arguments = event.call ? event.call->arguments.c_str() : nullptr,
                .tool_arguments_length = event.call ? event.call->arguments.size() : 0,
                .top_token_ids = pointer_or_null(event.top_token_ids),
                .top_logprobs = pointer_or_null(event.top_logprobs),
                .top_count = per_token(event.top_token_ids, event.token_ids)},
               "event");
}

}  // namespace qwen::api

namespace {

// The life of a token, step 1: check the arguments, render the chat, encode the text, make the request.
std::shared_ptr<Request> make_request(const qwen_engine& engine, const qwen_prompt* prompt,
                                      const qwen_options* options, std::shared_ptr<EventQueue> queue,
                                      uint64_t tag) {
  api::require(prompt, "prompt");
  engine.owner.check("engine");
  const LoadedModel& loaded = engine.engine.loaded();
  const Options& given = api::options_for(OptionScope::request, options);
  RequestInput input;
  input.params =
      resolve_sampling(given, loaded.generation, loaded.model->config().vocab_size, loaded.tokenizer.get());
  input.prompt = prompt->prompt.encode(loaded, given.i64_or_default("reasoning_mode"));
  const int64_t split = given.i64_or_default("split_reasoning");
  input.split_reasoning = split < 0 ? prompt->prompt.has_messages() : split == 1;
  if (input.params.reasoning_budget && !input.split_reasoning)
    fail(Status::invalid_argument,
         "option 'reasoning_budget' needs a prompt of messages, or split_reasoning: in raw text nothing is a "
         "thought");
  input.tools = prompt->prompt.tools();
  input.adapter = engine.engine.adapters().find(given.str_or_default("adapter"));
  input.priority = given.i64_or_default("priority");
  input.timeout_ms = given.i64("timeout_ms");
  input.tag = tag;
  input.queue = std::move(queue);
  return engine.engine.make_request(std::move(input));
}

// Calls the host for every event until the request is done. Returns the callback's negative number, or 0.
int32_t drain(Request& request, EventQueue& queue, qwen_event_fn on_event, void* user,
              DefaultFloatEnvironment& floats) {
  int32_t failure = 0;
  while (true) {
    const std::optional<Event> event = queue.pop(-1);
    if (on_event && failure == 0) {
      qwen_event out{};
      out.struct_size = sizeof out;
      api::fill_event(*event, &out);
      const int32_t answer = floats.in_host([&] { return on_event(&out, user); });
      if (answer == 1) request.stop();
      if (answer == 2 || answer < 0) request.cancel();
      if (answer < 0) failure = answer;
    }
    if (event->type == EventType::done) return failure;
  }
}

}  // namespace

extern "C" {

int32_t qwen_generate(qwen_engine* engine, const qwen_prompt* prompt, const qwen_options* options,
                      qwen_event_fn on_event, void* user, qwen_result** result, qwen_error** error) {
  return api::guard(error, [&](DefaultFloatEnvironment& floats) {
    api::require(engine, "engine");
    const auto queue = std::make_shared<EventQueue>();
    const auto request = make_request(*engine, prompt, options, queue, 0);
    auto handle = result ? std::make_unique<qwen_result>() : nullptr;
    engine->engine.submit(request);
    const int32_t failure = drain(*request, *queue, on_event, user, floats);
    RequestOutcome outcome = request->outcome();
    if (failure < 0) fail(Status::callback, "the event callback returned ", failure);
    if (outcome.status != Status::ok) throw Error(outcome.status, outcome.message);
    if (!handle) return;
    handle->outcome = std::move(outcome);
    *result = handle.release();
  });
}

int32_t qwen_submit(qwen_engine* engine, const qwen_prompt* prompt, const qwen_options* options,
                    qwen_queue* queue, uint64_t tag, qwen_request** request, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(engine, "engine");
    api::require(request, "request");
    if (queue) queue->owner.check("queue");
    auto handle = std::make_unique<qwen_request>();
    if (!queue) handle->own_queue = std::make_shared<EventQueue>();
    handle->request = make_request(*engine, prompt, options, queue ? queue->queue : handle->own_queue, tag);
    handle->request->host_handle = handle.get();
    engine->engine.submit(handle->request);
    *request = handle.release();
  });
}

int32_t qwen_request_next(qwen_request* request, int64_t timeout_ms, qwen_event* event, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(request, "request");
    api::require(event, "event");
    request->owner.check("request");
    if (!request->own_queue) fail(Status::invalid_argument, "this request's events go to its qwen_queue");
    if (request->done_taken) fail(Status::closed, "the request's last event has been taken");
    auto next = request->own_queue->pop(timeout_ms);
    if (!next) fail(Status::timeout, "no event within ", timeout_ms, " ms");
    request->current = std::move(next);
    request->done_taken = request->current->type == EventType::done;
    api::fill_event(*request->current, event);
  });
}

void qwen_request_cancel(qwen_request* request) {
  if (request && request->owner.is_this_process()) request->request->cancel();
}

void qwen_request_stop(qwen_request* request) {
  if (request && request->owner.is_this_process()) request->request->stop();
}

int32_t qwen_request_result(const qwen_request* request, qwen_result** result, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(request, "request");
    api::require(result, "result");
    request->owner.check("request");
    *result = new qwen_result{request->request->outcome()};
  });
}

void qwen_request_free(qwen_request* request) {
  // In a forked child the step thread that shares the request's locks does not exist: leave it alone.
  if (!request || !request->owner.is_this_process()) return;
  request->request->detach();
  request->request->cancel();
  delete request;
}

int32_t qwen_queue_new(qwen_queue** queue, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(queue, "queue");
    *queue = new qwen_queue();
  });
}

void qwen_queue_free(qwen_queue* queue) {
  if (queue && queue->owner.is_this_process()) delete queue;
}

int32_t qwen_queue_fd(const qwen_queue* queue) {
  if (!queue || !queue->owner.is_this_process()) return -1;
  int32_t descriptor = -1;
  api::guard(nullptr, [&] { descriptor = queue->queue->descriptor(); });
  return descriptor;
}

int32_t qwen_queue_next(qwen_queue* queue, int64_t timeout_ms, size_t* count, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(queue, "queue");
    api::require(count, "count");
    queue->owner.check("queue");
    auto taken = queue->queue->pop_all(timeout_ms);
    if (taken.empty()) fail(Status::timeout, "no event within ", timeout_ms, " ms");
    queue->taken = std::move(taken);
    *count = queue->taken.size();
  });
}

int32_t qwen_queue_event(const qwen_queue* queue, size_t index, qwen_event* event, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(queue, "queue");
    queue->owner.check("queue");
    if (index >= queue->taken.size())
      fail(Status::not_found, "event index ", index, "; the batch has ", queue->taken.size(), " events");
    api::fill_event(queue->taken[index], event);
  });
}

}  // extern "C"
