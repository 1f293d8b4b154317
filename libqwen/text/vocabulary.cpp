#include "text/vocabulary.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace qwen {
namespace {

uint64_t load(const char* p, size_t n) {
  uint64_t word = 0;
  std::memcpy(&word, p, n);
  return word;
}

// The high and low half of a 128-bit product folded: every input bit reaches every output bit.
uint64_t mix(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

}  // namespace

Vocabulary::Key Vocabulary::key_of(std::string_view bytes) {
  constexpr uint64_t k1 = 0x9E3779B97F4A7C15u, k2 = 0xD1B54A32D192ED03u;  // odd, irregular
  const char* p = bytes.data();
  size_t n = bytes.size();
  const auto byte = [&](size_t i) { return static_cast<uint64_t>(static_cast<unsigned char>(p[i])); };
  if (n <= 8) {
    // The bytes, without reading past them: two overlapping halves, or first, middle and last.
    const uint64_t word = n == 8   ? load(p, 8)
                          : n >= 4 ? load(p, 4) | load(p + n - 4, 4) << (8 * (n - 4))
                                   : byte(0) | byte(n / 2) << (8 * (n / 2)) | byte(n - 1) << (8 * (n - 1));
    return {word, mix(word ^ k1, k2 ^ n)};
  }
  uint64_t h = k2 ^ n;
  for (; n > 16; n -= 16, p += 16) h = mix(load(p, 8) ^ k1, load(p + 8, 8) ^ h);
  h = n >= 8 ? mix(load(p, 8) ^ k1, load(p + n - 8, 8) ^ h) : mix(load(p + n - 8, 8) ^ k1, h);
  h = mix(h, k1);
  return {h, h};
}

void Vocabulary::reserve(size_t tokens, size_t bytes) {
  tokens_.reserve(tokens);
  arena_.reserve(bytes);
}

void Vocabulary::add(int32_t id, std::string_view bytes, bool added, bool special) {
  const auto at = static_cast<size_t>(id);
  if (at >= tokens_.size()) tokens_.resize(at + 1);
  tokens_[at] = {
      static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(bytes.size()), true, false, added, special};
  arena_.append(bytes);
}

void Vocabulary::mark_added(int32_t id, bool special) {
  tokens_[static_cast<size_t>(id)].added = true;
  tokens_[static_cast<size_t>(id)].special = special;
}

void Vocabulary::make_index(size_t tokens) {
  // Between 37 and 75 % full.
  slots_.assign(std::bit_ceil(std::max<size_t>(tokens, 8) * 4 / 3), {});
  std::fill(std::begin(byte_tokens_), std::end(byte_tokens_), -1);
}

int32_t Vocabulary::index(int32_t id) {
  const std::string_view text = bytes(id);
  const Key key = key_of(text);
  if (const int32_t other = find(text, key); other >= 0) return other;
  const size_t mask = slots_.size() - 1;
  size_t at = key.hash & mask;
  while (slots_[at].id >= 0) at = (at + 1) & mask;
  slots_[at] = {key.word, static_cast<uint32_t>(text.size()), id};
  tokens_[static_cast<size_t>(id)].indexed = true;
  longest_ = std::max(longest_, text.size());
  if (text.size() == 1) byte_tokens_[static_cast<unsigned char>(text[0])] = id;
  return -1;
}

int32_t Vocabulary::find(std::string_view text) const {
  return find(text, key_of(text));
}

int32_t Vocabulary::find(std::string_view text, const Key& key) const {
  const size_t mask = slots_.size() - 1;
  for (size_t at = key.hash & mask; slots_[at].id >= 0; at = (at + 1) & mask) {
    const Slot& slot = slots_[at];
    if (slot.word == key.word && slot.length == text.size() && (text.size() <= 8 || bytes(slot.id) == text))
      return slot.id;
  }
  return -1;
}

}  // namespace qwen
