// The naive twins of the CPU kernels: each operation in the plainest loop that states it. With Real = double
// they are the oracle that every fast kernel is tested against; with Real = float they are the portable
// level.
//
// One concession to speed: sums run over kLanes interleaved partial sums, which any compiler turns into
// vector code.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/batch.h"
#include "backend/cpu/kernels.h"

namespace qwen::reference {

using cpu::AttentionTask;
using cpu::Format;
using cpu::GatedDeltaTask;
using cpu::LinearTask;
using cpu::MultiplyTask;

inline constexpr int kLanes = 16;

inline float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float widen_f16(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = half >> 10 & 0x1f;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 31) return from_bits(sign | 0x7f800000u | mantissa << 13);  // infinity, NaN
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // zero, subnormal
    return from_bits(sign | to_bits(magnitude));
  }
  return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

inline uint16_t narrow_bf16(float value) {
  const uint32_t bits = to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);  // NaN: quiet
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);                   // to nearest even
}

// Element i of memory of any alignment, exactly.
template <Format F>
inline float element(const std::byte* data, int64_t i) {
  if constexpr (F == Format::f32) {
    float value;
    std::memcpy(&value, data + i * 4, 4);
    return value;
  } else {
    uint16_t bits;
    std::memcpy(&bits, data + i * 2, 2);
    return F == Format::bf16 ? from_bits(uint32_t{bits} << 16) : widen_f16(bits);
  }
}

template <class Real, class Term>
inline Real sum(int64_t n, Term term) {
  Real partial[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) partial[lane] += term(i + lane);
  }
  for (int lane = 0; i < n; ++i, ++lane) partial[lane] += term(i);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) partial[lane] += partial[lane + width];
  }
  return partial[0];
}

template <class Real, Format F>
inline void linear(const LinearTask& task) {
  constexpr int64_t kElementBytes = F == Format::f32 ? 4 : 2;
  for (int64_t n = 0; n < task.outputs; ++n) {
    const std::byte* weight = task.weight + n * task.weight_stride * kElementBytes;
    for (int64_t r = 0; r < task.rows; ++r) {
      const float* x = task.x + r * task.x_stride;
      Real value = sum<Real>(task.k, [&](int64_t i) { return Real{x[i]} * Real{element<F>(weight, i)}; });
      if (task.bias != nullptr) value += task.bias[n];
      float& out = task.out[r * task.out_stride + n];
      out = static_cast<float>(task.accumulate ? out + value : value);
    }
  }
}

// softmax(scale q·k) v over the positions that the row sees, in two passes over the blocks: the maximum, then
// the sums.
template <class Real, Format F>
inline void attend(const AttentionTask& task, int64_t position, const float* q, float* out) {
  const int64_t head_dim = task.head_dim, value_width = cpu::padded_head_dim(head_dim);
  const int64_t first = task.window > 0 ? std::max<int64_t>(0, position - task.window + 1) : 0;
  const auto for_each_score = [&](auto use) {
    for (int64_t block = first / kCacheBlock; block <= position / kCacheBlock; ++block) {
      const std::byte* keys = task.keys + task.block_table[block] * task.key_block_bytes;
      const std::byte* values = task.values + task.block_table[block] * task.value_block_bytes;
      Real scores[kCacheBlock] = {};
      for (int64_t d = 0; d < head_dim; ++d) {
        for (int64_t j = 0; j < kCacheBlock; ++j) {
          scores[j] += Real{q[d]} * Real{element<F>(keys, d * kCacheBlock + j)};
        }
      }
      for (int64_t j = 0; j < kCacheBlock; ++j) {
        const int64_t at = block * kCacheBlock + j;
        if (at >= first && at <= position) use(scores[j] * Real{task.scale}, values, j);
      }
    }
  };
  Real maximum = -std::numeric_limits<Real>::infinity();
  for_each_score([&](Real score, const std::byte*, int64_t) { maximum = std::max(maximum, score); });
  constexpr int64_t kMaxHeadDim = 1024;
  Real weighted[kMaxHeadDim] = {}, total = 0;
  for_each_score([&](Real score, const std::byte* values, int64_t j) {
    const Real probability = std::exp(score - maximum);
    total += probability;
    for (int64_t d = 0; d < head_dim; ++d) {
      weighted[d] += probability * Real{element<F>(values, j * value_width + d)};
    }
  });
  for (int64_t d = 0; d < head_dim; ++d) out[d] = static_cast<float>(weighted[d] / total);
}

template <class Real, Format F>
inline void attention(const AttentionTask& task) {
  for (int64_t r = 0; r < task.rows; ++r) {
    for (int64_t h = 0; h < task.query_heads; ++h) {
      const int64_t offset = r * task.row_stride + h * task.head_dim;
      attend<Real, F>(task, task.first_position + r, task.q + offset, task.out + offset);
    }
  }
}

template <Format F>
inline void widen(const std::byte* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = element<F>(from, i);
}

inline void narrow_bf16(const float* from, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = narrow_bf16(from[i]);
}

template <class Real>
inline void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  const Real squares = sum<Real>(n, [&](int64_t i) { return Real{x[i]} * Real{x[i]}; });
  const Real scale = Real{1} / std::sqrt(squares / static_cast<Real>(n) + Real{eps});
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(Real{x[i]} * scale * Real{weight[i]});
}

template <class Real>
inline void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const Real g = gate[i];
    out[i] = static_cast<float>(g / (Real{1} + std::exp(-g)) * Real{up[i]});
  }
}

template <class Real>
inline void sigmoid_mul(const float* gate, const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i)
    out[i] = static_cast<float>(Real{x[i]} / (Real{1} + std::exp(-Real{gate[i]})));
}

template <class Real>
inline void convolution(const float* const* rows, int64_t kernel, const float* weight, int64_t channels,
                        int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    Real sum = 0;
    for (int64_t j = 0; j < kernel; ++j)
      if (rows[j] != nullptr) sum += Real{rows[j][i]} * Real{weight[j * channels + i]};
    out[i] = static_cast<float>(sum / (Real{1} + std::exp(-sum)));
  }
}

template <class Real>
inline void multiply(const MultiplyTask& task) {
  for (int64_t r = 0; r < task.rows; ++r) {
    for (int64_t c = 0; c < task.columns; ++c) {
      float& out = task.out[r * task.out_stride + c];
      Real sum = task.initial ? Real{task.factor} * Real{task.initial[r * task.out_stride + c]} : Real{0};
      for (int64_t i = 0; i < task.inner; ++i)
        sum += Real{task.x[r * task.x_stride + i]} * Real{task.matrix[i * task.matrix_stride + c]};
      out = static_cast<float>(sum);
    }
  }
}

template <class Real>
inline void gated_delta(const GatedDeltaTask& task) {
  const int64_t width = cpu::padded_head_dim(task.value_dim);
  for (int64_t row = 0; row < task.rows; ++row) {
    const int64_t last = task.first + row;
    const float* const key_products = task.products + row * cpu::kChunk;
    const float* const query_products = key_products + task.rows * cpu::kChunk;
    Real key_factors[cpu::kChunk], query_factors[cpu::kChunk];
    for (int64_t s = 0; s <= last; ++s) {
      const Real weight = std::exp(Real{task.log_decay[last]} - Real{task.log_decay[s]});
      key_factors[s] = weight * Real{key_products[s]};
      query_factors[s] = weight * Real{query_products[s]};
    }
    for (int64_t n = 0; n < width; ++n) {
      Real corrected = n < task.value_dim ? Real{task.values[row * task.value_stride + n]} : Real{0};
      Real out = 0;
      if (task.from_state != nullptr) {
        corrected -= Real{task.decay[row]} * Real{task.from_state[row * width + n]};
        out = Real{task.decay[row]} * Real{task.from_state[(task.rows + row) * width + n]};
      }
      for (int64_t s = 0; s < last; ++s) {
        const Real before = task.corrected[s * width + n];
        corrected -= key_factors[s] * before;
        out += query_factors[s] * before;
      }
      corrected *= Real{task.beta[row]};
      task.corrected[last * width + n] = static_cast<float>(corrected);
      if (n < task.value_dim)
        task.out[row * task.out_stride + n] = static_cast<float>(out + query_factors[last] * corrected);
    }
  }
}

template <class Real>
inline void rope(float* x, int64_t heads, int64_t head_dim, const float* cosines, const float* sines,
                 int64_t half) {
  for (int64_t h = 0; h < heads; ++h) {
    float* first = x + h * head_dim;
    float* second = first + half;
    for (int64_t i = 0; i < half; ++i) {
      const Real a = first[i], b = second[i];
      first[i] = static_cast<float>(a * Real{cosines[i]} - b * Real{sines[i]});
      second[i] = static_cast<float>(b * Real{cosines[i]} + a * Real{sines[i]});
    }
  }
}

}  // namespace qwen::reference
