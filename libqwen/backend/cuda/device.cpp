// What is the same of every device.
#include "backend/cuda/device.h"

#include "base/error.h"

namespace qwen::cuda {

bool launchable(int64_t x, int64_t y, int64_t z, const std::source_location& where) {
  constexpr int64_t kMostX = 0x7fffffff, kMost = 0xffff;
  if (x < 0 || y < 0 || z < 0 || x > kMostX || y > kMost || z > kMost)
    fail(Status::internal, where.file_name(), ":", where.line(), " launches a grid of ", x, " x ", y, " x ",
         z, " blocks; at most ", kMostX, " x ", kMost, " x ", kMost);
  return x > 0 && y > 0 && z > 0;
}

}  // namespace qwen::cuda
