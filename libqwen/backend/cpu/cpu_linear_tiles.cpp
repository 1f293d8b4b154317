// CpuBackend::linear with matrix tiles: activations are packed once, panels of weights are shared out to the threads.
#include <algorithm>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/tile_kernels.h"

namespace qwen::cpu {
namespace {

// With few rows a panel is what a thread reads at a time: little, so that all end together. With many, its weights stay in L2
// while all rows pass.
constexpr int64_t kFewPanel = 64;
constexpr int64_t kPanelBytes = 512 << 10;
constexpr int64_t kPackInputs = 1024;

int64_t pieces(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

}  // namespace

PackedRows packed_rows(Rows x) {
  if (x.form == Form::plain) return {};
  const int64_t columns = packed_columns(x.rows);
  return {static_cast<std::byte*>(x.data), columns, packed_chunks(x.width) * columns * 64};
}

// Whole tiles only: an op that writes an operand need not think of padding.
Form CpuBackend::input_form(int64_t width, std::span<const Weight* const> weights) const {
  const bool tiles =
      width % kTileInputs == 0 &&
      std::all_of(weights.begin(), weights.end(), [&](const Weight* w) { return takes_tiles(*w); });
  return tiles ? Form::operand : Form::plain;
}

// x: the group's first row.
void CpuBackend::pack_group(const float* x, int64_t group, Rows out, int64_t first_chunk,
                            int64_t last_chunk) {
  const PackedRows packed = packed_rows(out);
  kernels_.tiles->pack({.x = x,
                        .x_stride = out.width,
                        .rows = std::min(kTileRows, out.rows - group * kTileRows),
                        .columns = packed.columns,
                        .k = out.width,
                        .first_chunk = first_chunk,
                        .last_chunk = last_chunk,
                        .to = packed.at(group * kTileRows, 0)});
}

void CpuBackend::write_operand(Rows out, const std::function<void(int64_t row, float* to)>& compute) {
  scratch(kTileRows * out.width);
  pool_.for_each(pieces(out.rows, kTileRows), [&](int64_t group, int worker) {
    float* const rows = worker_scratch(worker);
    for (int64_t r = group * kTileRows; r < std::min(out.rows, (group + 1) * kTileRows); ++r)
      compute(r, rows + r % kTileRows * out.width);
    pack_group(rows, group, out, 0, packed_chunks(out.width));
  });
}

// x as an operand: its own memory, or kept until the next call.
Rows CpuBackend::packed(Rows x) {
  if (x.form == Form::operand) return x;
  const auto bytes = static_cast<size_t>(packed_bytes(x.rows, x.width));
  if (packed_.size() < bytes) {
    packed_ = Buffer();
    packed_ = Buffer(bytes, "packed activations");
  }
  const Rows out{packed_.data(), x.rows, x.width, Form::operand};
  constexpr int64_t kChunks = kPackInputs / kTileInputs;
  const int64_t chunks = packed_chunks(x.width), parts = pieces(chunks, kChunks);
  const auto pack_part = [&](int64_t item, int) {
    const int64_t group = item / parts, first = item % parts * kChunks;
    pack_group(row(x, group * kTileRows), group, out, first, std::min(chunks, first + kChunks));
  };
  const int64_t items = pieces(x.rows, kTileRows) * parts;
  if (x.rows * x.width < kWorthAThread) {
    for (int64_t item = 0; item < items; ++item) pack_part(item, 0);
  } else {
    pool_.for_each(items, pack_part);
  }
  return out;
}

void CpuBackend::linear_in_tiles(Rows x, std::span<const Projection> projections, const CpuWeight* up) {
  int64_t outputs = 0;
  bool in_place = up == nullptr || up->in_place();
  for (const Projection& p : projections) {
    outputs += p.out.width;
    in_place = in_place && own(*p.weight).in_place();
  }
  const Rows operand = packed(x);
  const PackedRows packed_out = packed_rows(projections.front().out);
  const bool few = x.rows <= kFewTileRows;
  const int64_t matrices = up != nullptr ? 2 : 1;
  const int64_t step = few || up != nullptr ? kTileRows : 2 * kTileRows;
  const int64_t largest =
      few ? kFewPanel
          : std::max<int64_t>(kPanelBytes / (2 * matrices * slice_chunks(x.width) * kTileInputs) / 32, 1) *
                32;
  const int64_t panel = std::clamp(outputs / (2 * pool_.threads()) / step * step, step, largest);
  const int64_t tile_floats =
      tile_scratch_bytes(x.rows, panel * matrices, x.width) / static_cast<int64_t>(sizeof(float));
  const int64_t copy_floats = in_place ? 0 : (panel * x.width + 1) / 2;
  scratch(tile_floats + matrices * copy_floats);

  int64_t items = 0;
  for (const Projection& p : projections) items += pieces(p.out.width, panel);
  pool_.for_each(items, [&](int64_t item, int worker) {
    const Projection* p = projections.data();
    for (int64_t own_items; item >= (own_items = pieces(p->out.width, panel)); ++p) item -= own_items;
    const int64_t output = item * panel;
    float* const floats = worker_scratch(worker);
    TileLinearTask task = {.x = static_cast<const std::byte*>(operand.data),
                           .rows = x.rows,
                           .weight_stride = x.width * 2,
                           .outputs = std::min(panel, p->out.width - output),
                           .k = x.width,
                           .bias = p->bias != nullptr ? own(*p->bias).floats() + output : nullptr,
                           .out = packed_out.data ? nullptr : static_cast<float*>(p->out.data) + output,
                           .out_stride = p->out.width,
                           .packed = packed_out,
                           .packed_input = output,
                           .accumulate = p->accumulate,
                           .scratch = reinterpret_cast<std::byte*>(floats)};
    const auto matrix = [&](const CpuWeight& weight, float* copy) {
      if (weight.in_place()) return weight.data + output * weight.row_bytes();
      auto* const elements = reinterpret_cast<uint16_t*>(copy);
      weight.copy_bf16({.output = output, .outputs = task.outputs, .input = 0, .inputs = x.width}, elements);
      return static_cast<const std::byte*>(reinterpret_cast<std::byte*>(copy));
    };
    task.weight = matrix(own(*p->weight), floats + tile_floats);
    if (up != nullptr) task.up = matrix(*up, floats + tile_floats + copy_floats);
    kernels_.tiles->linear(task);
  });
}

void CpuBackend::gated_linear(Rows x, const Weight& gate, const Weight& up, Rows spare, Rows out) {
  const Rows up_out = out.form == Form::operand ? out : spare;
  const std::array both = {Projection{.weight = &gate, .out = out}, Projection{.weight = &up, .out = up_out}};
  if (x.rows > 0 && takes_tiles(both[0]) && takes_tiles(both[1])) {
    check(x, both);
    counted(Op::silu_mul, Format::f32);
    return linear_in_tiles(x, {both.data(), 1}, &own(up));
  }
  linear(x, both);
  silu_mul(out, spare, out);
}

}  // namespace qwen::cpu
