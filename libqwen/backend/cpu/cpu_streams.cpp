// CpuBackend's element-wise operations on several residual streams side by side in a row. One plain loop serves every
// instruction set: they are small beside the matrices around them.
#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_backend.h"

namespace qwen::cpu {
namespace {

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

}  // namespace

void CpuBackend::silu(Rows x, float factor, Rows out) {
  for_rows(x.rows, x.width * 4,
           [&](int64_t first, int64_t last) {  // an exponential costs many multiplications
             for (int64_t i = first * x.width; i < last * x.width; ++i) {
               const double value = double{factor} * static_cast<const float*>(x.data)[i];
               static_cast<float*>(out.data)[i] = static_cast<float>(value * sigmoid(value));
             }
           });
}

void CpuBackend::mean_of_streams(Rows x, Rows out) {
  const int64_t streams = x.width / out.width;
  const auto factor = static_cast<float>(1.0 / static_cast<double>(streams));
  for_rows(x.rows, x.width, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      float* const to = row(out, r);
      std::copy_n(row(x, r), out.width, to);
      for (int64_t s = 1; s < streams; ++s) {
        const float* const from = row(x, r) + s * out.width;
        for (int64_t i = 0; i < out.width; ++i) to[i] += from[i];
      }
      for (int64_t i = 0; i < out.width; ++i) to[i] *= factor;
    }
  });
}

void CpuBackend::add_to_streams(Rows h, Rows gate, Rows x) {
  for_rows(x.rows, x.width, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      for (int64_t s = 0; s < gate.width; ++s) {
        const auto factor =
            static_cast<float>(2 * sigmoid(row(gate, r)[s] / static_cast<double>(gate.width)));
        float* const to = row(x, r) + s * h.width;
        const float* const from = row(h, r);
        for (int64_t i = 0; i < h.width; ++i) to[i] += factor * from[i];
      }
    }
  });
}

void CpuBackend::gate_streams(Rows key, Rows query, Rows value, Rows out) {
  const int64_t width = value.width;
  for_rows(out.rows, out.width, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      for (int64_t column = 0; column < out.width; column += width) {
        const float *const k = row(key, r) + column, *const q = row(query, r) + column;
        double product = 0;
        for (int64_t i = 0; i < width; ++i) product += double{k[i]} * q[i];
        product /= std::sqrt(static_cast<double>(width));
        const double root = std::sqrt(std::max(1e-6, std::abs(product)));
        const double gate = product > 0 ? root : product < 0 ? -root : product;  // of 0 it is 0, of NaN NaN
        const auto factor = static_cast<float>(sigmoid(gate));
        for (int64_t i = 0; i < width; ++i) row(out, r)[column + i] = factor * row(value, r)[i];
      }
    }
  });
}

}  // namespace qwen::cpu
