// Adapters of an engine: loaded, unloaded, listed. Requests name theirs by the option "adapter".
#include <cstring>

#include "api/handles.h"

using namespace qwen;

extern "C" {

int32_t qwen_engine_load_adapter(qwen_engine* engine, const char* path, const char* name,
                                 qwen_error** error) {
  return api::guard(error, [&] {
    api::require(engine, "engine");
    api::require(path, "path");
    api::require(name, "name");
    engine->owner.check("engine");
    engine->engine.load_adapter(path, name);
  });
}

int32_t qwen_engine_unload_adapter(qwen_engine* engine, const char* name, qwen_error** error) {
  return api::guard(error, [&] {
    api::require(engine, "engine");
    api::require(name, "name");
    engine->owner.check("engine");
    engine->engine.unload_adapter(name);
  });
}

int32_t qwen_engine_adapter_info_get(const qwen_engine* engine, const char* after, qwen_adapter_info* info,
                                     qwen_error** error) {
  return api::guard(error, [&] {
    api::require(engine, "engine");
    engine->owner.check("engine");
    const auto adapter = engine->engine.adapters().next(after ? after : "");
    if (!adapter) fail(Status::not_found, "there is no adapter behind ", quote(after ? after : ""));
    api::write_struct(info,
                      {.struct_size = 0,
                       .rank = static_cast<int32_t>(adapter->rank),
                       .parameters = adapter->parameters,
                       .name = engine->kept(adapter->name),
                       .path = engine->kept(adapter->path)},
                      "info");
  });
}

}  // extern "C"
