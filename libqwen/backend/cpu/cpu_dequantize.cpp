#include "backend/cpu/cpu_dequantize.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace qwen::cpu {
namespace {

Format format_of(QuantizationMethod method) {
  switch (method) {
    case QuantizationMethod::fp8:
      return Format::fp8;
    case QuantizationMethod::gptq:
      return Format::gptq;
    case QuantizationMethod::awq:
      return Format::awq;
  }
  fail(Status::internal, "no format for quantization method ", static_cast<int>(method));
}

Format scale_format_of(const TensorView& scales) {
  return scales.dtype == DType::f32 ? Format::f32 : scales.dtype == DType::f16 ? Format::f16 : Format::bf16;
}

constexpr int64_t scale_bytes(Format format) {
  return format == Format::f32 ? 4 : 2;
}

uint32_t load_word(const std::byte* data) {
  uint32_t word;
  std::memcpy(&word, data, sizeof word);
  return word;
}

// The values of e4m3fn (https://arxiv.org/abs/2209.05433): 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinity,
// 0x7f and 0xff are NaN. A table, as arithmetic on subnormals would depend on the host's flush-to-zero mode.
constexpr std::array<float, 256> e4m3_table() {
  std::array<float, 256> table{};
  for (int code = 0; code < 256; ++code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    float value = static_cast<float>(exponent == 0 ? mantissa : 8 + mantissa) / 512;  // 2^-6 * mantissa / 8
    for (int i = 1; i < exponent; ++i) value *= 2;
    if ((code & 0x7f) == 0x7f) value = std::numeric_limits<float>::quiet_NaN();
    table[static_cast<size_t>(code)] = code < 128 ? value : -value;
  }
  return table;
}
constexpr std::array<float, 256> kE4m3 = e4m3_table();

// Integers are unpacked for so many outputs at a time: GPTQ's words of neighbouring outputs, and the eight outputs of one
// AWQ word, lie side by side.
constexpr int64_t kLanes = 64;
constexpr int64_t kTileInputs = 8;

// Outputs packed into one row of words: `lanes` of them, from a multiple of 32 / kBits on.
template <bool kInterleaved, int kBits>
void unpack_row(const std::byte* words, int64_t lanes, int32_t* to) {
  constexpr int kPerWord = 32 / kBits;
  static constexpr int kOrder[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // AWQ: in which nibble an output lies
  for (int64_t lane = 0; lane < lanes; lane += kPerWord, words += 4) {
    const uint32_t word = load_word(words);
    for (int j = 0; j < kPerWord; ++j)
      to[lane + j] =
          static_cast<int32_t>(word >> (kBits * (kInterleaved ? kOrder[j] : j)) & ((1u << kBits) - 1));
  }
}

}  // namespace

QuantizedMatrix::QuantizedMatrix(const QuantizedTensor& tensor)
    : format_(format_of(tensor.config.method)),
      scale_format_(scale_format_of(*tensor.scales)),
      out_(tensor.out),
      in_(tensor.in),
      block_rows_(tensor.config.block_rows),
      block_columns_(tensor.config.block_columns),
      column_blocks_((tensor.in + block_columns_ - 1) / block_columns_),
      bits_(tensor.config.bits),
      group_size_(tensor.group_size()),
      zero_offset_(tensor.config.zero_offset),
      weight_(tensor.weight->data),
      scales_(tensor.scales->data),
      zeros_(tensor.zeros ? tensor.zeros->data : nullptr) {
  if (tensor.g_idx) keep_groups(*tensor.g_idx, tensor.groups());
}

void QuantizedMatrix::keep_groups(const TensorView& g_idx, int64_t groups) {
  bool ascending = true;
  for (int64_t i = 0; i < in_; ++i) {
    const auto group = static_cast<int32_t>(load_word(g_idx.data + i * 4));
    if (group < 0 || group >= groups)
      fail(Status::invalid_file, g_idx.source, ": tensor ", quote(g_idx.name), " holds ", group, " at ", i,
           "; it must hold groups from 0 to ", groups - 1);
    ascending = ascending && group == i / group_size_;
  }
  if (ascending) return;
  input_groups_.resize(static_cast<size_t>(in_));
  std::memcpy(input_groups_.data(), g_idx.data, input_groups_.size() * sizeof(int32_t));
}

void QuantizedMatrix::dequantize(const Kernels& kernels, const Panel& panel, float* to,
                                 int64_t stride) const {
  if (format_ == Format::fp8) return dequantize_fp8(kernels, panel, to, stride);
  if (format_ == Format::awq) return dequantize_groups<Format::awq, 4>(kernels, panel, to, stride);
  if (bits_ == 8) return dequantize_groups<Format::gptq, 8>(kernels, panel, to, stride);
  dequantize_groups<Format::gptq, 4>(kernels, panel, to, stride);
}

void QuantizedMatrix::dequantize_fp8(const Kernels& kernels, const Panel& panel, float* to,
                                     int64_t stride) const {
  const auto widen = kernels.widen[static_cast<int>(scale_format_)];
  const int64_t end = panel.input + panel.inputs;
  for (int64_t n = 0; n < panel.outputs; ++n) {
    const int64_t output = panel.output + n;
    const std::byte* const row = weight_ + output * in_;
    const std::byte* const scales =
        scales_ + output / block_rows_ * column_blocks_ * scale_bytes(scale_format_);
    float* const values = to + n * stride - panel.input;
    for (int64_t i = panel.input; i < end;) {
      const int64_t block = i / block_columns_, last = std::min(end, (block + 1) * block_columns_);
      float scale;
      widen(scales + block * scale_bytes(scale_format_), 1, &scale);
      for (; i < last; ++i) values[i] = kE4m3[static_cast<size_t>(row[i])] * scale;
    }
  }
}

// F: gptq or awq. Tiles of a few inputs x kLanes outputs are computed as the words lie, then turned into rows.
template <Format F, int kBits>
void QuantizedMatrix::dequantize_groups(const Kernels& kernels, const Panel& panel, float* to,
                                        int64_t stride) const {
  constexpr int64_t kPerWord = 32 / kBits;
  constexpr bool kAwq = F == Format::awq;
  const auto widen = kernels.widen[static_cast<int>(scale_format_)];
  const int64_t end = panel.input + panel.inputs, last_output = panel.output + panel.outputs;
  alignas(64) int32_t integers[kLanes];
  alignas(64) float zeros[kLanes], scales[kLanes], tile[kTileInputs][kLanes];

  // Whole words, so the first lanes may lie before the panel: first_output is a multiple of 8, as is out_ of kPerWord.
  for (int64_t output = panel.output / 8 * 8; output < last_output; output += kLanes) {
    const int64_t lanes = std::min(kLanes, last_output - output);
    int64_t group = -1;
    for (int64_t input = panel.input; input < end; input += kTileInputs) {
      const int64_t inputs = std::min(kTileInputs, end - input);
      for (int64_t t = 0; t < inputs; ++t) {
        const int64_t i = input + t;
        const int64_t group_now =
            input_groups_.empty() ? i / group_size_ : input_groups_[static_cast<size_t>(i)];
        if (group_now != group) {
          group = group_now;
          widen(scales_ + (group * out_ + output) * scale_bytes(scale_format_), lanes, scales);
          unpack_row<kAwq, kBits>(zeros_ + (group * out_ + output) / kPerWord * 4, lanes, integers);
          for (int64_t lane = 0; lane < lanes; ++lane)
            zeros[lane] = static_cast<float>(integers[lane] + zero_offset_);
        }
        if constexpr (kAwq) {
          unpack_row<true, kBits>(weight_ + (i * out_ + output) / kPerWord * 4, lanes, integers);
        } else {
          const std::byte* const words = weight_ + (i / kPerWord * out_ + output) * 4;
          const int shift = static_cast<int>(i % kPerWord) * kBits;
          for (int64_t lane = 0; lane < lanes; ++lane)
            integers[lane] = static_cast<int32_t>(load_word(words + lane * 4) >> shift & ((1u << kBits) - 1));
        }
        // The difference of two small integers is exact.
        for (int64_t lane = 0; lane < lanes; ++lane)
          tile[t][lane] = (static_cast<float>(integers[lane]) - zeros[lane]) * scales[lane];
      }
      for (int64_t lane = std::max<int64_t>(0, panel.output - output); lane < lanes; ++lane) {
        float* const values = to + (output + lane - panel.output) * stride + input - panel.input;
        if (inputs == kTileInputs) {  // the usual case, unrolled
          for (int64_t t = 0; t < kTileInputs; ++t) values[t] = tile[t][lane];
        } else {
          for (int64_t t = 0; t < inputs; ++t) values[t] = tile[t][lane];
        }
      }
    }
  }
}

}  // namespace qwen::cpu
