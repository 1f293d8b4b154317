#include "backend/cpu/isa.h"

#include "backend/backend.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace qwen::cpu {
namespace {

constexpr std::array kIsas = {Isa::portable, Isa::avx2, Isa::avx512};

#if defined(__x86_64__)
struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf) {
  Registers r;
  __get_cpuid_count(leaf, 0, &r.eax, &r.ebx, &r.ecx, &r.edx);  // zeros beyond the highest leaf
  return r;
}

// The register files that the operating system saves and restores.
uint64_t enabled_state() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

bool all_set(uint64_t bits, uint64_t mask) {
  return (bits & mask) == mask;
}

Isa highest_isa() {
  const Registers basic = cpuid(1), extended = cpuid(7);
  constexpr unsigned kFma = 1u << 12, kOsXsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;  // leaf 1 ecx
  constexpr unsigned kAvx2 = 1u << 5, kBmi2 = 1u << 8;                                         // leaf 7 ebx
  constexpr unsigned kAvx512 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;  // F DQ CD BW VL
  constexpr uint64_t kYmmState = 0x6, kZmmState = 0xe6;
  if (!all_set(basic.ecx, kFma | kOsXsave | kAvx | kF16c) || !all_set(extended.ebx, kAvx2 | kBmi2)) {
    return Isa::portable;
  }
  const uint64_t state = enabled_state();
  if (!all_set(state, kYmmState)) return Isa::portable;
  return all_set(extended.ebx, kAvx512) && all_set(state, kZmmState) ? Isa::avx512 : Isa::avx2;
}
#else
Isa highest_isa() {
  return Isa::portable;
}
#endif

std::string names(const std::vector<Isa>& isas) {
  std::string text;
  for (const Isa isa : isas) text += cat(text.empty() ? "" : ", ", isa_name(isa));
  return text;
}

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    default:
      return "portable";
  }
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : kIsas) {
    if (isa <= highest_isa()) isas.push_back(isa);
  }
  return isas;
}

Isa choose_isa(std::string_view requested) {
  if (requested.empty()) return available_isas().back();
  const auto found = std::ranges::find(kIsas, requested, isa_name);
  if (found == kIsas.end()) {
    fail(Status::invalid_argument, "cpu_isa is ", quote(requested),
         "; valid are: ", names({kIsas.begin(), kIsas.end()}));
  }
  if (*found > available_isas().back()) {
    fail(Status::unsupported, "cpu_isa asks for ", requested,
         ", which this machine lacks; it has: ", names(available_isas()));
  }
  return *found;
}

}  // namespace qwen::cpu

namespace qwen {

std::vector<std::string> cpu_isa_levels() {
  std::vector<std::string> levels;
  for (const cpu::Isa isa : cpu::available_isas()) levels.emplace_back(cpu::isa_name(isa));
  return levels;
}

}  // namespace qwen
