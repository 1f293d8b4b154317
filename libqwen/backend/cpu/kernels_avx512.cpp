// The kernels with AVX-512 (F, BW, DQ, VL, CD).
#include "backend/cpu/generic_kernels.h"
#include "backend/cpu/simd_avx512.h"

namespace qwen::cpu {

const Kernels& avx512_kernels() {
  static constexpr Kernels table = vector_kernels<Avx512>();
  return table;
}

}  // namespace qwen::cpu
