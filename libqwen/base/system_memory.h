// What the machine could still give out.
#pragma once

#include <cstdint>

namespace qwen {

// Bytes, page cache that can be given up included; 0: unknown.
int64_t available_memory();

}  // namespace qwen
