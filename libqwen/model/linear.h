// The matrices of a model that adapters may change: y = x W' + b, and for a row with an adapter + scale (x A') B'.
#pragma once

#include <initializer_list>

#include "model/model.h"

namespace qwen {

struct Linear {
  WeightPtr weight = nullptr;  // [out, in]
  WeightPtr bias = nullptr;    // [out], or null
  int64_t index = -1;          // in Model::linears() and in every Adapter; -1: not the decoder's

  explicit operator bool() const { return weight != nullptr; }
};

struct LinearOutput {
  const Linear& linear;
  Rows out;
  bool accumulate = false;  // out += …
};

// Memory for what these matrices will be the only readers of. Adapters read plain rows.
Rows input_rows(const Step& step, int64_t rows, int64_t width, std::initializer_list<const Linear*> readers);

// All outputs of one input, e.g. q, k and v; at most four. x: a row for each of the batch's.
void project(const Step& step, Rows x, std::initializer_list<LinearOutput> outputs);

}  // namespace qwen
