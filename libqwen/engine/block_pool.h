// The blocks of one cache group, given out and taken back. Used by the step thread only.
#pragma once

#include <cstdint>
#include <vector>

namespace qwen {

class BlockPool {
 public:
  explicit BlockPool(int64_t blocks) : total_(blocks) {
    free_.reserve(static_cast<size_t>(blocks));
    // Low ids on top, and last in first out: untouched memory stays untouched.
    for (int64_t id = blocks - 1; id >= 0; --id) free_.push_back(static_cast<int32_t>(id));
  }

  int64_t total() const { return total_; }
  int64_t available() const { return static_cast<int64_t>(free_.size()); }

  // Precondition: available() > 0.
  int32_t take() {
    const int32_t id = free_.back();
    free_.pop_back();
    return id;
  }
  void give_back(int32_t id) { free_.push_back(id); }

 private:
  int64_t total_;
  std::vector<int32_t> free_;
};

}  // namespace qwen
