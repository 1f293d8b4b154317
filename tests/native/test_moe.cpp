// Backend::moe against the plainest statement of it, in double; every level, one row or many.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernel_fixtures.h"

using namespace qwen;
using test::Floats;

namespace {

constexpr int64_t kWidth = 40, kInner = 24, kExperts = 7, kTopK = 3;

struct Matrix {
  Floats values;
  WeightPtr weight;
};

Matrix make_matrix(Backend& backend, test::Random& random, int64_t out, int64_t in) {
  Matrix matrix{random.floats(out * in), nullptr};
  const TensorView view{.name = "w",
                        .dtype = DType::f32,
                        .shape = {out, in},
                        .data = reinterpret_cast<const std::byte*>(matrix.values.data()),
                        .bytes = matrix.values.size() * sizeof(float),
                        .source = "memory"};
  matrix.weight = backend.load(view, WeightUse::matrix);
  return matrix;
}

std::vector<double> multiply(const Floats& w, const std::vector<double>& x) {
  std::vector<double> y(w.size() / x.size());
  for (size_t i = 0; i < w.size(); ++i) y[i / x.size()] += double{w[i]} * x[i % x.size()];
  return y;
}

}  // namespace

TEST_CASE("a mixture of experts is the weighted sum of the likeliest experts, whatever the batch") {
  for (const std::string& isa : cpu_isa_levels()) {
    for (const bool normalise : {false, true}) {
      CAPTURE(isa);
      CAPTURE(normalise);
      const auto backend = create_cpu_backend({.precision = Precision::f32, .threads = 2, .isa = isa});
      const auto workspace = backend->create_workspace();
      test::Random random(3);
      const Matrix router = make_matrix(*backend, random, kExperts, kWidth);
      std::vector<Matrix> gates, ups, downs;
      std::vector<Expert> experts;
      for (int64_t e = 0; e < kExperts; ++e) {
        gates.push_back(make_matrix(*backend, random, kInner, kWidth));
        ups.push_back(make_matrix(*backend, random, kInner, kWidth));
        downs.push_back(make_matrix(*backend, random, kWidth, kInner));
        experts.push_back({gates.back().weight.get(), ups.back().weight.get(), downs.back().weight.get()});
      }
      const MoeArgs args{router.weight.get(), experts, kInner, kTopK, normalise};
      constexpr int64_t kRows = 50;
      const Rows x = workspace->rows(kRows, kWidth), out = workspace->rows(kRows, kWidth);
      const Floats values = random.floats(kRows * kWidth);
      std::copy(values.begin(), values.end(), static_cast<float*>(x.data));
      backend->moe(*workspace, x, args, out);
      const Floats together(static_cast<float*>(out.data), static_cast<float*>(out.data) + kRows * kWidth);

      for (int64_t r = 0; r < kRows; ++r) {
        const std::vector<double> row(values.begin() + r * kWidth, values.begin() + (r + 1) * kWidth);
        std::vector<double> p = multiply(router.values, row);
        double sum = 0;
        for (double& value : p) sum += value = std::exp(value);
        for (double& value : p) value /= sum;
        std::vector<size_t> order(kExperts);
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
        double chosen = 0;
        for (int64_t i = 0; i < kTopK; ++i) chosen += p[order[static_cast<size_t>(i)]];
        std::vector<double> expected(kWidth);
        for (int64_t i = 0; i < kTopK; ++i) {
          const size_t e = order[static_cast<size_t>(i)];
          const auto gate = multiply(gates[e].values, row), up = multiply(ups[e].values, row);
          std::vector<double> inner(kInner);
          for (size_t n = 0; n < inner.size(); ++n) inner[n] = gate[n] / (1 + std::exp(-gate[n])) * up[n];
          const auto answer = multiply(downs[e].values, inner);
          for (size_t n = 0; n < expected.size(); ++n)
            expected[n] += answer[n] * (normalise ? p[e] / chosen : p[e]);
        }
        for (int64_t n = 0; n < kWidth; ++n)
          CHECK(std::abs(together[static_cast<size_t>(r * kWidth + n)] - expected[static_cast<size_t>(n)]) <
                1e-4);

        const Rows one{static_cast<float*>(x.data) + r * kWidth, 1, kWidth},
            alone = workspace->rows(1, kWidth);
        backend->moe(*workspace, one, args, alone);
        CHECK(std::equal(together.begin() + r * kWidth, together.begin() + (r + 1) * kWidth,
                         static_cast<float*>(alone.data)));
      }
    }
  }
}

TEST_CASE("a router that gives NaN gives NaN, and nothing else goes wrong") {
  const auto backend = create_cpu_backend({.precision = Precision::f32, .threads = 1, .isa = ""});
  const auto workspace = backend->create_workspace();
  test::Random random(4);
  const Matrix router = make_matrix(*backend, random, 64, kWidth);
  const Matrix gate = make_matrix(*backend, random, kInner, kWidth),
               down = make_matrix(*backend, random, kWidth, kInner);
  const std::vector<Expert> experts(64, Expert{gate.weight.get(), gate.weight.get(), down.weight.get()});
  const Rows x = workspace->rows(2, kWidth), out = workspace->rows(2, kWidth);
  auto* values = static_cast<float*>(x.data);
  std::fill_n(values, 2 * kWidth, 0.5f);
  values[3] = std::numeric_limits<float>::quiet_NaN();
  for (const bool normalise : {false, true}) {
    backend->moe(*workspace, x, {router.weight.get(), experts, kInner, 8, normalise}, out);
    CHECK(std::isnan(static_cast<float*>(out.data)[0]));
    CHECK(std::isfinite(static_cast<float*>(out.data)[kWidth]));
  }
}
