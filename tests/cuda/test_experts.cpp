// The CUDA backend's mixture of experts: routing against the plainest statement of it, answers against the naive twins, and bits.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "backend/cuda/linear.h"
#include "backend/cuda/moe.h"
#include "base/error.h"
#include "device_arrays.h"

using namespace qwen;
using namespace qwen::test;
using cuda::Element;
using cuda::Memory;

namespace {

// Routing's arrays.
struct Routed {
  Memory chosen, weights, members, counts, active;
  cuda::Routing view;

  Routed(DeviceArrays& arrays, int64_t rows, int64_t experts, int64_t top_k)
      : chosen(arrays.room<int32_t>(static_cast<size_t>(rows * top_k))),
        weights(arrays.room<float>(static_cast<size_t>(rows * top_k))),
        members(arrays.room<int32_t>(static_cast<size_t>(experts * rows))),
        counts(arrays.room<int32_t>(static_cast<size_t>(experts))),
        active(arrays.room<int32_t>(static_cast<size_t>(std::min(experts, rows * top_k)))) {
    view = {rows,
            experts,
            top_k,
            on<int32_t>(chosen),
            on<float>(weights),
            on<int32_t>(members),
            on<int32_t>(counts),
            on<int32_t>(active)};
  }
};

Memory put(DeviceArrays& arrays, const Floats& values, Element element) {
  return element == Element::f32 ? arrays.put(values) : arrays.put(to_bf16(values));
}
Floats as(const Floats& values, Element element) {
  return element == Element::f32 ? values : widened(to_bf16(values));
}

Floats multiply(const Floats& w, const Floats& x) {
  Floats y(w.size() / x.size());
  for (size_t n = 0; n < y.size(); ++n) {
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += double{w[n * x.size() + i]} * x[i];
    y[n] = static_cast<float>(sum);
  }
  return y;
}

struct Mixture {
  int64_t experts, top_k, width, inner;
  std::vector<Floats> gates, ups, downs;

  Mixture(Random& random, int64_t experts, int64_t top_k, int64_t width, int64_t inner)
      : experts(experts), top_k(top_k), width(width), inner(inner) {
    for (int64_t e = 0; e < experts; ++e) {
      gates.push_back(random.floats(inner * width));
      ups.push_back(random.floats(inner * width));
      downs.push_back(random.floats(width * inner));
    }
  }
};

struct Answer {
  Floats out, weights;
  std::vector<int32_t> chosen;
};

Answer run(DeviceArrays& arrays, const Mixture& mixture, const Floats& logits, const Floats& x,
           Element x_element, Element weight_element, bool aligned = true) {
  const auto rows = static_cast<int64_t>(x.size()) / mixture.width;
  Routed routed(arrays, rows, mixture.experts, mixture.top_k);
  const Memory of_logits = arrays.put(logits), of_x = put(arrays, x, x_element);
  cuda::route(*arrays.stream, {.logits = on<float>(of_logits), .normalise = true, .to = routed.view});
  std::vector<Memory> matrices;
  const auto pointers = [&](const std::vector<Floats>& of) {
    std::vector<const void*> each;
    for (const Floats& matrix : of) {
      matrices.push_back(put(arrays, matrix, weight_element));
      each.push_back(matrices.back().data());
    }
    return arrays.put(each);
  };
  const Memory gates = pointers(mixture.gates), ups = pointers(mixture.ups), downs = pointers(mixture.downs);
  const auto assignments = static_cast<size_t>(rows * mixture.top_k);
  const Memory hidden = x_element == Element::f32
                            ? arrays.room<float>(assignments * static_cast<size_t>(mixture.inner))
                            : arrays.room<uint16_t>(assignments * static_cast<size_t>(mixture.inner));
  const Memory answers = arrays.room<float>(assignments * static_cast<size_t>(mixture.width)),
               out = arrays.room<float>(x.size());
  cuda::run_experts(*arrays.stream, {.routing = routed.view,
                                     .x = of_x.data(),
                                     .x_element = x_element,
                                     .weight_element = weight_element,
                                     .width = mixture.width,
                                     .inner = mixture.inner,
                                     .gates = on<const void*>(gates),
                                     .ups = on<const void*>(ups),
                                     .downs = on<const void*>(downs),
                                     .aligned = aligned,
                                     .hidden = hidden.data(),
                                     .answers = on<float>(answers),
                                     .out = on<float>(out)});
  return {arrays.get<float>(out), arrays.get<float>(routed.weights), arrays.get<int32_t>(routed.chosen)};
}

}  // namespace

TEST_CASE("cuda route chooses the likeliest experts, of equal ones the first, and sorts the rows by expert") {
  DeviceArrays arrays;
  Random random(51);
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  struct Shape {
    int64_t rows, experts, top_k;
  };
  for (const Shape& s :
       {Shape{1, 8, 3}, Shape{70, 7, 7}, Shape{5, 130, 9}, Shape{300, 33, 2}, Shape{2, 1, 1}}) {
    for (const bool normalise : {false, true}) {
      CAPTURE(s.experts);
      Floats logits = random.floats(s.rows * s.experts, -4, 4);
      for (float& logit : logits) logit = std::round(logit * 4) / 4;  // many are equal
      const bool strange = s.rows >= 5;
      if (strange) {
        logits[static_cast<size_t>(s.experts)] = nan;  // row 1
        for (int64_t e = 1; e < s.experts; ++e)
          logits[static_cast<size_t>(2 * s.experts + e)] = -infinity;  // row 2: all but one
      }
      const Memory of_logits = arrays.put(logits);
      Routed routed(arrays, s.rows, s.experts, s.top_k);
      cuda::route(*arrays.stream,
                  {.logits = on<float>(of_logits), .normalise = normalise, .to = routed.view});
      const auto chosen = arrays.get<int32_t>(routed.chosen);
      const Floats weights = arrays.get<float>(routed.weights);
      std::vector<std::vector<int32_t>> assigned(static_cast<size_t>(s.experts));
      for (int64_t r = 0; r < s.rows; ++r) {
        std::vector<double> of_row(logits.begin() + r * s.experts, logits.begin() + (r + 1) * s.experts);
        double sum = 0;
        for (double& logit : of_row) {
          if (std::isnan(logit)) {
            sum = logit;
            logit = -infinity;
          }
        }
        const double top = *std::max_element(of_row.begin(), of_row.end());
        std::vector<int32_t> order(static_cast<size_t>(s.experts));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
          return of_row[static_cast<size_t>(a)] > of_row[static_cast<size_t>(b)];
        });
        order.resize(static_cast<size_t>(s.top_k));
        std::sort(order.begin(), order.end());
        if (normalise)
          for (const int32_t e : order) sum += std::exp(of_row[static_cast<size_t>(e)] - top);
        else
          for (const double logit : of_row) sum += std::exp(logit - top);
        for (int64_t i = 0; i < s.top_k; ++i) {
          const auto at = static_cast<size_t>(r * s.top_k + i);
          CHECK(chosen[at] == order[static_cast<size_t>(i)]);
          const double want =
              std::exp(of_row[static_cast<size_t>(order[static_cast<size_t>(i)])] - top) / sum;
          if (std::isnan(want))
            CHECK(std::isnan(weights[at]));
          else
            CHECK(weights[at] == doctest::Approx(want).epsilon(1e-6));
          assigned[static_cast<size_t>(chosen[at])].push_back(static_cast<int32_t>(at));
        }
      }
      const auto members = arrays.get<int32_t>(routed.members), counts = arrays.get<int32_t>(routed.counts);
      std::vector<int32_t> active;
      for (int64_t e = 0; e < s.experts; ++e) {
        const auto& want = assigned[static_cast<size_t>(e)];
        const auto from = members.begin() + e * s.rows;
        REQUIRE(counts[static_cast<size_t>(e)] == static_cast<int32_t>(want.size()));
        CHECK(std::equal(want.begin(), want.end(), from));
        if (!want.empty()) active.push_back(static_cast<int32_t>(e));
      }
      active.resize(static_cast<size_t>(routed.view.most_active()), -1);
      CHECK(arrays.get<int32_t>(routed.active) == active);
    }
  }
}

TEST_CASE("cuda route says when there are too many experts") {
  DeviceArrays arrays;
  cuda::RouteArgs args;
  args.to.rows = 1;
  args.to.experts = cuda::kMostExperts + 1;
  try {
    cuda::route(*arrays.stream, args);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.status() == Status::unsupported);
    CHECK(error.message() == "4097 experts; on a GPU there may be at most 4096");
  }
}

TEST_CASE(
    "cuda experts answer as the naive twins do, with the bits of linear and gated_linear, whatever the "
    "batch") {
  DeviceArrays arrays;
  Random random(52);
  struct Arithmetic {
    Element x, weight;
  };
  // Rows of 8 inputs, rows that suit no vector load, many rows of each expert.
  struct Shape {
    int64_t rows, experts, top_k, width, inner;
  };
  for (const Shape& s : {Shape{30, 6, 2, 72, 40}, Shape{5, 9, 3, 70, 33}, Shape{100, 3, 2, 48, 24},
                         Shape{3, 40, 4, 136, 16}}) {
    const Mixture mixture(random, s.experts, s.top_k, s.width, s.inner);
    const Floats x = random.floats(s.rows * s.width), logits = random.floats(s.rows * s.experts, -3, 3);
    for (const auto& [x_element, weight_element] :
         {Arithmetic{Element::bf16, Element::bf16}, Arithmetic{Element::f32, Element::f32},
          Arithmetic{Element::f32, Element::bf16}}) {
      CAPTURE(s.width);
      const Answer all = run(arrays, mixture, logits, x, x_element, weight_element);
      CHECK(same_bits(run(arrays, mixture, logits, x, x_element, weight_element, false).out, all.out));
      const Floats rounded = as(x, x_element);
      for (const int64_t r : {int64_t{0}, s.rows / 2, s.rows - 1}) {
        const Floats of_row(rounded.begin() + r * s.width, rounded.begin() + (r + 1) * s.width);
        Floats want(static_cast<size_t>(s.width)), bits(want.size());
        for (int64_t i = 0; i < s.top_k; ++i) {
          const auto at = static_cast<size_t>(r * s.top_k + i);
          const auto e = static_cast<size_t>(all.chosen[at]);
          // In double; and by the dense ops.
          const Floats gate = multiply(as(mixture.gates[e], weight_element), of_row),
                       up = multiply(as(mixture.ups[e], weight_element), of_row);
          Floats hidden(gate.size());
          for (size_t n = 0; n < hidden.size(); ++n) hidden[n] = gate[n] / (1 + std::exp(-gate[n])) * up[n];
          const Floats answer = multiply(as(mixture.downs[e], weight_element), as(hidden, x_element));
          for (size_t n = 0; n < want.size(); ++n) want[n] += all.weights[at] * answer[n];

          const Memory of_x = put(arrays, of_row, x_element),
                       of_gate = put(arrays, mixture.gates[e], weight_element),
                       of_up = put(arrays, mixture.ups[e], weight_element),
                       of_down = put(arrays, mixture.downs[e], weight_element);
          const Memory of_hidden = arrays.room<float>(static_cast<size_t>(s.inner)),
                       out = arrays.room<float>(want.size());
          cuda::gated_linear(*arrays.stream, {.x = of_x.data(),
                                              .x_element = x_element,
                                              .weight_element = weight_element,
                                              .rows = 1,
                                              .k = s.width,
                                              .gate = of_gate.data(),
                                              .up = of_up.data(),
                                              .outputs = s.inner,
                                              .out = of_hidden.data(),
                                              .out_element = x_element});
          cuda::LinearArgs down = {.x = of_hidden.data(),
                                   .x_element = x_element,
                                   .weight_element = weight_element,
                                   .rows = 1,
                                   .k = s.inner,
                                   .count = 1,
                                   .projections = {}};
          down.projections[0] = {.weight = of_down.data(), .out = on<float>(out), .outputs = s.width};
          cuda::linear(*arrays.stream, down);
          const Floats dense = arrays.get<float>(out);
          for (size_t n = 0; n < bits.size(); ++n) bits[n] = std::fma(all.weights[at], dense[n], bits[n]);
        }
        const Floats got(all.out.begin() + r * s.width, all.out.begin() + (r + 1) * s.width);
        CHECK(same_bits(got, bits));
        // A hidden number that rounds to the other bfloat16 is 2^-8 of itself off.
        CHECK(distance(got, want, 1.0) < (x_element == Element::bf16 ? 2e-2 : 2e-5));
        const Floats own_x(x.begin() + r * s.width, x.begin() + (r + 1) * s.width),
            own_logits(logits.begin() + r * s.experts, logits.begin() + (r + 1) * s.experts);
        CHECK(same_bits(run(arrays, mixture, own_logits, own_x, x_element, weight_element).out, got));
      }
    }
  }
}
