#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <utility>

namespace qwen {
namespace {

// Up to this many bytes the lowest rank is found by walking an array of one number per byte; longer pieces
// take a heap, so that a megabyte of one letter costs n log n.
constexpr int kPlaceBits = 6;
constexpr size_t kShortPiece = 1 << kPlaceBits;

// The smallest of n numbers; n is a multiple of four. Four running minima are what the compiler turns into
// vectors.
int32_t smallest(const int32_t* values, size_t n) {
  int32_t best[4] = {values[0], values[1], values[2], values[3]};
  for (size_t i = 4; i < n; i += 4)
    for (size_t lane = 0; lane < 4; ++lane) best[lane] = std::min(best[lane], values[i + lane]);
  return std::min(std::min(best[0], best[1]), std::min(best[2], best[3]));
}

}  // namespace

void MergeTable::place(uint64_t slot) {
  const uint64_t h = hash(slot >> kRankBits);
  filter_[h >> filter_shift_ >> 6] |= uint64_t{1} << (h >> filter_shift_ & 63);
  size_t at = h >> shift_;
  while (slots_[at] != kEmpty) at = (at + 1) & (slots_.size() - 1);
  slots_[at] = slot;
}

void MergeTable::rehash(size_t slots) {
  LargeVector<uint64_t> old(slots, kEmpty);
  old.swap(slots_);
  shift_ = 64 - std::countr_zero(slots);
  filter_.assign(std::max<size_t>(slots * 2 / 64, 1), 0);
  filter_shift_ = shift_ - 1;
  for (const uint64_t slot : old)
    if (slot != kEmpty) place(slot);
}

void MergeTable::reserve(size_t merges) {
  rehash(std::bit_ceil(std::max<size_t>(merges, 4) * 2));
  joined_.reserve(merges);
}

bool MergeTable::add(int32_t left, int32_t right, int32_t joined) {
  if (find(left, right) != kNone) return false;
  if (joined_.size() * 2 >= slots_.size()) rehash(slots_.size() * 2);
  place(pair_key(left, right) << kRankBits | joined_.size());
  joined_.push_back(joined);
  return true;
}

BytePairEncoder::BytePairEncoder(const Vocabulary& vocabulary, MergeTable merges)
    : vocabulary_(vocabulary),
      merges_(std::move(merges)),
      byte_ranks_(size_t{256} * 256),
      reach_(std::make_unique<std::atomic<uint8_t>[]>(static_cast<size_t>(vocabulary.size()))) {
  for (size_t left = 0; left < 256; ++left)
    for (size_t right = 0; right < 256; ++right)
      byte_ranks_[256 * left + right] =
          merges_.find(vocabulary.byte_token(static_cast<unsigned char>(left)),
                       vocabulary.byte_token(static_cast<unsigned char>(right)));
}

void BytePairEncoder::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const {
  if (piece.size() == 1) {
    out.push_back(vocabulary_.byte_token(static_cast<unsigned char>(piece[0])));
    return;
  }
  const int32_t whole = piece.size() <= vocabulary_.longest() ? vocabulary_.find(piece) : -1;
  if (whole >= 0 && reach_[static_cast<size_t>(whole)].load(std::memory_order_relaxed) == reached) {
    out.push_back(whole);
    return;
  }
  const size_t before = out.size();
  if (piece.size() <= kShortPiece)
    merge_short(piece, out);
  else
    merge_long(piece, scratch, out);
  if (whole >= 0)
    reach_[static_cast<size_t>(whole)].store(out.size() == before + 1 ? reached : unreached,
                                             std::memory_order_relaxed);
}

void BytePairEncoder::merge_short(std::string_view piece, std::vector<int32_t>& out) const {
  // A number is rank << 6 | place: the smallest is the pair to merge, the leftmost among equals. Places never
  // move, an absorbed one keeps kNever, so a merge touches its two neighbours and nothing is shifted.
  constexpr int32_t kNever = std::numeric_limits<int32_t>::max();
  static_assert(MergeTable::kMaxMerges < size_t{1} << (31 - kPlaceBits));
  int32_t numbers[kShortPiece];  // of the pair that the token at this place makes with the next one
  int32_t ids[kShortPiece];
  uint8_t next[kShortPiece], previous[kShortPiece];
  const size_t n = piece.size(), rounded = (n + 3) & ~size_t{3};
  const auto number = [&](uint32_t rank, size_t place) {
    if (rank == MergeTable::kNone) return kNever;
    merges_.prefetch_joined(rank);
    return static_cast<int32_t>(rank << kPlaceBits | place);
  };
  for (size_t i = 0; i < n; ++i) {
    ids[i] = vocabulary_.byte_token(static_cast<unsigned char>(piece[i]));
    next[i] = static_cast<uint8_t>(i + 1);
    previous[i] = static_cast<uint8_t>(i - 1);
  }
  for (size_t i = 0; i + 1 < n; ++i)
    numbers[i] = number(byte_ranks_[size_t{256} * static_cast<unsigned char>(piece[i]) +
                                    static_cast<unsigned char>(piece[i + 1])],
                        i);
  std::fill(numbers + n - 1, numbers + rounded, kNever);
  for (int32_t best; (best = smallest(numbers, rounded)) != kNever;) {
    const size_t place = static_cast<size_t>(best) & (kShortPiece - 1);
    const size_t absorbed = next[place], after = next[absorbed];
    ids[place] = merges_.joined(static_cast<uint32_t>(best) >> kPlaceBits);
    next[place] = static_cast<uint8_t>(after);
    numbers[absorbed] = kNever;
    numbers[place] = kNever;
    // Both searches are under way before either is waited for.
    const size_t before = previous[place];
    if (place > 0) merges_.prefetch_likely(ids[before], ids[place]);
    if (after < n) {
      previous[after] = static_cast<uint8_t>(place);
      numbers[place] = number(merges_.find(ids[place], ids[after]), place);
    }
    if (place > 0) numbers[before] = number(merges_.find(ids[before], ids[place]), before);
  }
  for (size_t i = 0; i < n; i = next[i]) out.push_back(ids[i]);
}

void BytePairEncoder::merge_long(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const {
  constexpr uint32_t kEnd = std::numeric_limits<uint32_t>::max();
  auto& nodes = scratch.nodes;
  auto& heap = scratch.heap;
  const auto n = static_cast<uint32_t>(piece.size());
  nodes.resize(n);
  heap.clear();
  for (uint32_t i = 0; i < n; ++i)
    nodes[i] = {vocabulary_.byte_token(static_cast<unsigned char>(piece[i])), MergeTable::kNone, i - 1,
                i + 1};
  nodes[0].previous = kEnd;
  nodes[n - 1].next = kEnd;

  const auto look_up = [&](uint32_t i) {
    auto& node = nodes[i];
    node.rank = node.next == kEnd ? MergeTable::kNone : merges_.find(node.id, nodes[node.next].id);
    if (node.rank != MergeTable::kNone) heap.push_back(static_cast<uint64_t>(node.rank) << 32 | i);
    return node.rank != MergeTable::kNone;
  };
  for (uint32_t i = 0; i < n; ++i) look_up(i);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());

  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto rank = static_cast<uint32_t>(heap.back() >> 32);
    const auto i = static_cast<uint32_t>(heap.back());
    heap.pop_back();
    auto& node = nodes[i];
    if (node.rank != rank) continue;  // the pair that was queued is gone
    auto& absorbed = nodes[node.next];
    absorbed.rank = MergeTable::kNone;
    node.id = merges_.joined(rank);
    node.next = absorbed.next;
    if (node.next != kEnd) nodes[node.next].previous = i;
    if (look_up(i)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
    if (node.previous != kEnd && look_up(node.previous))
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
  }
  for (uint32_t i = 0; i != kEnd; i = nodes[i].next) out.push_back(nodes[i].id);
}

}  // namespace qwen
