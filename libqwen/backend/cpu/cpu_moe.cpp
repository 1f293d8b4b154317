// CpuBackend::moe: which rows go to which expert, one expert after the other, and back.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "backend/cpu/cpu_backend.h"

namespace qwen::cpu {

// The row's top_k experts by index in routing_.chosen, and their weights in routing_.probabilities. A row's choice is its own
// affair: nothing here depends on the other rows.
void CpuBackend::route(float* logits, int64_t experts, const MoeArgs& args) {
  auto& [order, chosen, probabilities, assigned] = routing_;
  // NaN has no place in an order: it is taken out of the logits and kept in the sum, which makes all weights NaN.
  double sum = 0;
  for (int64_t e = 0; e < experts; ++e) {
    if (!std::isnan(logits[e])) continue;
    sum = logits[e];
    logits[e] = -std::numeric_limits<float>::infinity();
  }
  const float top = *std::max_element(logits, logits + experts);
  probabilities.resize(static_cast<size_t>(experts));
  for (int64_t e = 0; e < experts; ++e)
    sum += probabilities[static_cast<size_t>(e)] = std::exp(double{logits[e]} - top);
  order.resize(static_cast<size_t>(experts));
  std::iota(order.begin(), order.end(), 0);
  std::nth_element(order.begin(), order.begin() + args.top_k - 1, order.end(), [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  chosen.assign(order.begin(), order.begin() + args.top_k);
  std::sort(chosen.begin(), chosen.end());
  if (args.normalise) {
    sum -= sum;  // 0, or NaN
    for (const int32_t e : chosen) sum += probabilities[static_cast<size_t>(e)];
  }
  for (const int32_t e : chosen) probabilities[static_cast<size_t>(e)] /= sum;
}

void CpuBackend::moe(Workspace& workspace, Rows x, const MoeArgs& args, Rows out) {
  counted(Op::moe, Format::f32);
  const auto experts = static_cast<int64_t>(args.experts.size());
  const Workspace::Mark start = workspace.mark();
  const Rows logits = workspace.rows(x.rows, experts);
  linear(x, std::array{Projection{.weight = args.router, .out = logits, .exact = true}});

  auto& assigned = routing_.assigned;
  assigned.resize(std::max(assigned.size(), args.experts.size()));
  for (auto& rows : assigned) rows.clear();
  for (int64_t r = 0; r < x.rows; ++r) {
    route(row(logits, r), experts, args);
    for (const int32_t e : routing_.chosen)
      assigned[static_cast<size_t>(e)].push_back(
          {static_cast<int32_t>(r), static_cast<float>(routing_.probabilities[static_cast<size_t>(e)])});
  }

  std::memset(out.data, 0, static_cast<size_t>(out.rows * out.width) * sizeof(float));
  const Workspace::Mark one_expert = workspace.mark();
  for (int64_t e = 0; e < experts; ++e) {
    const auto& rows = assigned[static_cast<size_t>(e)];
    if (rows.empty()) continue;
    const Expert& expert = args.experts[static_cast<size_t>(e)];
    const auto count = static_cast<int64_t>(rows.size());
    const Rows own_x = workspace.rows(count, x.width);
    const Form form = input_form(args.inner, std::array{expert.gate, expert.up, expert.down});
    const Rows gate = workspace.rows(count, args.inner, form);
    const Rows up = form == Form::operand ? Rows{} : workspace.rows(count, args.inner);
    const Rows answer = workspace.rows(count, out.width);
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(row(own_x, i), row(x, rows[static_cast<size_t>(i)].row),
                  static_cast<size_t>(x.width) * sizeof(float));
    gated_linear(own_x, *expert.gate, *expert.up, up, gate);
    linear(gate, std::array{Projection{.weight = expert.down, .out = answer}});
    for_rows(count, out.width, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const auto [target, weight] = rows[static_cast<size_t>(i)];
        float* const to = row(out, target);
        const float* const from = row(answer, i);
        for (int64_t n = 0; n < out.width; ++n) to[n] += weight * from[n];
      }
    });
    workspace.rewind(one_expert);
  }
  workspace.rewind(start);
}

void CpuBackend::add(Rows x, const Rows* gate, Rows out) {
  for_rows(out.rows, out.width, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float factor = gate ? static_cast<float>(1 / (1 + std::exp(-double{*row(*gate, r)}))) : 1.0f;
      float* const to = row(out, r);
      const float* const from = row(x, r);
      for (int64_t n = 0; n < out.width; ++n) to[n] += factor * from[n];
    }
  });
}

}  // namespace qwen::cpu
