// Byte-pair encoding: a piece of text starts as one token per byte; the neighbouring pair of lowest merge
// rank (leftmost among equals) is joined until no pair has a rank.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/large_pages.h"
#include "text/vocabulary.h"

namespace qwen {

// (left id, right id) -> merge rank. Ranks count from 0 in the order of the file.
class MergeTable {
 public:
  static constexpr uint32_t kNone = ~uint32_t{0};
  static constexpr size_t kMaxMerges = (1 << 22) - 1;

  void reserve(size_t merges);  // only saves time
  // Adds the next merge; false when the pair is there already.
  bool add(int32_t left, int32_t right, int32_t joined);
  uint32_t find(int32_t left, int32_t right) const {
    const uint64_t key = pair_key(left, right), h = hash(key);
    if (!(filter_[h >> filter_shift_ >> 6] >> (h >> filter_shift_ & 63) & 1)) return kNone;
    for (size_t at = h >> shift_;; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at] == kEmpty) return kNone;
      if (slots_[at] >> kRankBits == key) return static_cast<uint32_t>(slots_[at] & ((1 << kRankBits) - 1));
    }
  }
  // Starts to fetch what find(left, right) reads.
  void prefetch(int32_t left, int32_t right) const {
    __builtin_prefetch(&slots_[hash(pair_key(left, right)) >> shift_]);
  }
  // The same when it is likely that there is such a merge.
  void prefetch_likely(int32_t left, int32_t right) const {
    const uint64_t h = hash(pair_key(left, right));
    if (filter_[h >> filter_shift_ >> 6] >> (h >> filter_shift_ & 63) & 1)
      __builtin_prefetch(&slots_[h >> shift_]);
  }
  int32_t joined(uint32_t rank) const { return joined_[rank]; }
  void prefetch_joined(uint32_t rank) const { __builtin_prefetch(&joined_[rank]); }
  size_t size() const { return joined_.size(); }

 private:
  // A slot is left (21 bits), right (21 bits), rank (22 bits): eight bytes, eight slots to a cache line. Rank
  // kMaxMerges is never given, so an all-ones slot can mean empty.
  static constexpr int kIdBits = 21, kRankBits = 22;
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  static uint64_t pair_key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << kIdBits | static_cast<uint64_t>(right);
  }
  static uint64_t hash(uint64_t key) { return key * 0x9E3779B97F4A7C15u; }
  void rehash(size_t slots);
  void place(uint64_t slot);

  LargeVector<uint64_t> slots_ = {kEmpty, kEmpty};  // linear probing, a power of two, at most half full
  int shift_ = 63;
  // One bit for each half of a slot: whether some pair begins its probing there. Most pairs that text asks
  // for have no merge; an eighth of a megabyte in the second-level cache answers for them, instead of four in
  // the third.
  std::vector<uint64_t> filter_ = {0};
  int filter_shift_ = 62;
  std::vector<int32_t> joined_;
};

class BytePairEncoder {
 public:
  BytePairEncoder(const Vocabulary& vocabulary, MergeTable merges);

  // Working memory of one encode() call, reused from piece to piece.
  struct Scratch {
    struct Node {
      int32_t id;
      uint32_t rank;  // of the pair this node makes with the next; kNone: no such merge, or no next
      uint32_t previous, next;
    };
    std::vector<Node> nodes;
    std::vector<uint64_t> heap;  // rank << 32 | node
  };

  // Starts to fetch what encode(piece) reads first.
  void prefetch(std::string_view piece) const { vocabulary_.prefetch(piece); }
  // Appends the ids of one piece (not empty).
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const;

 private:
  void merge_short(std::string_view piece, std::vector<int32_t>& out) const;
  void merge_long(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const;

  // Whether BPE of a token's own bytes gives that one token. Only then may a piece that equals a token skip
  // the merging: a vocabulary can hold tokens that its merges never reach. Found out when a token is first
  // met.
  enum Reach : uint8_t { unknown, reached, unreached };

  const Vocabulary& vocabulary_;
  MergeTable merges_;
  std::vector<uint32_t> byte_ranks_;  // [256 * left + right]: rank of the pair of these two bytes' tokens
  std::unique_ptr<std::atomic<uint8_t>[]> reach_;  // by id; relaxed: every thread would store the same value
};

}  // namespace qwen
