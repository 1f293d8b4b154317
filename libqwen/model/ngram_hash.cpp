#include "model/ngram_hash.h"

#include <algorithm>
#include <limits>

namespace qwen {
namespace {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;

// https://prng.di.unimi.it/splitmix64.c
uint64_t splitmix64(uint64_t x) {
  x += kGolden;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

bool is_prime(int64_t n) {
  if (n < 4) return n > 1;
  if (n % 2 == 0) return false;
  for (int64_t d = 3; d * d <= n; d += 2)
    if (n % d == 0) return false;
  return true;
}

}  // namespace

NgramHash::NgramHash(const ModelConfig& config, int64_t index)
    : heads_per_ngram_(config.qwen4_exp->heads_per_ngram), eos_token_id_(config.qwen4_exp->eos_token_id) {
  const Qwen4ExpConfig& own = *config.qwen4_exp;
  // The layers' heads share one ascending list of primes.
  int64_t number = own.ngram_vocab_size_base;
  for (int64_t skipped = 0; static_cast<int64_t>(vocab_sizes.size()) < own.ngram_heads(); ++number) {
    if (!is_prime(number)) continue;
    if (skipped++ < index * own.ngram_heads()) continue;
    offsets.push_back(table_rows);
    vocab_sizes.push_back(number);
    table_rows += number;
  }
  const int64_t divisor = own.make_ngram_vocab_size_divisible_by;
  table_rows = (table_rows + divisor - 1) / divisor * divisor;
  // So small that a token times a multiplier stays below 2^63.
  const auto half = static_cast<uint64_t>(
      std::max<int64_t>(1, std::numeric_limits<int64_t>::max() / config.vocab_size / 2));
  for (int64_t i = 1; i <= own.ngram_size; ++i) {
    const uint64_t seed = static_cast<uint64_t>(own.seed) + 10007 * static_cast<uint64_t>(index);
    const uint64_t random = splitmix64(seed + kGolden * static_cast<uint64_t>(i));
    multipliers.push_back(static_cast<int64_t>(2 * (random % half) + 1));
  }
}

}  // namespace qwen
