#include "model/linear.h"

#include <array>
#include <span>

namespace qwen {
namespace {

// out[r] += scale (x[r] A') B' for the rows r of one adapter. A row's bits are its own and its adapter's affair: linear()
// promises it, and one product is added to each of its elements.
void add_low_rank(const Step& step, const AdapterRows& group, Rows x,
                  std::initializer_list<LinearOutput> outputs) {
  const auto count = static_cast<int64_t>(group.rows.size());
  const Workspace::Mark start = step.workspace.mark();
  Rows own_x = count == x.rows ? x : Rows{};
  for (const auto& [linear, out, accumulate] : outputs) {
    const LowRank& change = group.adapter->low_ranks[static_cast<size_t>(linear.index)];
    if (!change.a) continue;
    if (!own_x.data) {
      own_x = step.workspace.rows(count, x.width);
      step.backend.gather(x, group.rows, own_x);
    }
    const Rows thin = step.workspace.rows(count, change.rank), wide = step.workspace.rows(count, out.width);
    step.backend.linear(own_x, std::array{Projection{.weight = change.a.get(), .out = thin}});
    step.backend.linear(thin, std::array{Projection{.weight = change.b.get(), .out = wide}});
    step.backend.scatter_add(wide, group.rows, change.scale, out);
  }
  step.workspace.rewind(start);
}

}  // namespace

Rows input_rows(const Step& step, int64_t rows, int64_t width, std::initializer_list<const Linear*> readers) {
  if (!step.adapters.empty()) return step.workspace.rows(rows, width);
  std::array<const Weight*, 4> weights;
  size_t count = 0;
  for (const Linear* linear : readers) weights.at(count++) = linear->weight.get();
  return step.workspace.rows(rows, width, step.backend.input_form(width, std::span(weights).first(count)));
}

void project(const Step& step, Rows x, std::initializer_list<LinearOutput> outputs) {
  std::array<Projection, 4> projections;
  size_t count = 0;
  for (const auto& [linear, out, accumulate] : outputs)
    projections.at(count++) = {
        .weight = linear.weight.get(), .bias = linear.bias.get(), .out = out, .accumulate = accumulate};
  step.backend.linear(x, std::span(projections).first(count));
  for (const AdapterRows& group : step.adapters) add_low_rank(step, group, x, outputs);
}

}  // namespace qwen
