// What is the same of every device.
#include "backend/cuda/device.h"

#include "base/error.h"

namespace qwen::cuda {

void Stream::free(Memory& memory) {
  if (memory.data() == nullptr) return;
  synchronize();
  ++freed_;
  memory = {};
}

void no_such_gpu(int ordinal, int count) {
  fail(Status::unsupported, "option 'device' asks for GPU ", ordinal, "; this machine has ", count,
       ", counted from 0");
}

void out_of_memory(const Device& device, size_t bytes, std::string_view purpose) {
  fail(Status::out_of_memory, "cannot allocate ", bytes, " bytes for ", purpose, " on GPU ",
       device.info().ordinal, "; ", device.free_bytes(), " bytes are free");
}

bool launchable(int64_t x, int64_t y, int64_t z, const std::source_location& where) {
  constexpr int64_t kMostX = 0x7fffffff, kMost = 0xffff;
  if (x < 0 || y < 0 || z < 0 || x > kMostX || y > kMost || z > kMost)
    fail(Status::internal, where.file_name(), ":", where.line(), " launches a grid of ", x, " x ", y, " x ",
         z, " blocks; at most ", kMostX, " x ", kMost, " x ", kMost);
  return x > 0 && y > 0 && z > 0;
}

}  // namespace qwen::cuda
