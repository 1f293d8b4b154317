#include "api/handles.h"

using namespace qwen;

namespace {

// The context of a callback; destroyed with the last copy of the options.
struct Context {
  qwen_destroy_fn destroy = nullptr;
  void* user = nullptr;

  explicit Context(void* of_host) : user(of_host) {}
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context() {
    if (destroy) destroy(user);
  }
};

template <class Set>
int32_t set_option(qwen_options* options, const char* key, qwen_error** error, Set set) {
  return api::guard(error, [&] {
    api::require(options, "options");
    api::require(key, "key");
    set(options->options);
  });
}

}  // namespace

extern "C" {

int32_t qwen_options_new(qwen_options** options, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(options, "options");
    *options = new qwen_options();
  });
}

void qwen_options_free(qwen_options* options) {
  delete options;
}

int32_t qwen_options_set_i64(qwen_options* options, const char* key, int64_t value, qwen_error** error) {
  return set_option(options, key, error, [&](Options& o) { o.set(key, value); });
}

int32_t qwen_options_set_f64(qwen_options* options, const char* key, double value, qwen_error** error) {
  return set_option(options, key, error, [&](Options& o) { o.set(key, value); });
}

int32_t qwen_options_set_str(qwen_options* options, const char* key, const char* text, size_t length,
                             qwen_error** error) {
  return set_option(options, key, error,
                    [&](Options& o) { o.set(key, api::text_argument(text, length, "text")); });
}

int32_t qwen_options_set_i32_array(qwen_options* options, const char* key, const int32_t* values,
                                   size_t count, qwen_error** error) {
  return set_option(options, key, error, [&](Options& o) {
    if (count > 0) api::require(values, "values");
    o.set(key, std::vector<int32_t>(values, values + count));
  });
}

int32_t qwen_options_set_str_array(qwen_options* options, const char* key, const char* const* texts,
                                   const size_t* lengths, size_t count, qwen_error** error) {
  return set_option(options, key, error, [&](Options& o) {
    if (count > 0) {
      api::require(texts, "texts");
      api::require(lengths, "lengths");
    }
    std::vector<std::string> list;
    for (size_t i = 0; i < count; ++i)
      list.emplace_back(api::text_argument(texts[i], lengths[i], "texts[i]"));
    o.set(key, std::move(list));
  });
}

int32_t qwen_options_set_bias(qwen_options* options, const char* key, const int32_t* ids, const float* biases,
                              size_t count, qwen_error** error) {
  return set_option(options, key, error, [&](Options& o) {
    if (count > 0) {
      api::require(ids, "ids");
      api::require(biases, "biases");
    }
    TokenBias list;
    for (size_t i = 0; i < count; ++i) list.emplace_back(ids[i], biases[i]);
    o.set(key, std::move(list));
  });
}

int32_t qwen_options_set_callback(qwen_options* options, const char* key, qwen_callback_fn fn, void* user,
                                  qwen_destroy_fn destroy, qwen_error** error) {
  return set_option(options, key, error, [&](Options& o) {
    const auto context = std::make_shared<Context>(user);
    o.set(key, HostCallback{fn, std::shared_ptr<void>(context, user)});
    context->destroy = destroy;  // last: a failed call owes nothing, so destroy must not run
  });
}

int32_t qwen_option_info_get(size_t index, qwen_option_info* info, qwen_error** error) {
  return api::guard(error, [&] {
    const auto table = option_table();
    if (index >= table.size())
      fail(Status::not_found, "option index ", index, " is past the last one, ", table.size() - 1);
    const OptionRow& row = table[index];
    api::write_struct(info,
                      {.struct_size = 0,
                       .type = static_cast<int32_t>(row.type),
                       .scope = static_cast<int32_t>(row.scope),
                       .has_bounds = row.has_bounds,
                       .minimum = row.minimum,
                       .maximum = row.maximum,
                       .key = row.key,
                       .default_text = row.default_text,
                       .choices = row.choices,
                       .unit = row.unit,
                       .help = row.help},
                      "info");
  });
}

}  // extern "C"
