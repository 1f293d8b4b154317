// CpuBackend::linear with matrix tiles: activations are packed once, panels of weights are shared out to the threads.
#include <algorithm>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/tile_kernels.h"

namespace qwen::cpu {
namespace {

// With few rows a panel is what a thread reads at a time: little, so that all end together. With many, its weights (256 KiB at
// 1024 inputs) stay in L2 while all rows pass.
constexpr int64_t kFewPanel = 64, kManyPanel = 128;
constexpr int64_t kPackInputs = 1024;

int64_t pieces(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

}  // namespace

const std::byte* CpuBackend::pack(Rows x) {
  const int64_t columns = packed_columns(x.rows), chunks = packed_chunks(x.width);
  const auto bytes = static_cast<size_t>(packed_bytes(x.rows, x.width));
  if (packed_.size() < bytes) {
    packed_ = Buffer();
    packed_ = Buffer(bytes, "packed activations");
  }
  constexpr int64_t kChunks = kPackInputs / kTileInputs;
  const int64_t parts = pieces(chunks, kChunks);
  const auto pack_part = [&](int64_t item, int) {
    const int64_t group = item / parts, first = item % parts * kChunks;
    kernels_.tiles->pack({.x = row(x, group * kTileRows),
                          .x_stride = x.width,
                          .rows = std::min(kTileRows, x.rows - group * kTileRows),
                          .columns = columns,
                          .k = x.width,
                          .first_chunk = first,
                          .last_chunk = std::min(chunks, first + kChunks),
                          .to = packed_.data() + group * chunks * columns * 64});
  };
  const int64_t items = pieces(x.rows, kTileRows) * parts;
  if (x.rows * x.width < kWorthAThread) {
    for (int64_t item = 0; item < items; ++item) pack_part(item, 0);
  } else {
    pool_.for_each(items, pack_part);
  }
  return packed_.data();
}

void CpuBackend::linear_in_tiles(Rows x, std::span<const Projection> projections, const CpuWeight* up) {
  int64_t outputs = 0;
  bool in_place = up == nullptr || up->in_place();
  for (const Projection& p : projections) {
    outputs += p.out.width;
    in_place = in_place && own(*p.weight).in_place();
  }
  const std::byte* const packed = pack(x);
  const bool few = x.rows <= kFewTileRows;
  const int64_t matrices = up != nullptr ? 2 : 1;
  const int64_t step = few || up != nullptr ? kTileRows : 2 * kTileRows;
  const int64_t largest = few ? kFewPanel : kManyPanel / matrices;
  const int64_t panel = std::clamp(outputs / (4 * pool_.threads()) / step * step, step, largest);
  const int64_t tile_floats =
      tile_scratch_bytes(x.rows, panel * matrices) / static_cast<int64_t>(sizeof(float));
  const int64_t copy_floats = in_place ? 0 : (panel * x.width + 1) / 2;
  scratch(tile_floats + matrices * copy_floats);

  int64_t items = 0;
  for (const Projection& p : projections) items += pieces(p.out.width, panel);
  pool_.for_each(items, [&](int64_t item, int worker) {
    const Projection* p = projections.data();
    for (int64_t own_items; item >= (own_items = pieces(p->out.width, panel)); ++p) item -= own_items;
    const int64_t output = item * panel;
    float* const floats = worker_scratch(worker);
    TileLinearTask task = {.x = packed,
                           .rows = x.rows,
                           .weight_stride = x.width * 2,
                           .outputs = std::min(panel, p->out.width - output),
                           .k = x.width,
                           .bias = p->bias != nullptr ? own(*p->bias).floats() + output : nullptr,
                           .out = static_cast<float*>(p->out.data) + output,
                           .out_stride = p->out.width,
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
  const std::array both = {Projection{.weight = &gate, .out = out}, Projection{.weight = &up, .out = spare}};
  if (x.rows > 0 && takes_tiles(both[0]) && takes_tiles(both[1])) {
    check(x, both);
    counted(Op::silu_mul, Format::f32);
    return linear_in_tiles(x, {both.data(), 1}, &own(up));
  }
  linear(x, both);
  silu_mul(out, spare, out);
}

}  // namespace qwen::cpu
