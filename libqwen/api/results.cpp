// What hosts read at the end: results of generation, tensors of qwen_forward.
#include <charconv>

#include "api/handles.h"

using namespace qwen;

namespace {

const ChoiceOutcome& choice_of(const qwen_result* result, size_t index) {
  api::require(result, "result");
  const auto& choices = result->outcome.choices;
  if (index >= choices.size())
    fail(Status::not_found, "choice index ", index, "; the result has ", choices.size(), " choices");
  return choices[index];
}

}  // namespace

extern "C" {

size_t qwen_result_choice_count(const qwen_result* result) {
  return result ? result->outcome.choices.size() : 0;
}

int32_t qwen_result_choice_get(const qwen_result* result, size_t index, qwen_choice* choice,
                               qwen_error** error) {
  return api::guard(error, [&] {
    const ChoiceOutcome& outcome = choice_of(result, index);
    const auto& stop = outcome.stop_text;
    api::write_struct(choice,
                      {.struct_size = 0,
                       .finish_reason = static_cast<int32_t>(outcome.finish_reason),
                       .text = outcome.text.c_str(),
                       .text_length = outcome.text.size(),
                       .reasoning = outcome.reasoning.c_str(),
                       .reasoning_length = outcome.reasoning.size(),
                       .token_ids = outcome.token_ids.data(),
                       .logprobs = api::pointer_or_null(outcome.logprobs),
                       .token_count = outcome.token_ids.size(),
                       .tool_call_count = outcome.tool_calls.size(),
                       .stop_text = stop ? stop->c_str() : nullptr,
                       .stop_text_length = stop ? stop->size() : 0,
                       .top_token_ids = api::pointer_or_null(outcome.top_token_ids),
                       .top_logprobs = api::pointer_or_null(outcome.top_logprobs),
                       .top_count = api::per_token(outcome.top_token_ids, outcome.token_ids)},
                      "choice");
  });
}

int32_t qwen_result_tool_call_get(const qwen_result* result, size_t choice, size_t index,
                                  qwen_tool_call* call, qwen_error** error) {
  return api::guard(error, [&] {
    const auto& calls = choice_of(result, choice).tool_calls;
    if (index >= calls.size())
      fail(Status::not_found, "tool call index ", index, "; the choice has ", calls.size(), " tool calls");
    const ToolCall& found = calls[index];
    api::write_struct(call,
                      {.struct_size = 0,
                       .reserved = 0,
                       .name = found.name.c_str(),
                       .name_length = found.name.size(),
                       .arguments = found.arguments.c_str(),
                       .arguments_length = found.arguments.size()},
                      "call");
  });
}

int32_t qwen_result_stats_get(const qwen_result* result, qwen_stats* stats, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(result, "result");
    const RequestStats& measured = result->outcome.stats;
    api::write_struct(stats,
                      {.struct_size = 0,
                       .reserved = 0,
                       .prompt_tokens = measured.prompt_tokens,
                       .cached_tokens = measured.cached_tokens,
                       .generated_tokens = measured.generated_tokens,
                       .queued_seconds = measured.queued_seconds,
                       .prompt_seconds = measured.prompt_seconds,
                       .generate_seconds = measured.generate_seconds,
                       .first_token_seconds = measured.first_token_seconds,
                       .seed = measured.seed,
                       .inter_token_p50_seconds = measured.inter_token_p50_seconds,
                       .inter_token_p99_seconds = measured.inter_token_p99_seconds,
                       .inter_token_max_seconds = measured.inter_token_max_seconds},
                      "stats");
  });
}

int32_t qwen_result_prompt_logprobs_get(const qwen_result* result, const float** logprobs, size_t* count,
                                        qwen_error** error) {
  return api::guard(error, [&] {
    api::require(result, "result");
    api::require(logprobs, "logprobs");
    api::require(count, "count");
    *logprobs = api::pointer_or_null(result->outcome.prompt_logprobs);
    *count = result->outcome.prompt_logprobs.size();
  });
}

void qwen_result_free(qwen_result* result) {
  delete result;
}

int32_t qwen_forward(qwen_engine* engine, const int32_t* token_ids, const size_t* counts,
                     const size_t* first_rows, size_t sequences, uint32_t outputs,
                     const qwen_options* options, qwen_tensors** tensors, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(engine, "engine");
    api::require(tensors, "tensors");
    engine->owner.check("engine");
    constexpr uint32_t kAll = QWEN_OUTPUT_LOGITS | QWEN_OUTPUT_HIDDEN_STATES | QWEN_OUTPUT_MTP_LOGITS;
    if (outputs == 0 || (outputs & ~kAll) != 0)
      fail(Status::invalid_argument, "outputs is ", outputs, "; it must be QWEN_OUTPUT_… values or-ed");
    if (sequences == 0) fail(Status::invalid_argument, "sequences is 0; it must be at least 1");
    api::require(counts, "counts");
    const LoadedModel& loaded = engine->engine.loaded();
    const int64_t vocab_size = loaded.model->config().vocab_size;
    const Options& given = api::options_for(OptionScope::request, options);
    const SamplingParams params =
        resolve_sampling(given, loaded.generation, vocab_size, loaded.tokenizer.get());
    const auto adapter = engine->engine.adapters().find(given.str_or_default("adapter"));

    const auto queue = std::make_shared<EventQueue>();
    std::vector<std::shared_ptr<Request>> requests;
    for (size_t i = 0; i < sequences; token_ids += counts[i++]) {
      // Checked before a token is read: a wrong count must not run past the caller's memory further than it has to.
      if (counts[i] > static_cast<size_t>(engine->engine.context_length()))
        fail(Status::invalid_argument, "counts[", i, "] is ", counts[i], "; the context length is ",
             engine->engine.context_length(), " tokens");
      if (counts[i] > 0) api::require(token_ids, "token_ids");  // lists without a token need no memory
      const size_t first_row = first_rows ? first_rows[i] : 0;
      if (first_row > 0 && first_row >= counts[i])
        fail(Status::invalid_argument, "first_rows[", i, "] is ", first_row, "; it must be below counts[", i,
             "], which is ", counts[i]);
      RequestInput input;
      input.prompt.assign(token_ids, token_ids + counts[i]);
      input.params = params;
      input.params.n = 1;
      input.queue = queue;
      input.adapter = adapter;
      input.tensors = {.logits = (outputs & QWEN_OUTPUT_LOGITS) != 0,
                       .hidden_states = (outputs & QWEN_OUTPUT_HIDDEN_STATES) != 0,
                       .mtp_logits = (outputs & QWEN_OUTPUT_MTP_LOGITS) != 0,
                       .first_row = static_cast<int64_t>(first_row)};
      requests.push_back(engine->engine.make_request(std::move(input)));
    }
    auto handle = std::make_unique<qwen_tensors>();
    handle->vocab_size = vocab_size;
    handle->hidden_size = loaded.model->config().hidden_size;
    for (const auto& request : requests)
      handle->sequences.push_back({request, static_cast<int64_t>(request->input().prompt.size()) -
                                                request->input().tensors.first_row});

    size_t submitted = 0;
    try {
      for (; submitted < requests.size(); ++submitted) engine->engine.submit(requests[submitted]);
    } catch (...) {
      for (const auto& request : requests) request->cancel();  // those that were taken end by themselves
      throw;
    }
    for (size_t done = 0; done < requests.size();) done += queue->pop(-1)->type == EventType::done;
    for (const auto& request : requests) {
      const RequestOutcome outcome = request->outcome();
      if (outcome.status != Status::ok) throw Error(outcome.status, outcome.message);
    }
    *tensors = handle.release();
  });
}

int32_t qwen_tensors_get(const qwen_tensors* tensors, size_t sequence, const char* name, qwen_tensor* tensor,
                         qwen_error** error) {
  return api::guard(error, [&] {
    api::require(tensors, "tensors");
    api::require(name, "name");
    if (sequence >= tensors->sequences.size())
      fail(Status::not_found, "sequence ", sequence, "; there are ", tensors->sequences.size());
    const auto& [request, request_rows] = tensors->sequences[sequence];
    int64_t rows = request_rows;
    const std::vector<float>* values = nullptr;
    int64_t width = tensors->hidden_size;
    const std::string_view wanted = name;
    constexpr std::string_view kHidden = "hidden.";
    if (wanted == "logits") {
      values = &request->logits;
      width = tensors->vocab_size;
    } else if (wanted == "mtp_logits") {
      values = &request->mtp_logits;
      width = tensors->vocab_size;
      rows -= 1;
    } else if (wanted.starts_with(kHidden)) {
      const std::string_view digits = wanted.substr(kHidden.size());
      size_t layer = 0;
      const auto [end, bad] = std::from_chars(digits.data(), digits.data() + digits.size(), layer);
      if (bad == std::errc() && end == digits.data() + digits.size() && layer < request->hidden_states.size())
        values = &request->hidden_states[layer];
    }
    if (!values || values->empty())
      fail(Status::not_found, "there is no tensor ", quote(wanted),
           "; 'logits', 'mtp_logits' and 'hidden.0' … 'hidden.",
           request->hidden_states.empty() ? 0 : request->hidden_states.size() - 1,
           "' exist where they were asked for");
    qwen_tensor full{};
    full.dtype = QWEN_DTYPE_F32;
    full.data = values->data();
    full.bytes = values->size() * sizeof(float);
    full.dimensions = 2;
    full.shape[0] = rows;
    full.shape[1] = width;
    api::write_struct(tensor, full, "tensor");
  });
}

void qwen_tensors_free(qwen_tensors* tensors) {
  delete tensors;
}

}  // extern "C"
