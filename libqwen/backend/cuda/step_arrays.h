// What the kernels read of a batch: ids, positions, and where its rows are in the cache. All of it is one piece of device memory, written
// by one copy at the head of a step; where in it an array begins hangs on how many rows, sequences, results and tilings there are
// and on nothing else, so that what was captured finds that of later steps at the same address. Tables, which grow, come last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/batch.h"
#include "backend/cuda/attention.h"
#include "backend/cuda/cuda_memory.h"
#include "backend/cuda/device.h"
#include "backend/cuda/paged.h"
#include "backend/cuda/recurrent.h"

namespace qwen::cuda {

class StepArrays {
 public:
  // tilings: for how many heads of one kv head attention's tiles are listed.
  void put(const Device& device, Stream& stream, const Batch& batch, std::span<const int64_t> tilings);
  void forget() { batch_ = nullptr; }  // the batch ends

  bool are_of(const Batch& batch) const { return batch_ == &batch; }
  // Batch::ids_from, and the ids that take its place: on the device.
  const int32_t* ids_from() const { return at<int32_t>(ids_from_at_); }
  int32_t* ids() { return const_cast<int32_t*>(at<int32_t>(ids_at_)); }
  // On the device, if this is the beginning of the batch's ids, positions or rows of results; or null.
  const void* find(const void* of_batch) const;

  std::span<const PagedSequence> sequences(int64_t group) const;  // on the host, as the next
  std::span<const int32_t> row_sequence() const { return row_sequence_; }
  PagedRows paged(int64_t group) const;
  RecurrentRows recurrent(int64_t group) const;
  struct Tiles {
    const AttentionTile* data = nullptr;
    int64_t count = 0;
  };
  Tiles tiles(int64_t tiling) const;  // none, if put() was not told of it
  // At least the positions of any sequence, the step's included: a power of two, for what is launched is to serve many steps.
  int64_t most_positions() const { return most_positions_; }

 private:
  template <class T>
  size_t append(std::span<const T> values);
  template <class T>
  const T* at(size_t offset) const {
    return reinterpret_cast<const T*>(static_cast<const std::byte*>(device_) + offset);
  }

  const Batch* batch_ = nullptr;
  std::vector<std::byte> bytes_;
  std::vector<PagedSequence> sequences_;  // [group][sequence]
  std::vector<int32_t> ids_from_, row_sequence_;
  std::vector<AttentionTile> tiles_;
  struct TilesAt {
    int64_t tiling;
    size_t offset;
    int64_t count;
  };
  std::vector<TilesAt> tiles_at_;
  size_t ids_at_ = 0, ids_from_at_ = 0, positions_at_ = 0, results_at_ = 0, sequences_at_ = 0,
         row_sequence_at_ = 0, tables_at_ = 0;
  int64_t most_positions_ = 0;
  HostArray array_{size_t{64} << 10};  // that it seldom moves
  const void* device_ = nullptr;
};

}  // namespace qwen::cuda
