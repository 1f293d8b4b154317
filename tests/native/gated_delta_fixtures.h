// Linear attention with its convolution, position by position in double, for the tests of every backend's.
#pragma once

#include <cmath>

#include "kernel_fixtures.h"

namespace qwen::test::delta {

// A layer of linear attention.
struct Layer {
  GatedDeltaShape shape;
  int64_t dilation;
  Floats kernel, a_log, dt_bias;  // kernel: [channels, conv_kernel]
  Layer(Random& random, const GatedDeltaShape& s, int64_t dilation = 1)
      : shape(s),
        dilation(dilation),
        kernel(random.floats(s.channels() * s.conv_kernel)),
        a_log(random.floats(s.value_heads, -3, 1)),
        dt_bias(random.floats(s.value_heads, -2, 1)) {}
  int64_t values() const { return shape.value_heads * shape.value_dim; }
};

// One sequence's inputs for all its positions.
struct Sequence {
  int64_t length;
  Floats x, beta, decay;
  Sequence(Random& random, const Layer& layer, int64_t n)
      : length(n),
        x(random.floats(n * layer.shape.channels(), -2, 2)),
        beta(random.floats(n * layer.shape.value_heads, -3, 3)),
        decay(random.floats(n * layer.shape.value_heads, -2, 2)) {}
};

inline double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

inline Floats textbook(const Layer& layer, const Sequence& in) {
  const GatedDeltaShape& s = layer.shape;
  const auto at = [](const auto& values, int64_t i) -> double { return values[static_cast<size_t>(i)]; };
  const int64_t channels = s.channels(), keys = s.key_heads * s.key_dim;
  std::vector<double> y(in.x.size());
  for (int64_t t = 0; t < in.length; ++t) {
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t j = 0; j < s.conv_kernel; ++j) {
        const int64_t from = t - (s.conv_kernel - 1 - j) * layer.dilation;
        if (from >= 0) sum += at(layer.kernel, c * s.conv_kernel + j) * at(in.x, from * channels + c);
      }
      y[static_cast<size_t>(t * channels + c)] = sum * sigmoid(sum);
    }
  }
  Floats out(static_cast<size_t>(in.length * layer.values()));
  for (int64_t h = 0; h < s.value_heads; ++h) {
    const int64_t key_head = s.tiled_value_heads ? h % s.key_heads : h * s.key_heads / s.value_heads;
    std::vector<double> state(static_cast<size_t>(s.key_dim * s.value_dim));
    for (int64_t t = 0; t < in.length; ++t) {
      const double* const q = &y[static_cast<size_t>(t * channels + key_head * s.key_dim)];
      const double* const k = q + keys;
      const double* const v = &y[static_cast<size_t>(t * channels + 2 * keys + h * s.value_dim)];
      double q2 = 1e-6, k2 = 1e-6;
      for (int64_t d = 0; d < s.key_dim; ++d) q2 += q[d] * q[d], k2 += k[d] * k[d];
      const double q_scale = 1 / std::sqrt(q2 * static_cast<double>(s.key_dim)), k_scale = 1 / std::sqrt(k2);
      const double step = std::log1p(std::exp(at(in.decay, t * s.value_heads + h) + at(layer.dt_bias, h)));
      const double rate = s.stored_rates ? at(layer.a_log, h) : -std::exp(at(layer.a_log, h));
      const double g = std::exp(rate * step), beta = sigmoid(at(in.beta, t * s.value_heads + h));
      for (int64_t n = 0; n < s.value_dim; ++n) {
        double before = 0, answer = 0;
        for (int64_t d = 0; d < s.key_dim; ++d) {
          double& element = state[static_cast<size_t>(d * s.value_dim + n)];
          element *= g;
          before += element * k[d] * k_scale;
        }
        for (int64_t d = 0; d < s.key_dim; ++d) {
          double& element = state[static_cast<size_t>(d * s.value_dim + n)];
          element += k[d] * k_scale * beta * (v[n] - before);
          answer += element * q[d] * q_scale;
        }
        out[static_cast<size_t>((t * s.value_heads + h) * s.value_dim + n)] = static_cast<float>(answer);
      }
    }
  }
  return out;
}

}  // namespace qwen::test::delta
