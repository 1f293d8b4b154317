// A mixture of experts: which of them each row goes to, and what they answer.
//   out[r] = sum of p_e * expert_e(x[r]) over the top_k likeliest experts e of row r, in the order of their index,
//   p = softmax(logits[r]); of equally likely ones the first. expert(x) = down(silu(gate(x)) * up(x)).
// What an expert answers to a row has the bits of gated_linear() and linear(): none hangs on the other rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cuda/device.h"
#include "backend/cuda/element.h"

namespace qwen::cuda {

// Whose work is what, in device memory. Assignment r * top_k + i is row r and the i-th of its experts.
struct Routing {
  int64_t rows = 0;
  int64_t experts = 0;
  int64_t top_k = 0;
  int32_t* chosen = nullptr;   // [rows, top_k] experts, ascending
  float* weights = nullptr;    // [rows, top_k]
  int32_t* members = nullptr;  // [experts, rows] assignments of each, ascending
  int32_t* counts = nullptr;   // [experts] how many
  int32_t* active = nullptr;   // [most_active()] experts that have any, ascending, and then -1

  int64_t most_active() const { return std::min(experts, rows * top_k); }
};

struct RouteArgs {
  const float* logits = nullptr;  // [rows, experts]
  bool normalise = false;         // the chosen weights are divided by their sum
  Routing to;
};
// Throws Error(unsupported): more experts than kMostExperts.
void route(Stream& stream, const RouteArgs& args);
inline constexpr int64_t kMostExperts = 4096;

struct ExpertsArgs {
  Routing routing;
  const void* x = nullptr;  // [rows, width]
  Element x_element = Element::f32;
  Element weight_element = Element::f32;
  int64_t width = 0;
  int64_t inner = 0;
  // Of each expert, in device memory as the arrays themselves are.
  const void* const* gates = nullptr;  // [inner, width]
  const void* const* ups = nullptr;    // [inner, width]
  const void* const* downs = nullptr;  // [width, inner]
  bool aligned = true;                 // all of these matrices to 16 bytes
  void* hidden = nullptr;              // scratch [rows * top_k, inner], elements as x's
  float* answers = nullptr;            // scratch [rows * top_k, width]
  float* out = nullptr;                // [rows, width]
};
void run_experts(Stream& stream, const ExpertsArgs& args);

}  // namespace qwen::cuda
