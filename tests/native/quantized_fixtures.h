// Random quantised matrices in memory, as a file would hold them.
#pragma once

#include <algorithm>
#include <list>
#include <numeric>
#include <string>

#include "checkpoint/memory_tensors.h"
#include "checkpoint/quantized_tensor.h"
#include "kernel_fixtures.h"

namespace qwen::test {

enum class Groups { absent, ascending, permuted };  // g_idx

struct QuantizedCase {
  QuantizationConfig config;
  int64_t out, in;
  DType scale_dtype = DType::f16;
  Groups groups = Groups::absent;
};

inline std::vector<QuantizedCase> quantized_cases() {
  const auto fp8 = [](int64_t rows, int64_t columns) {
    return QuantizationConfig{
        .method = QuantizationMethod::fp8, .block_rows = rows, .block_columns = columns};
  };
  const auto gptq = [](int64_t bits, int64_t group, int32_t zero_offset) {
    return QuantizationConfig{
        .method = QuantizationMethod::gptq, .bits = bits, .group_size = group, .zero_offset = zero_offset};
  };
  const auto awq = [](int64_t group) {
    return QuantizationConfig{.method = QuantizationMethod::awq, .group_size = group};
  };
  return {
      {fp8(128, 128), 192, 320, DType::bf16},
      {fp8(128, 128), 130, 129, DType::f32},
      {fp8(128, 128), 1, 1, DType::bf16},
      {fp8(16, 48), 37, 101, DType::f16},
      {fp8(1, 16777216), 9, 30, DType::f32},
      {gptq(4, 32, 1), 96, 160, DType::f16, Groups::ascending},
      {gptq(4, 128, 1), 88, 256, DType::bf16, Groups::absent},
      {gptq(4, 32, 0), 72, 96, DType::f16, Groups::permuted},
      {gptq(4, -1, 1), 8, 104, DType::f32, Groups::ascending},
      {gptq(4, 40, 0), 136, 64, DType::f16, Groups::ascending},  // the last group is partial
      {gptq(8, 128, 1), 132, 256, DType::f16, Groups::ascending},
      {gptq(8, 64, 0), 68, 132, DType::bf16, Groups::permuted},
      {gptq(8, -1, 0), 4, 4, DType::f16, Groups::absent},
      {awq(64), 128, 192, DType::bf16},
      {awq(128), 200, 256, DType::f16},
      {awq(-1), 8, 17, DType::f16},
      {awq(1), 72, 5, DType::f32},
      {gptq(4, 128, 1), 24, 2560, DType::f16, Groups::permuted},  // k in slices
      {awq(128), 24, 2560, DType::f16},
      {fp8(128, 128), 24, 2500, DType::bf16},
  };
}

// The tensors of a case under the name "x", at byte offsets that suit no instruction.
class QuantizedFile {
 public:
  QuantizedFile(Random& random, const QuantizedCase& c) : case_(c), source_(nullptr) {
    const QuantizedTensor shape{.name = "x", .config = c.config, .out = c.out, .in = c.in};
    if (c.config.method == QuantizationMethod::fp8) {
      add_bits(random, "x.weight", DType::f8_e4m3, {c.out, c.in});
      const auto pieces = [](int64_t n, int64_t size) { return (n + size - 1) / size; };
      add_floats(random, "x.weight_scale_inv", c.scale_dtype,
                 {pieces(c.out, c.config.block_rows), pieces(c.in, c.config.block_columns)});
      return;
    }
    const int64_t per_word = 32 / c.config.bits, groups = shape.groups();
    const bool awq = c.config.method == QuantizationMethod::awq;
    add_bits(random, "x.qweight", DType::i32,
             awq ? std::vector{c.in, c.out / per_word} : std::vector{c.in / per_word, c.out});
    add_bits(random, "x.qzeros", DType::i32, {groups, c.out / per_word});
    add_floats(random, "x.scales", c.scale_dtype, {groups, c.out});
    if (c.groups == Groups::absent) return;
    std::vector<int32_t> g_idx(static_cast<size_t>(c.in));
    for (size_t i = 0; i < g_idx.size(); ++i)
      g_idx[i] = static_cast<int32_t>(static_cast<int64_t>(i) / shape.group_size());
    if (c.groups == Groups::permuted)
      for (size_t i = g_idx.size(); i > 1; --i)
        std::swap(g_idx[i - 1], g_idx[static_cast<size_t>(random.integer(0, static_cast<int64_t>(i) - 1))]);
    std::memcpy(add("x.g_idx", DType::i32, {c.in}), g_idx.data(), g_idx.size() * 4);
  }

  QuantizedTensor tensor() const {
    return find_quantized(source_, case_.config, "x.weight", case_.out, case_.in).value();
  }
  const TensorSource& source() const { return source_; }
  std::byte* data(std::string_view name) { return const_cast<std::byte*>(source_.find(name)->data); }

 private:
  std::byte* add(const std::string& name, DType dtype, std::vector<int64_t> shape) {
    const size_t bytes =
        dtype_size(dtype) *
        static_cast<size_t>(std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()));
    std::byte* const data = memory_.emplace_back(bytes + 1).data() + 1;
    source_.add(name, dtype, std::move(shape), data, bytes);
    return data;
  }
  void add_bits(Random& random, const std::string& name, DType dtype, std::vector<int64_t> shape) {
    std::byte* const data = add(name, dtype, std::move(shape));
    for (size_t i = 0; i < source_.find(name)->bytes; ++i) {
      data[i] = static_cast<std::byte>(random.integer(0, 255));
      // NaN has a test of its own.
      if (dtype == DType::f8_e4m3 && (data[i] & std::byte{0x7f}) == std::byte{0x7f}) data[i] ^= std::byte{1};
    }
  }
  void add_floats(Random& random, const std::string& name, DType dtype, std::vector<int64_t> shape) {
    const cpu::Format format = dtype == DType::f32   ? cpu::Format::f32
                               : dtype == DType::f16 ? cpu::Format::f16
                                                     : cpu::Format::bf16;
    std::byte* const data = add(name, dtype, std::move(shape));
    const size_t bytes = source_.find(name)->bytes;
    const FileBytes values = random_elements(random, format, static_cast<int64_t>(bytes / dtype_size(dtype)));
    std::memcpy(data, values.data(), bytes);
  }

  QuantizedCase case_;
  std::list<std::vector<std::byte>> memory_;
  MemoryTensors source_;
};

}  // namespace qwen::test
