// How numbers lie in device memory, and what launches take for granted.
#pragma once

#include <cstdint>

namespace qwen::cuda {

enum class Element : uint8_t { f32, bf16 };

inline constexpr int kUsualMultiprocessors = 132;  // of an H100 and H200

}  // namespace qwen::cuda
