// Prompts: what a host puts together, and what a model would make of it.
#include <cstring>

#include "api/handles.h"

using namespace qwen;

extern "C" {

int32_t qwen_prompt_new(qwen_prompt** prompt, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(prompt, "prompt");
    *prompt = new qwen_prompt();
  });
}

void qwen_prompt_free(qwen_prompt* prompt) {
  delete prompt;
}

int32_t qwen_prompt_add_text(qwen_prompt* prompt, const char* text, size_t length, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(prompt, "prompt");
    prompt->prompt.add_text(std::string(api::text_argument(text, length, "text")));
  });
}

int32_t qwen_prompt_add_tokens(qwen_prompt* prompt, const int32_t* ids, size_t count, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(prompt, "prompt");
    if (count > 0) api::require(ids, "ids");
    prompt->prompt.add_tokens({ids, ids + count});
  });
}

int32_t qwen_prompt_add_message(qwen_prompt* prompt, const char* role, const char* content, size_t length,
                                qwen_error** error) {
  return api::guard(error, [&] {
    api::require(prompt, "prompt");
    api::require(role, "role");
    prompt->prompt.add_message(role, api::text_argument(content, length, "content"));
  });
}

int32_t qwen_prompt_add_message_json(qwen_prompt* prompt, const char* json, size_t length,
                                     qwen_error** error) {
  return api::guard(error, [&] {
    api::require(prompt, "prompt");
    prompt->prompt.add_message_json(api::text_argument(json, length, "json"));
  });
}

int32_t qwen_prompt_set_tools(qwen_prompt* prompt, const char* json, size_t length, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(prompt, "prompt");
    prompt->prompt.set_tools(api::text_argument(json, length, "json"));
  });
}

int32_t qwen_prompt_set_variables(qwen_prompt* prompt, const char* json, size_t length, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(prompt, "prompt");
    prompt->prompt.set_variables(api::text_argument(json, length, "json"));
  });
}

int32_t qwen_prompt_render(const qwen_prompt* prompt, const qwen_model* model, const qwen_options* options,
                           char* text, size_t capacity, size_t* length, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(prompt, "prompt");
    api::require(model, "model");
    api::require(length, "length");
    if (capacity > 0) api::require(text, "text");
    const Options& given = api::options_for(OptionScope::request, options);
    const std::string rendered =
        prompt->prompt.render(*model->loaded, given.i64_or_default("reasoning_mode"));
    *length = api::copy_text(rendered, text, capacity);
  });
}

int32_t qwen_prompt_encode(const qwen_prompt* prompt, const qwen_model* model, const qwen_options* options,
                           int32_t* ids, size_t capacity, size_t* count, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(prompt, "prompt");
    api::require(model, "model");
    api::require(count, "count");
    if (capacity > 0) api::require(ids, "ids");
    const Options& given = api::options_for(OptionScope::request, options);
    const auto encoded = prompt->prompt.encode(*model->loaded, given.i64_or_default("reasoning_mode"));
    *count = api::copy_ids(encoded, ids, capacity);
  });
}

}  // extern "C"
