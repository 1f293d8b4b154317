// linear() and gated_linear(): which kernel of linear_kernels.h is the fastest. All give the same bits.
#include "backend/cuda/linear.h"
#include "backend/cuda/linear_kernels.h"

namespace qwen::cuda {
namespace {

constexpr int64_t kFewRows = 32;

template <Rows16 kKind>
void launch_few(Stream& stream, const Work& work) {
  if (work.rows <= 8) return launch_few<kKind, 1, true, false>(stream, work, 1);
  if (work.rows <= 16) return launch_few<kKind, 2, true, false>(stream, work, 1);
  launch_few<kKind, 4, true, false>(stream, work, 1);
}

template <bool kGated>
void multiply_bf16(Stream& stream, const Work& work, int multiprocessors) {
  bool fast = work.k % 8 == 0 && aligned(work.x) && aligned(work.up);
  for (int i = 0; i < work.count; ++i) fast = fast && aligned(work.projections[i].weight);
  constexpr Rows16 kKind = kGated ? Rows16::gated : Rows16::whole;
  if (!fast) return launch_few<kKind, 4, false, false>(stream, work, 1);
  if (work.rows <= kFewRows) {
    if constexpr (!kGated) {
      if (tiles(work, 16) < multiprocessors) return launch_few<Rows16::half>(stream, work);
    }
    return launch_few<kKind>(stream, work);
  }
  using Large = ManyRows<kGated, 4, 4>;
  if (pieces(work.rows, Large::kTileRows) * tiles(work, Large::kTileOutputs) >= multiprocessors)
    return launch_many<kGated, 4, 4, false>(stream, work, 1);
  launch_many<kGated, 2, 2, false>(stream, work, 1);
}

template <class Weight, bool kGated>
void multiply_f32(Stream& stream, const Work& work) {
  bool fast = work.k % 4 == 0 && aligned(work.x) && aligned(work.up);
  for (int i = 0; i < work.count; ++i) fast = fast && aligned(work.projections[i].weight);
  if (work.rows == 1) return launch_fma<Weight, kGated, 1, false>(stream, work, fast, 1);
  launch_fma<Weight, kGated, 8, false>(stream, work, fast, 1);
}

template <bool kGated>
void multiply(Stream& stream, const Work& work, Element x, Element weight, int multiprocessors) {
  if (x == Element::bf16) return multiply_bf16<kGated>(stream, work, multiprocessors);
  if (weight == Element::f32) return multiply_f32<float, kGated>(stream, work);
  multiply_f32<uint16_t, kGated>(stream, work);
}

}  // namespace

void linear(Stream& stream, const LinearArgs& args) {
  if (args.rows == 0 || args.count == 0) return;
  Work work = {.x = args.x,
               .rows = args.rows,
               .k = args.k,
               .slice = slice_length(args.k),
               .slices = static_cast<int>(pieces(args.k, slice_length(args.k))),
               .count = args.count,
               .projections = {},
               .up = nullptr,
               .gated_out = nullptr,
               .out_element = Element::f32};
  for (int i = 0; i < args.count; ++i) work.projections[i] = args.projections[i];
  multiply<false>(stream, work, args.x_element, args.weight_element, args.multiprocessors);
}

void gated_linear(Stream& stream, const GatedLinearArgs& args) {
  if (args.rows == 0) return;
  Work work = {.x = args.x,
               .rows = args.rows,
               .k = args.k,
               .slice = slice_length(args.k),
               .slices = static_cast<int>(pieces(args.k, slice_length(args.k))),
               .count = 1,
               .projections = {},
               .up = args.up,
               .gated_out = args.out,
               .out_element = args.out_element};
  work.projections[0] = {.weight = args.gate, .outputs = args.outputs};
  multiply<true>(stream, work, args.x_element, args.weight_element, args.multiprocessors);
}

}  // namespace qwen::cuda
