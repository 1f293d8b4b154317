// The internal enums and the header's must agree: api/ passes them on as numbers.
#include "api/handles.h"

using namespace qwen;

#define SAME(inside, outside) static_assert(static_cast<int32_t>(inside) == static_cast<int32_t>(outside))
SAME(Status::ok, QWEN_OK);
SAME(Status::invalid_argument, QWEN_ERR_INVALID_ARGUMENT);
SAME(Status::not_found, QWEN_ERR_NOT_FOUND);
SAME(Status::io, QWEN_ERR_IO);
SAME(Status::invalid_file, QWEN_ERR_INVALID_FILE);
SAME(Status::unsupported, QWEN_ERR_UNSUPPORTED);
SAME(Status::out_of_memory, QWEN_ERR_OUT_OF_MEMORY);
SAME(Status::cancelled, QWEN_ERR_CANCELLED);
SAME(Status::closed, QWEN_ERR_CLOSED);
SAME(Status::timeout, QWEN_ERR_TIMEOUT);
SAME(Status::callback, QWEN_ERR_CALLBACK);
SAME(Status::forked, QWEN_ERR_FORKED);
SAME(Status::busy, QWEN_ERR_BUSY);
SAME(Status::internal, QWEN_ERR_INTERNAL);
SAME(OptionType::i64, QWEN_OPTION_I64);
SAME(OptionType::f64, QWEN_OPTION_F64);
SAME(OptionType::str, QWEN_OPTION_STR);
SAME(OptionType::i32_array, QWEN_OPTION_I32_ARRAY);
SAME(OptionType::str_array, QWEN_OPTION_STR_ARRAY);
SAME(OptionType::bias, QWEN_OPTION_BIAS);
SAME(OptionType::callback, QWEN_OPTION_CALLBACK);
SAME(OptionScope::engine, QWEN_SCOPE_ENGINE);
SAME(OptionScope::request, QWEN_SCOPE_REQUEST);
SAME(EventType::text, QWEN_EVENT_TEXT);
SAME(EventType::finished, QWEN_EVENT_FINISHED);
SAME(EventType::done, QWEN_EVENT_DONE);
SAME(EventType::tool_call, QWEN_EVENT_TOOL_CALL);
SAME(FinishReason::none, QWEN_FINISH_NONE);
SAME(FinishReason::stop, QWEN_FINISH_STOP);
SAME(FinishReason::length, QWEN_FINISH_LENGTH);
SAME(FinishReason::cancelled, QWEN_FINISH_CANCELLED);
SAME(FinishReason::error, QWEN_FINISH_ERROR);
SAME(Channel::answer, QWEN_CHANNEL_ANSWER);
SAME(Channel::reasoning, QWEN_CHANNEL_REASONING);
#undef SAME
