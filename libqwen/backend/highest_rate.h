// How fast something can be done: for measuring a machine.
#pragma once

#include <algorithm>
#include <chrono>

namespace qwen {

inline double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Repeats work(), which returns how much it did, for so many seconds and three times at least; the highest rate per second: whatever
// else ran can only lower it.
template <class Work>
double highest_rate(double least_seconds, Work work) {
  using Clock = std::chrono::steady_clock;
  constexpr int kRepetitions = 3;
  double best = 0;
  const Clock::time_point begin = Clock::now();
  for (int i = 0; i < kRepetitions || seconds_since(begin) < least_seconds; ++i) {
    const Clock::time_point start = Clock::now();
    const auto amount = static_cast<double>(work());
    best = std::max(best, amount / seconds_since(start));
  }
  return best;
}

}  // namespace qwen
