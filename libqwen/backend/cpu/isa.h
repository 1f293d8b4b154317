// The instruction-set levels of the CPU backend, chosen at run time. Each level has one order of accumulation
// for every operation, so results are equal to the bit within a level; between levels they differ by
// rounding.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace qwen::cpu {

// In ascending order; each contains the ones before it.
enum class Isa : uint8_t {
  portable,  // the compiler's baseline: x86-64 or any other machine
  avx2,      // AVX2, FMA, F16C, BMI2
  avx512,    // AVX-512 F, BW, DQ, VL, CD
  amx,       // AMX tiles of bfloat16, AVX-512 BF16
};

std::string_view isa_name(Isa isa);

// What both the CPU and the operating system (XCR0) allow, ascending; never empty.
std::vector<Isa> available_isas();

// The level to use; empty: the highest available. (The options table has asked QWEN_CPU_ISA already.) Tiles need the system's
// permission, which is the process's from then on.
// Throws Error: invalid_argument (unknown name), unsupported (this machine lacks it).
Isa choose_isa(std::string_view requested);

}  // namespace qwen::cpu
