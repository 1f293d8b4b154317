// CpuBackend::linear: cutting matrix products into items that fit the caches.
#include <algorithm>

#include "backend/cpu/cpu_backend.h"
#include "base/error.h"

namespace qwen::cpu {
namespace {

// Up to here the weights are read as they are. With more rows a panel of them is first widened into the
// thread's scratch, where it is aligned, dense and serves all rows (AVX-512, 512 rows of [3072, 1024] bf16:
// 150 against 132 GFLOP/s; at 24 rows the same). Both give the same bits: widening is exact and the kernels
// sum in one order. A quantised or transposed matrix goes this way at every row count: kernels see its float32
// values only, so what holds for plain weights and their bits holds for it.
constexpr int64_t kFewRows = 32;
// 64 outputs x 1024 floats of a panel take 256 KiB, as much of 128 rows of x 512 KiB, their partial sums 512
// KiB: together they stay in an L2 of 2 MiB.
constexpr int64_t kPanelFloats = 64 << 10;
constexpr int64_t kPanelOutputs = 64;
constexpr int64_t kRowsPerItem = 128;

int64_t pieces(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

}  // namespace

void CpuBackend::check(Rows x, std::span<const Projection> projections) {
  for (const Projection& p : projections) {
    const CpuWeight& weight = own(*p.weight);
    if (weight.width != x.width || weight.outputs != p.out.width || p.out.rows != x.rows) {
      fail(Status::internal, "linear: weight [", weight.outputs, ", ", weight.width, "], x [", x.rows, ", ",
           x.width, "], out [", p.out.rows, ", ", p.out.width, "]");
    }
    if (x.form == Form::operand && !takes_tiles(p))
      fail(Status::internal, "linear: an operand for a weight that takes plain rows");
    counted(Op::linear, weight.format);
  }
}

void CpuBackend::linear(Rows x, std::span<const Projection> projections) {
  if (x.rows == 0) return;
  check(x, projections);
  // Neighbours of one kind together.
  while (!projections.empty()) {
    const bool in_tiles = takes_tiles(projections.front());
    size_t count = 1;
    while (count < projections.size() && takes_tiles(projections[count]) == in_tiles) ++count;
    if (in_tiles) {
      linear_in_tiles(x, projections.first(count));
    } else {
      linear_in_vectors(x, projections.first(count));
    }
    projections = projections.subspan(count);
  }
}

void CpuBackend::linear_in_vectors(Rows x, std::span<const Projection> projections) {
  int64_t outputs = 0;
  bool in_panels = false;
  for (const Projection& p : projections) {
    outputs += p.out.width;
    in_panels = in_panels || !own(*p.weight).in_place();
  }
  const bool few = x.rows <= kFewRows;
  const bool widened = !few || in_panels;  // any of the projections
  const int64_t slice = !widened || kernels_.k_slice == 0 ? x.width : std::min(x.width, kernels_.k_slice);
  // Panels of a multiple of 8 outputs, small enough that every thread gets several.
  const int64_t by_cache = std::min(kPanelOutputs, kPanelFloats / std::max<int64_t>(1, slice));
  const int64_t by_threads = outputs / (4 * pool_.threads());
  const int64_t panel = std::max<int64_t>(8, std::min(by_cache, by_threads) / 8 * 8);
  const int64_t rows_per_item = few ? x.rows : std::min(x.rows, kRowsPerItem);
  const int64_t row_items = pieces(x.rows, rows_per_item);
  // A line more than the slice: rows a power of two apart would compete for the same sets of L1 (2-3 %).
  const int64_t stride = (slice + kMaxLanes - 1) / kMaxLanes * kMaxLanes + kMaxLanes;
  const int64_t panel_floats = panel * stride;
  if (widened) scratch(panel_floats + (slice < x.width ? panel * rows_per_item * kMaxLanes : 0));

  int64_t items = 0;
  for (const Projection& p : projections) items += pieces(p.out.width, panel) * row_items;
  pool_.for_each(items, [&](int64_t item, int worker) {
    const Projection* p = projections.data();
    for (int64_t own_items; item >= (own_items = pieces(p->out.width, panel) * row_items); ++p)
      item -= own_items;
    const CpuWeight& weight = own(*p->weight);
    const int64_t output = item / row_items * panel, row = item % row_items * rows_per_item;
    LinearTask task = {.x = static_cast<const float*>(x.data) + row * x.width,
                       .x_stride = x.width,
                       .rows = std::min(rows_per_item, x.rows - row),
                       .weight_stride = x.width,
                       .outputs = std::min(panel, p->out.width - output),
                       .k = x.width,
                       .bias = p->bias != nullptr ? own(*p->bias).floats() + output : nullptr,
                       .out = static_cast<float*>(p->out.data) + row * p->out.width + output,
                       .out_stride = p->out.width,
                       .accumulate = p->accumulate};
    if (few && weight.in_place()) {
      task.weight = weight.data + output * weight.row_bytes();
      task.from_memory = true;
      kernels_.linear[static_cast<int>(weight.format)](task);
      return;
    }
    float* const floats = worker_scratch(worker);
    const float* const first_x = task.x;
    task.weight = reinterpret_cast<const std::byte*>(floats);
    task.weight_stride = stride;
    task.partial = floats + panel_floats;
    for (int64_t begin = 0; begin < x.width; begin += slice) {
      task.k = std::min(slice, x.width - begin);
      const Panel part = {.output = output, .outputs = task.outputs, .input = begin, .inputs = task.k};
      weight.widen(kernels_, part, floats, stride);
      task.x = first_x + begin;
      task.resume = begin > 0;
      task.suspend = begin + task.k < x.width;
      kernels_.linear[static_cast<int>(Format::f32)](task);
    }
  });
}

}  // namespace qwen::cpu
