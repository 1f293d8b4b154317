#include <cstring>

#include "api/handles.h"

using namespace qwen;

extern "C" {

int32_t qwen_tokenizer_open(const char* path, qwen_tokenizer** tokenizer, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(path, "path");
    api::require(tokenizer, "tokenizer");
    *tokenizer = new qwen_tokenizer{Tokenizer::open(path)};
  });
}

void qwen_tokenizer_free(qwen_tokenizer* tokenizer) {
  delete tokenizer;
}

int32_t qwen_tokenizer_encode(const qwen_tokenizer* tokenizer, const char* text, size_t length,
                              uint32_t flags, int32_t* ids, size_t capacity, size_t* count,
                              qwen_error** error) {
  return api::guard(error, [&] {
    api::require(tokenizer, "tokenizer");
    api::require(count, "count");
    if (capacity > 0) api::require(ids, "ids");
    if (flags & ~static_cast<uint32_t>(QWEN_ENCODE_PLAIN))
      fail(Status::invalid_argument, "flags ", flags, " are not QWEN_ENCODE_…");
    const auto encoded = tokenizer->tokenizer->encode(api::text_argument(text, length, "text"),
                                                      (flags & QWEN_ENCODE_PLAIN) == 0);
    *count = api::copy_ids(encoded, ids, capacity);
  });
}

int32_t qwen_tokenizer_decode(const qwen_tokenizer* tokenizer, const int32_t* ids, size_t count,
                              uint32_t flags, char* text, size_t capacity, size_t* length,
                              qwen_error** error) {
  return api::guard(error, [&] {
    api::require(tokenizer, "tokenizer");
    api::require(length, "length");
    if (count > 0) api::require(ids, "ids");
    if (capacity > 0) api::require(text, "text");
    if (flags & ~static_cast<uint32_t>(QWEN_DECODE_SKIP_SPECIAL))
      fail(Status::invalid_argument, "flags ", flags, " are not QWEN_DECODE_…");
    const std::string decoded =
        tokenizer->tokenizer->decode({ids, count}, (flags & QWEN_DECODE_SKIP_SPECIAL) != 0);
    *length = api::copy_text(decoded, text, capacity);
  });
}

int32_t qwen_tokenizer_size(const qwen_tokenizer* tokenizer) {
  return tokenizer ? tokenizer->tokenizer->size() : 0;
}

int32_t qwen_tokenizer_token_id(const qwen_tokenizer* tokenizer, const char* text, size_t length) {
  if (!tokenizer || (!text && length > 0)) return -1;
  return tokenizer->tokenizer->find({text ? text : "", length});
}

}  // extern "C"
