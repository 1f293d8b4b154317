#include "backend/cuda/step_arrays.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace qwen::cuda {

template <class T>
size_t StepArrays::append(std::span<const T> values) {
  constexpr size_t kAlignment = 16;
  const size_t offset = (bytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
  bytes_.resize(offset + values.size_bytes());
  if (!values.empty()) std::memcpy(bytes_.data() + offset, values.data(), values.size_bytes());
  return offset;
}

void StepArrays::put(const Device& device, Stream& stream, const Batch& batch,
                     std::span<const int64_t> tilings) {
  batch_ = nullptr;
  bytes_.clear();
  sequences_.clear();
  row_sequence_.clear();
  tiles_at_.clear();
  const size_t groups = batch.sequences.empty() ? 0 : batch.sequences.front().block_tables.size();
  size_t table = 0, positions = kAttentionPart;
  for (size_t group = 0; group < groups; ++group)
    for (const SequenceRows& sequence : batch.sequences) {
      sequences_.push_back({.first_row = sequence.first_row,
                            .row_count = sequence.row_count,
                            .context_length = sequence.context_length,
                            .table = static_cast<int32_t>(table),
                            .slot = sequence.state_slot});
      table += sequence.block_tables[group].size();
    }
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const SequenceRows& sequence = batch.sequences[s];
    row_sequence_.insert(row_sequence_.end(), static_cast<size_t>(sequence.row_count),
                         static_cast<int32_t>(s));
    positions = std::max(positions, static_cast<size_t>(sequence.context_length + sequence.row_count));
  }
  most_positions_ = static_cast<int64_t>(std::bit_ceil(positions));

  ids_at_ = append(std::span<const int32_t>(batch.token_ids));
  ids_from_ = batch.ids_from;
  ids_from_.resize(batch.token_ids.size(), -1);
  ids_from_at_ = append(std::span<const int32_t>(ids_from_));
  positions_at_ = append(std::span<const std::array<int32_t, 3>>(batch.positions));
  results_at_ = append(std::span<const int32_t>(batch.logit_rows));
  row_sequence_at_ = append(std::span<const int32_t>(row_sequence_));
  sequences_at_ = append(std::span<const PagedSequence>(sequences_));
  for (const int64_t tiling : tilings) {
    list_attention_tiles(std::span(sequences_).first(sequences_.empty() ? 0 : batch.sequences.size()), tiling,
                         tiles_);
    tiles_at_.push_back(
        {tiling, append(std::span<const AttentionTile>(tiles_)), static_cast<int64_t>(tiles_.size())});
  }
  tables_at_ = append(std::span<const int32_t>());
  for (size_t group = 0; group < groups; ++group)
    for (const SequenceRows& sequence : batch.sequences) {
      const std::span<const int32_t> blocks = sequence.block_tables[group];
      const auto bytes = std::as_bytes(blocks);
      bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    }
  device_ = array_.put(device, stream, std::span<const std::byte>(bytes_));
  batch_ = &batch;
}

const void* StepArrays::find(const void* of_batch) const {
  if (batch_ == nullptr) return nullptr;
  if (of_batch == batch_->token_ids.data()) return at<std::byte>(ids_at_);
  if (of_batch == batch_->positions.data()) return at<std::byte>(positions_at_);
  if (of_batch == batch_->logit_rows.data()) return at<std::byte>(results_at_);
  return nullptr;
}

std::span<const PagedSequence> StepArrays::sequences(int64_t group) const {
  const size_t count = batch_->sequences.size();
  return std::span(sequences_).subspan(static_cast<size_t>(group) * count, count);
}

PagedRows StepArrays::paged(int64_t group) const {
  const auto first = static_cast<size_t>(group) * batch_->sequences.size();
  return {.sequences = at<PagedSequence>(sequences_at_) + first,
          .row_sequence = at<int32_t>(row_sequence_at_),
          .tables = at<int32_t>(tables_at_),
          .rows = static_cast<int64_t>(row_sequence_.size())};
}

RecurrentRows StepArrays::recurrent(int64_t group) const {
  const PagedRows rows = paged(group);
  return {.sequences = rows.sequences,
          .sequence_count = static_cast<int64_t>(batch_->sequences.size()),
          .row_sequence = rows.row_sequence,
          .tables = rows.tables,
          .rows = rows.rows};
}

StepArrays::Tiles StepArrays::tiles(int64_t tiling) const {
  for (const TilesAt& tiles : tiles_at_)
    if (tiles.tiling == tiling) return {at<AttentionTile>(tiles.offset), tiles.count};
  return {};
}

}  // namespace qwen::cuda
