// The small operations between the products, as Backend has them. All pointers are device memory, rows are dense.
#pragma once

#include <cstdint>

#include "backend/cuda/device.h"
#include "backend/cuda/element.h"

namespace qwen::cuda {

// Rounded to bfloat16: what tensor cores multiply.
void to_operand(Stream& stream, const float* x, int64_t n, uint16_t* out);

// out = silu(gate) * up; out = sigmoid(gate) * x; float32 out may be an input.
void silu_mul(Stream& stream, const float* gate, const float* up, int64_t n, void* out, Element out_element);
void sigmoid_mul(Stream& stream, const float* gate, const float* x, int64_t n, void* out,
                 Element out_element);
// out = silu(factor * x)
void silu(Stream& stream, const float* x, float factor, int64_t n, float* out);
// out[r] += x[r]; with gate [rows]: out[r] += sigmoid(gate[r]) * x[r].
void add(Stream& stream, const float* x, const float* gate, int64_t rows, int64_t width, float* out);

// Columns of each of the groups of x [rows, groups * group_width], from `first` on, `width` of them: to out [rows, out_width], from
// `column` on, group behind group.
struct SplitArgs {
  const float* x = nullptr;
  int64_t rows = 0, groups = 0, group_width = 0;
  int64_t first = 0, width = 0;
  float* out = nullptr;
  int64_t out_width = 0, column = 0;
};
void split(Stream& stream, const SplitArgs& args);

// out[i] = x[indices[i]]; out[indices[i]] += scale * x[i].
void gather(Stream& stream, const float* x, const int32_t* indices, int64_t count, int64_t width, float* out);
void scatter_add(Stream& stream, const float* x, const int32_t* indices, int64_t count, int64_t width,
                 float scale, float* out);

struct RopeAnglesArgs {
  const float* inverse_frequencies = nullptr;  // [half]
  const uint8_t* axis = nullptr;               // [half]
  const int32_t* positions = nullptr;          // [rows][3]
  float scale = 1;
  int64_t rows = 0, half = 0;
  float* out = nullptr;  // [rows, 2 * half] cosines, sines
};
void rope_angles(Stream& stream, const RopeAnglesArgs& args);
// angles [rows, 2 * half]; x [rows, heads * head_dim] in place.
void rope(Stream& stream, float* x, int64_t rows, int64_t heads, int64_t head_dim, const float* angles,
          int64_t half);

// x, key, query [rows, streams * width]; h, value [rows, width]; gate [rows, streams].
void mean_of_streams(Stream& stream, const float* x, int64_t rows, int64_t streams, int64_t width,
                     float* out);
void add_to_streams(Stream& stream, const float* h, const float* gate, int64_t rows, int64_t streams,
                    int64_t width, float* x);
void gate_streams(Stream& stream, const float* key, const float* query, const float* value, int64_t rows,
                  int64_t streams, int64_t width, float* out);

}  // namespace qwen::cuda
