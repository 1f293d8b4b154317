// What hosts read at the end: results of generation; tensors, and the forward pass they come from.
#include <algorithm>
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

// A tensor of qwen_forward; without values: there is none of that name.
struct ForwardTensor {
  std::span<const float> values;
  int64_t rows = 0, width = 0;
};

ForwardTensor forward_tensor(const qwen_tensors& tensors, size_t sequence, std::string_view name) {
  const auto& [request, rows] = tensors.sequences[sequence];
  constexpr std::string_view kHidden = "hidden.";
  if (name == "logits") return {request->logits, rows, tensors.vocab_size};
  if (name == "mtp_logits") return {request->mtp_logits, rows - 1, tensors.vocab_size};
  if (!name.starts_with(kHidden)) return {};
  const std::string_view digits = name.substr(kHidden.size());
  size_t layer = 0;
  const auto [end, bad] = std::from_chars(digits.data(), digits.data() + digits.size(), layer);
  if (bad != std::errc() || end != digits.data() + digits.size() || layer >= request->hidden_states.size())
    return {};
  const std::vector<float>& states = request->hidden_states[layer];
  return {states, rows,
          static_cast<int64_t>(states.size()) / rows};  // some models' streams are wider than hidden_size
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
      handle->prompt_tokens += outcome.stats.prompt_tokens;
      handle->cached_tokens += outcome.stats.cached_tokens;
    }
    *tensors = handle.release();
  });
}

int32_t qwen_tensors_get(const qwen_tensors* tensors, size_t sequence, const char* name, qwen_tensor* tensor,
                         qwen_error** error) {
  return api::guard(error, [&] {
    api::require(tensors, "tensors");
    api::require(name, "name");
    const bool forward = tensors->name.empty();
    const size_t sequences = forward ? tensors->sequences.size() : 1;
    if (sequence >= sequences)
      fail(Status::not_found, "sequence ", sequence, "; there ", sequences == 1 ? "is " : "are ", sequences);
    std::span<const float> values;
    std::vector<int64_t> shape = tensors->shape;
    if (forward) {
      const ForwardTensor found = forward_tensor(*tensors, sequence, name);
      const size_t states = tensors->sequences[sequence].request->hidden_states.size();
      if (found.values.empty())
        fail(Status::not_found, "there is no tensor ", quote(name),
             "; 'logits', 'mtp_logits' and 'hidden.0' … 'hidden.", states == 0 ? 0 : states - 1,
             "' exist where they were asked for");
      values = found.values;
      shape = {found.rows, found.width};
    } else {
      if (name != tensors->name)
        fail(Status::not_found, "there is no tensor ", quote(name), "; there is ", quote(tensors->name));
      values = tensors->values;
    }
    qwen_tensor full{};
    full.dtype = QWEN_DTYPE_F32;
    full.data = values.data();
    full.bytes = values.size_bytes();
    full.dimensions = shape.size();
    std::copy(shape.begin(), shape.end(), full.shape);
    api::write_struct(tensor, full, "tensor");
  });
}

int32_t qwen_tensors_stats_get(const qwen_tensors* tensors, qwen_stats* stats, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(tensors, "tensors");
    qwen_stats full{};
    full.prompt_tokens = tensors->prompt_tokens;
    full.cached_tokens = tensors->cached_tokens;
    api::write_struct(stats, full, "stats");
  });
}

void qwen_tensors_free(qwen_tensors* tensors) {
  delete tensors;
}

}  // extern "C"
