// Backend::sample() on the device: from rows of logits to tokens. Every sum is one of integers, a likelihood being a fixed-point
// number, or in an order that the vocabulary fixes; so a row's token depends on nothing but the row and its arguments.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cuda/device.h"
#include "backend/sampling.h"

namespace qwen::cuda {

// SampleArgs as a kernel takes them.
struct SampleRow {
  int64_t row = 0;         // of the logits
  int32_t first_edit = 0;  // in the edits of all rows
  int32_t edits = 0;
  int32_t forced = -1;  // -1: none
  int32_t top_k = 0;    // below vocab_size; 0: all
  int32_t top_logprobs = 0;
  bool logprobs = false;
  double temperature = 1, top_p = 1, min_p = 0, u = 0;
};

inline constexpr int64_t kMostVocabulary = int64_t{1} << 22;  // what ids have bits for here

// Of a piece of a row's logits.
struct SamplePiece {
  double own_sum;           // of exp(logit - own_top), before the edits; only with logprobs
  float own_top;            // the largest before the edits
  uint32_t finite;          // whether all were
  unsigned long long best;  // the likeliest token, after the edits
  unsigned long long mass;  // of what may be drawn, where neither top_k nor top_p says which
};

// Scratch memory of one launch; sizes in elements. histogram and listed are zeros, the rest is not looked at before it is written.
struct SampleScratch {
  float* originals = nullptr;               // [edits of all rows] before them
  SamplePiece* pieces = nullptr;            // [rows][sample_pieces()]
  unsigned long long* histogram = nullptr;  // [2][rows][kSampleBins]
  uint32_t* listed = nullptr;               // [2][rows]
  int32_t* lists = nullptr;                 // [2][rows][kSampleListed]
};
inline constexpr int64_t kSamplePiece = 4096, kSampleBins = 2048, kSampleListed = 16384;
constexpr int64_t sample_pieces(int64_t vocab_size) {
  return (vocab_size + kSamplePiece - 1) / kSamplePiece;
}

struct SampleKernelArgs {
  float* logits = nullptr;  // [any rows, vocab_size]
  int64_t vocab_size = 0;
  const SampleRow* rows = nullptr;
  int64_t count = 0;                 // of them
  const LogitEdit* edits = nullptr;  // of each row ascending by id
  SampleScratch scratch;
  bool any_drawn = false, any_listed = false,
       any_top_logprobs = false;  // of the rows: what need not be launched
  // Answers, [rows]. Where a row's outcome is no token its id is 0.
  int32_t* ids = nullptr;
  SampleOutcome* outcomes = nullptr;
  float* logprobs = nullptr;
  int32_t* top_ids = nullptr;     // [rows][kMostTopLogprobs]
  float* top_logprobs = nullptr;  // [rows][kMostTopLogprobs]
};
void sample(Stream& stream, const SampleKernelArgs& args);

}  // namespace qwen::cuda
