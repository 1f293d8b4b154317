// Embeddings of n-grams by the rule written out, for the tests of every backend's.
#pragma once

#include <algorithm>
#include <functional>
#include <list>
#include <memory>
#include <vector>

#include "kernel_fixtures.h"

namespace qwen::test::ngrams {

struct Shape {
  int64_t tokens;  // of the longest n-gram
  int64_t heads_per_ngram, width, shards;
  int32_t vocabulary, eos;
  std::vector<int64_t> multipliers;  // [tokens]
};

// A token times the third one has all 64 bits.
inline const Shape kShapes[] = {
    {2, 1, 1, 1, 3, 2, {1, 3}},
    {3, 4, 72, 4, 512, 458, {0x1234567890abcdf, 0x3ffffffffffff1, 0x7fffffffffffff9}},
    {5, 2, 300, 3, 20, 0, {11, 13, 0x7ffffffffffffff1, 17, 0x7fffffffffffffff}}};

// Sizes of the heads' parts, and a table in which entry i holds i, i + 1/2, i + 1/4, i + 1/2 and so on, which float32 can.
struct Table {
  explicit Table(const Shape& s) : shape(s) {
    const int64_t heads = (s.tokens - 1) * s.heads_per_ngram;
    for (int64_t head = 0; head < heads; ++head) {
      offsets.push_back(entries);
      sizes.push_back(7 + 4 * head);
      entries += sizes.back();
    }
    entries = (entries + s.shards - 1) / s.shards * s.shards;
    for (int64_t i = 0; i < entries; ++i)
      for (int64_t d = 0; d < s.width; ++d)
        values.push_back(static_cast<float>(i) + (d == 0 ? 0.0f : d % 2 == 0 ? 0.25f : 0.5f));
  }
  NgramNumbers numbers() const {
    return {.heads = static_cast<int64_t>(sizes.size()),
            .heads_per_ngram = shape.heads_per_ngram,
            .eos_token_id = shape.eos,
            .multipliers = shape.multipliers.data(),
            .vocab_sizes = sizes.data(),
            .offsets = offsets.data()};
  }
  std::vector<WeightPtr> load(Backend& machine) const {
    std::vector<WeightPtr> shards;
    const int64_t each = entries / shape.shards;
    for (int64_t s = 0; s < shape.shards; ++s) {
      const auto first = values.begin() + s * each * shape.width;
      parts.emplace_back(first, first + each * shape.width);
      shards.push_back(machine.load(tensor(parts.back(), {each, shape.width}), WeightUse::matrix));
    }
    return shards;
  }

  Shape shape;
  std::vector<int64_t> sizes, offsets;
  int64_t entries = 0;
  Floats values;
  mutable std::list<Floats> parts;  // what was loaded may be these themselves
};

// As shared/reference/numpy_check.py has it: the tokens that count, then each n-gram from its beginning.
inline Floats textbook(const Table& table, const std::vector<int32_t>& tokens) {
  const Shape& s = table.shape;
  Floats out;
  for (int64_t t = 0; t < static_cast<int64_t>(tokens.size()); ++t) {
    std::vector<int32_t> counts = {tokens[static_cast<size_t>(t)]};
    for (int64_t k = 1; k < s.tokens; ++k) {
      const bool hidden =
          t < k || std::find(tokens.begin() + (t - k), tokens.begin() + t, s.eos) != tokens.begin() + t;
      counts.push_back(hidden ? s.eos : tokens[static_cast<size_t>(t - k)]);
    }
    for (size_t head = 0; head < table.sizes.size(); ++head) {
      unsigned __int128 hash = 0;
      for (size_t k = 0; k < 2 + head / static_cast<size_t>(s.heads_per_ngram); ++k)
        hash ^= static_cast<unsigned __int128>(counts[k]) * static_cast<uint64_t>(s.multipliers[k]);
      const __int128 number = static_cast<int64_t>(static_cast<uint64_t>(hash)), size = table.sizes[head];
      const auto entry = static_cast<int64_t>((number % size + size) % size) + table.offsets[head];
      const auto from = table.values.begin() + entry * s.width;
      out.insert(out.end(), from, from + s.width);
    }
  }
  return out;
}

// Both borders of the vocabulary, eos, and few tokens of a large one, so that some stand several times.
inline std::vector<int32_t> text(Random& random, const Shape& s, int64_t length) {
  const int32_t frequent[] = {0, s.vocabulary - 1, s.eos};
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < length; ++i)
    tokens.push_back(random.integer(0, 3) == 0 ? frequent[random.integer(0, 2)]
                                               : static_cast<int32_t>(random.integer(0, s.vocabulary - 1)));
  return tokens;
}

// Texts side by side, as many rows of each as a list that is gone through again and again says: 0 is a step without it.
// rows(n, width): such in the backend's memory, which say NaN.
inline std::vector<Floats> run(Backend& machine, const std::function<Rows(int64_t, int64_t)>& rows,
                               const Table& table, const std::vector<std::vector<int32_t>>& texts,
                               const std::vector<int64_t>& pieces) {
  const std::vector<WeightPtr> shards = table.load(machine);
  const auto width = static_cast<int64_t>(table.sizes.size()) * table.shape.width;
  const std::vector<int32_t> blocks(64);
  std::vector<Floats> outs(texts.size());
  std::vector<size_t> done(texts.size());
  Floats copy;
  for (size_t turn = 0;; ++turn) {
    Batch batch;
    std::vector<size_t> of_text;
    for (size_t i = 0; i < texts.size(); ++i) {
      const size_t count =
          std::min(static_cast<size_t>(pieces[(turn + i) % pieces.size()]), texts[i].size() - done[i]);
      if (count == 0) continue;
      of_text.push_back(i);
      // Of the step's own tokens the batch tells; of the text only what was before.
      batch.sequences.push_back({.first_row = static_cast<int32_t>(batch.rows()),
                                 .row_count = static_cast<int32_t>(count),
                                 .context_length = static_cast<int32_t>(done[i]),
                                 .block_tables = {},
                                 .tokens = std::span(texts[i]).first(done[i])});
      batch.token_ids.insert(batch.token_ids.end(), texts[i].begin() + static_cast<int64_t>(done[i]),
                             texts[i].begin() + static_cast<int64_t>(done[i] + count));
      done[i] += count;
    }
    const std::vector<std::vector<int32_t>> tables(1, blocks);
    for (SequenceRows& sequence : batch.sequences) sequence.block_tables = tables;
    if (batch.rows() > 0) {
      const Rows out = rows(batch.rows(), width);
      machine.embed_ngrams({.numbers = table.numbers(), .shards = shards}, batch, out);
      const std::span<const float> got = machine.host(out, copy);
      for (size_t i = 0; i < of_text.size(); ++i) {
        const SequenceRows& sequence = batch.sequences[i];
        const auto first = got.begin() + sequence.first_row * width;
        outs[of_text[i]].insert(outs[of_text[i]].end(), first, first + sequence.row_count * width);
      }
    }
    bool all = true;
    for (size_t i = 0; i < texts.size(); ++i) all = all && done[i] == texts[i].size();
    if (all) return outs;
  }
}

}  // namespace qwen::test::ngrams
