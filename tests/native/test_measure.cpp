// Measuring the machine: what it counts is what it did, at every level.
#include <cmath>

#include <doctest/doctest.h>
#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/tile_peak.h"
#include "base/error.h"

using namespace qwen;

TEST_CASE("every level multiplies as often as it says, and does not overflow") {
  const auto check = [](cpu::PeakKernel peak, double sum) {
    float sink = 0;
    const int64_t operations = peak(100, &sink);
    CHECK(operations > 0);
    CHECK(peak(300, &sink) == 3 * operations);
    CHECK(std::abs(sink - sum) < 1e-3 * sum + 1e-6);
  };
  for (const cpu::Isa isa : cpu::available_isas()) {
    const double lanes = isa == cpu::Isa::portable ? 1 : isa == cpu::Isa::avx2 ? 8 : 16;
    const double sums = isa == cpu::Isa::portable ? 8 : 12;
    check(cpu::kernels(isa).peak, 2 * lanes * sums);  // x -> x / 2 + 1 goes to 2
#if defined(__x86_64__)
    if (isa == cpu::Isa::amx) {
      cpu::choose_isa("amx");  // asks the system for the tiles
      check(cpu::tile_peak, 0);
    }
#endif
  }
}

TEST_CASE("measuring a machine says what was measured") {
  const MachineLimits limits =
      measure_machine({.precision = Precision::f32, .threads = 2, .isa = "portable"});
  CHECK(limits.threads == 2);
  CHECK(limits.level == "portable");
  CHECK(limits.precision == Precision::f32);
  CHECK(limits.read_bytes_per_second > 1e7);
  CHECK(limits.flops_per_second > 1e7);
  CHECK(limits.buffer_bytes >= int64_t{64} << 20);
  CHECK_THROWS_AS(measure_machine({.isa = "sse9"}), Error);
  CHECK_THROWS_AS(measure_machine({.threads = -1, .isa = ""}), Error);
}
