#include "engine/token_history.h"

#include <algorithm>

namespace qwen {
namespace {

auto place_of(std::vector<TokenHistory::Count>& counts, int32_t id) {
  return std::lower_bound(counts.begin(), counts.end(), id,
                          [](const TokenHistory::Count& count, int32_t wanted) { return count.id < wanted; });
}

}  // namespace

void TokenHistory::follow(const SamplingParams& params, std::span<const int32_t> tokens, size_t prompt_size) {
  const auto window = static_cast<size_t>(params.penalty_window);
  const size_t recent = window > 0 && window < tokens.size() ? tokens.size() - window : 0;
  if (params.repetition_penalty != 1) move(all_, recent, tokens, &Count::all);
  if (params.presence_penalty != 0 || params.frequency_penalty != 0)
    move(generated_, std::max(recent, prompt_size), tokens, &Count::generated);
}

// The window's new bounds are `begin` and the tokens' end.
void TokenHistory::move(Window& window, size_t begin, std::span<const int32_t> tokens, int32_t Count::*kind) {
  const size_t gone = std::min(begin, window.end), first_new = std::max(begin, window.end);
  add(tokens.subspan(first_new), kind);
  if (window.begin < gone) remove(tokens.subspan(window.begin, gone - window.begin), kind);
  window = {begin, tokens.size()};
}

void TokenHistory::add(std::span<const int32_t> tokens, int32_t Count::*kind) {
  constexpr size_t kFew = 8;
  if (tokens.size() <= kFew) {
    for (const int32_t id : tokens) {
      auto place = place_of(counts_, id);
      if (place == counts_.end() || place->id != id) place = counts_.insert(place, {.id = id});
      ++((*place).*kind);
    }
    return;
  }
  for (const int32_t id : tokens) ++(counts_.emplace_back(Count{.id = id}).*kind);
  std::ranges::sort(counts_, {}, &Count::id);
  auto last = counts_.begin();
  for (auto next = last + 1; next != counts_.end(); ++next) {
    if (next->id == last->id) {
      last->all += next->all;
      last->generated += next->generated;
    } else {
      *++last = *next;
    }
  }
  counts_.erase(last + 1, counts_.end());
}

void TokenHistory::remove(std::span<const int32_t> tokens, int32_t Count::*kind) {
  for (const int32_t id : tokens) {
    const auto place = place_of(counts_, id);
    --((*place).*kind);
    if (place->all == 0 && place->generated == 0) counts_.erase(place);
  }
}

}  // namespace qwen
