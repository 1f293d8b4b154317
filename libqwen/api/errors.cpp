// Versions, status, errors, log.
#include "api/guard.h"
#include "api/version.h"
#include "backend/backend.h"
#include "base/immortal.h"
#include "base/log.h"

namespace qwen::api {
namespace {

// Handed out when there is no memory for a real one; qwen_error_free leaves it alone.
qwen_error* out_of_memory_error() {
  static Immortal<qwen_error> error(QWEN_ERR_OUT_OF_MEMORY, "out of memory");
  return &*error;
}

}  // namespace

int32_t report(qwen_error** error, int32_t code, const char* message) noexcept {
  if (!error) return code;
  try {
    *error = new qwen_error{code, message};
  } catch (...) {
    *error = out_of_memory_error();
  }
  return code;
}

}  // namespace qwen::api

using namespace qwen;

extern "C" {

uint32_t qwen_abi_version(void) {
  return QWEN_ABI_VERSION;
}

const char* qwen_version(void) {
  return QWEN_VERSION_TEXT;
}

const char* qwen_build_info(void) {
  // Function-local: made at first use, nothing runs when the library is loaded.
  static const std::string* const text = [] {
    std::string isa;
    for (const std::string& level : cpu_isa_levels()) isa += (isa.empty() ? "\"" : ", \"") + level + "\"";
    return new std::string(cat("{\"version\": \"", QWEN_VERSION_TEXT,
                               "\", \"abi\": ", static_cast<int>(QWEN_ABI_VERSION), ", \"compiler\": \"",
                               __VERSION__, "\", \"backends\": [\"cpu\"",
                               has_cuda_backend() ? ", \"cuda\"" : "", "], \"cpu_isa\": [", isa, "]}"));
  }();
  return text->c_str();
}

int32_t qwen_error_code(const qwen_error* error) {
  return error ? error->code : static_cast<int32_t>(QWEN_OK);
}

const char* qwen_error_message(const qwen_error* error) {
  return error ? error->message.c_str() : "";
}

void qwen_error_free(qwen_error* error) {
  if (error != api::out_of_memory_error()) delete error;
}

const char* qwen_status_name(int32_t status) {
  switch (status) {
    case QWEN_OK:
      return "QWEN_OK";
    case QWEN_ERR_INVALID_ARGUMENT:
      return "QWEN_ERR_INVALID_ARGUMENT";
    case QWEN_ERR_NOT_FOUND:
      return "QWEN_ERR_NOT_FOUND";
    case QWEN_ERR_IO:
      return "QWEN_ERR_IO";
    case QWEN_ERR_INVALID_FILE:
      return "QWEN_ERR_INVALID_FILE";
    case QWEN_ERR_UNSUPPORTED:
      return "QWEN_ERR_UNSUPPORTED";
    case QWEN_ERR_OUT_OF_MEMORY:
      return "QWEN_ERR_OUT_OF_MEMORY";
    case QWEN_ERR_CANCELLED:
      return "QWEN_ERR_CANCELLED";
    case QWEN_ERR_CLOSED:
      return "QWEN_ERR_CLOSED";
    case QWEN_ERR_TIMEOUT:
      return "QWEN_ERR_TIMEOUT";
    case QWEN_ERR_CALLBACK:
      return "QWEN_ERR_CALLBACK";
    case QWEN_ERR_FORKED:
      return "QWEN_ERR_FORKED";
    case QWEN_ERR_BUSY:
      return "QWEN_ERR_BUSY";
    case QWEN_ERR_INTERNAL:
      return "QWEN_ERR_INTERNAL";
    default:
      return "unknown status";
  }
}

int32_t qwen_log_set(qwen_log_fn sink, void* user, int32_t level, qwen_error** error) {
  return api::guard(error, [&] {
    if (sink && (level < QWEN_LOG_ERROR || level > QWEN_LOG_DEBUG))
      fail(Status::invalid_argument, "level is ", level, "; allowed are ", static_cast<int>(QWEN_LOG_ERROR),
           " to ", static_cast<int>(QWEN_LOG_DEBUG));
    set_log_sink(sink, user, static_cast<LogLevel>(level));
  });
}

}  // extern "C"
