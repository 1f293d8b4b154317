// Random data and comparisons for the tests of kernels and backend.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/kernels.h"

namespace qwen::test {

using Floats = std::vector<float>;

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  float uniform(float low = -1, float high = 1) {
    return std::uniform_real_distribution<float>(low, high)(engine_);
  }
  int64_t integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  Floats floats(int64_t n, float low = -1, float high = 1) {
    Floats values(static_cast<size_t>(n));
    for (float& value : values) value = uniform(low, high);
    return values;
  }

 private:
  std::mt19937 engine_;
};

inline uint16_t to_bf16(float x) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16);
}
inline uint16_t to_f16(float x) {  // |x| in [2^-14, 2): truncates
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const int exponent = static_cast<int>(bits >> 23 & 0xff) - 112;
  if (exponent <= 0) return static_cast<uint16_t>(bits >> 16 & 0x8000);
  return static_cast<uint16_t>((bits >> 16 & 0x8000) | static_cast<uint32_t>(exponent) << 10 |
                               (bits >> 13 & 0x3ff));
}

// x as a bf16 engine multiplies it at a level: tiles take it rounded to bfloat16.
inline Floats as_multiplied(Floats x, std::string_view isa) {
  if (isa != "amx") return x;
  for (float& value : x) {
    uint16_t bits;
    cpu::portable_kernels().narrow_bf16(&value, 1, &bits);
    value = std::bit_cast<float>(uint32_t{bits} << 16);
  }
  return x;
}

// A file's bytes: n random elements of a format, starting at a byte offset that suits no instruction.
struct FileBytes {
  std::vector<std::byte> storage;
  size_t offset;
  const std::byte* data() const { return storage.data() + offset; }
};

inline FileBytes random_elements(Random& random, cpu::Format format, int64_t n, size_t offset = 3) {
  const size_t bytes = format == cpu::Format::f32 ? 4 : 2;
  FileBytes file{std::vector<std::byte>(static_cast<size_t>(n) * bytes + offset), offset};
  for (int64_t i = 0; i < n; ++i) {
    const float value = random.uniform();
    const uint16_t half = format == cpu::Format::bf16 ? to_bf16(value) : to_f16(value);
    std::byte* const target = file.storage.data() + offset + static_cast<size_t>(i) * bytes;
    if (format == cpu::Format::f32)
      std::memcpy(target, &value, 4);
    else
      std::memcpy(target, &half, 2);
  }
  return file;
}

inline TensorView tensor(const std::byte* data, DType dtype, std::vector<int64_t> shape) {
  size_t elements = 1;
  for (const int64_t n : shape) elements *= static_cast<size_t>(n);
  return {"test.weight", dtype, std::move(shape), data, elements * (dtype == DType::f32 ? 4 : 2), "memory"};
}

inline TensorView tensor(const Floats& values, std::vector<int64_t> shape) {
  return tensor(reinterpret_cast<const std::byte*>(values.data()), DType::f32, std::move(shape));
}

inline bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// The largest |a - b| / (scale + |b|); infinite when a value is not finite.
inline double distance(const Floats& a, const Floats& b, double scale) {
  double largest = a.size() == b.size() ? 0 : INFINITY;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]) / (scale + std::abs(b[i]));
    if (!(difference <= largest)) largest = std::isnan(difference) ? INFINITY : difference;
  }
  return largest;
}

inline std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const cpu::Isa isa : cpu::available_isas()) names.emplace_back(cpu::isa_name(isa));
  return names;
}

inline std::unique_ptr<Backend> backend(const std::string& isa, Precision precision, int threads = 2) {
  return create_cpu_backend({.precision = precision, .threads = threads, .isa = isa});
}

inline Rows rows_of(Floats& values, int64_t width) {
  return {values.data(), static_cast<int64_t>(values.size()) / width, width};
}

// Keys and values as they are.
inline void store_kv(Backend& cpu, CacheStorage& cache, const Batch& batch, const AttentionArgs& args, Rows k,
                     Rows v) {
  cpu.store_heads(cache, batch, args, {}, {}, {}, k, v);
}

}  // namespace qwen::test
