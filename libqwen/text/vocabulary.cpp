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

uint64_t Vocabulary::hash(std::string_view bytes) {
  constexpr uint64_t k1 = 0x9E3779B97F4A7C15u, k2 = 0xD1B54A32D192ED03u;  // odd, irregular
  const char* p = bytes.data();
  size_t n = bytes.size();
  uint64_t h = k2 ^ n;
  while (n > 16) {
    h = mix(load(p, 8) ^ k1, load(p + 8, 8) ^ h);
    p += 16;
    n -= 16;
  }
  uint64_t a = 0, b = 0;
  if (n >= 8) {
    a = load(p, 8);
    b = load(p + n - 8, 8);
  } else if (n >= 4) {
    a = load(p, 4);
    b = load(p + n - 4, 4);
  } else if (n > 0) {
    const auto at = [&](size_t i) { return static_cast<uint64_t>(static_cast<unsigned char>(p[i])); };
    a = at(0) << 16 | at(n / 2) << 8 | at(n - 1);
  }
  return mix(mix(a ^ k1, b ^ h), k1);
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
  slots_.assign(std::bit_ceil(std::max<size_t>(tokens, 8) * 2), {});
  std::fill(std::begin(byte_tokens_), std::end(byte_tokens_), -1);
}

int32_t Vocabulary::index(int32_t id) {
  const std::string_view text = bytes(id);
  const uint64_t h = hash(text);
  if (const int32_t other = find(text, h); other >= 0) return other;
  const size_t mask = slots_.size() - 1;
  size_t at = h & mask;
  while (slots_[at].id >= 0) at = (at + 1) & mask;
  slots_[at] = {static_cast<uint32_t>(h >> 32), id};
  tokens_[static_cast<size_t>(id)].indexed = true;
  longest_ = std::max(longest_, text.size());
  if (text.size() == 1) byte_tokens_[static_cast<unsigned char>(text[0])] = id;
  return -1;
}

int32_t Vocabulary::find(std::string_view text, uint64_t h) const {
  const size_t mask = slots_.size() - 1;
  for (size_t at = h & mask; slots_[at].id >= 0; at = (at + 1) & mask) {
    if (slots_[at].tag == static_cast<uint32_t>(h >> 32) && bytes(slots_[at].id) == text)
      return slots_[at].id;
  }
  return -1;
}

}  // namespace qwen
