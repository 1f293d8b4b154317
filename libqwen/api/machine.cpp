#include "api/handles.h"

using namespace qwen;

extern "C" {

int32_t qwen_measure_machine(const qwen_options* options, qwen_machine* machine, qwen_error** error) {
  return api::guard(error, [&] {
    api::check_struct(machine, "machine");  // not only when the time is spent
    const MachineLimits limits = measure_machine(api::options_for(OptionScope::engine, options));
    api::write_struct(machine,
                      {.struct_size = 0,
                       .threads = limits.threads,
                       .read_bytes_per_second = limits.read_bytes_per_second,
                       .flops_per_second = limits.flops_per_second,
                       .buffer_bytes = limits.buffer_bytes,
                       .level = limits.level.data(),
                       .dtype = limits.precision == Precision::f32 ? "f32" : "bf16"},
                      "machine");
  });
}

}  // extern "C"
