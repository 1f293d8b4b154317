// The portable level is the naive twins themselves, in float; but for the blocks, whose plain loops serve every level.
#include "backend/cpu/block_kernels.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/kernels.h"
#include "backend/reference/reference.h"

namespace qwen::cpu {
namespace {

// Four lanes are what x86-64 and AArch64 have without asking.
int64_t peak(int64_t rounds, float* sink) {
  constexpr int kSums = 8, kLanes = 4;
  float sums[kSums][kLanes];
  for (int i = 0; i < kSums; ++i)
    for (float& lane : sums[i]) lane = *sink + static_cast<float>(i);
  for (int64_t round = 0; round < rounds; ++round) {
    for (auto& sum : sums)
      for (float& lane : sum) lane = lane * 0.5f + 1.0f;
  }
  float total = 0;
  for (const auto& sum : sums) total += sum[0];
  *sink = total;
  return rounds * 2 * kSums * kLanes;
}

}  // namespace

const Kernels& portable_kernels() {
  namespace naive = reference;
  static constexpr Kernels table = {
      .k_slice = 0,
      .linear = {naive::linear<float, Format::f32>, naive::linear<float, Format::f16>,
                 naive::linear<float, Format::bf16>},
      .attention = {naive::attention<float, Format::f32>, nullptr, naive::attention<float, Format::bf16>},
      .widen = {naive::widen<Format::f32>, naive::widen<Format::f16>, naive::widen<Format::bf16>},
      .widen_blocks = {widen_blocks<Format::q4_0>, widen_blocks<Format::q4_1>, widen_blocks<Format::q5_0>,
                       widen_blocks<Format::q5_1>, widen_blocks<Format::q8_0>, widen_blocks<Format::iq4_nl>,
                       widen_blocks<Format::mxfp4>, widen_blocks<Format::q2_k>, widen_blocks<Format::q3_k>,
                       widen_blocks<Format::q4_k>, widen_blocks<Format::q5_k>, widen_blocks<Format::q6_k>,
                       widen_blocks<Format::iq4_xs>},
      .narrow_bf16 = naive::narrow_bf16,
      .rms_norm = naive::rms_norm<float>,
      .silu_mul = naive::silu_mul<float>,
      .sigmoid_mul = naive::sigmoid_mul<float>,
      .convolution = naive::convolution<float>,
      .multiply = naive::multiply<float>,
      .gated_delta = naive::gated_delta<float>,
      .rope = naive::rope<float>,
      .peak = peak,
  };
  return table;
}

const Kernels& kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::amx) return amx_kernels();
  if (isa == Isa::avx512) return avx512_kernels();
  if (isa == Isa::avx2) return avx2_kernels();
#endif
  (void)isa;
  return portable_kernels();
}

}  // namespace qwen::cpu
