#include "backend/cpu/isa.h"

#include "backend/backend.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace qwen::cpu {
namespace {

constexpr std::array kIsas = {Isa::portable, Isa::avx2, Isa::avx512, Isa::amx};

#if defined(__x86_64__)
struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);  // zeros beyond the highest leaf
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

// Linux hands out the tiles' state on demand (https://docs.kernel.org/arch/x86/xstate.html).
constexpr unsigned kTileData = 18;
constexpr int kGetSupported = 0x1021, kRequestPermission = 0x1023;

bool system_has_tiles() {
  uint64_t supported = 0;
  return syscall(SYS_arch_prctl, kGetSupported, &supported) == 0 && (supported >> kTileData & 1) != 0;
}

// Refused where a thread of the host has a signal stack too small for the larger frames.
bool permit_tiles() {
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
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
  if (!all_set(extended.ebx, kAvx512) || !all_set(state, kZmmState)) return Isa::avx2;
  constexpr unsigned kAmx = 1u << 22 | 1u << 24, kAvx512Bf16 = 1u << 5;  // leaf 7 edx: BF16, TILE; 7.1 eax
  constexpr uint64_t kTileState = 0x60000;
  const bool amx = all_set(extended.edx, kAmx) && all_set(cpuid(7, 1).eax, kAvx512Bf16) &&
                   all_set(state, kTileState) && system_has_tiles();
  return amx ? Isa::amx : Isa::avx512;
}
#else
bool permit_tiles() {
  return false;
}

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
    case Isa::amx:
      return "amx";
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
  if (requested.empty()) {
    const Isa best = available_isas().back();
    return best == Isa::amx && !permit_tiles() ? Isa::avx512 : best;
  }
  const auto found = std::ranges::find(kIsas, requested, isa_name);
  if (found == kIsas.end()) {
    fail(Status::invalid_argument, "cpu_isa is ", quote(requested),
         "; valid are: ", names({kIsas.begin(), kIsas.end()}));
  }
  if (*found > available_isas().back()) {
    fail(Status::unsupported, "cpu_isa asks for ", requested,
         ", which this machine lacks; it has: ", names(available_isas()));
  }
  if (*found == Isa::amx && !permit_tiles()) {
    fail(Status::unsupported,
         "cpu_isa asks for amx, and the system refuses this process the tiles' state: a thread's signal "
         "stack (sigaltstack) may be too small for it; cpu_isa avx512 needs no permission");
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
