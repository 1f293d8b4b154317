// How the parts of a quantised matrix are found, checked and counted.
#include <doctest/doctest.h>

#include <utility>

#include "base/error.h"
#include "checkpoint/memory_tensors.h"
#include "checkpoint/quantized_tensor.h"
#include "model/weight_loader.h"

using namespace qwen;

namespace {

struct Part {
  const char* name;
  DType dtype;
  std::vector<int64_t> shape;
};
using Parts = std::vector<Part>;

const Parts kFp8 = {{"m.weight", DType::f8_e4m3, {192, 320}}, {"m.weight_scale_inv", DType::bf16, {2, 3}}};
const Parts kGptq = {{"m.qweight", DType::i32, {40, 96}},
                     {"m.qzeros", DType::i32, {10, 12}},
                     {"m.scales", DType::f16, {10, 96}},
                     {"m.g_idx", DType::i32, {320}}};
const Parts kAwq = {{"m.qweight", DType::i32, {320, 12}},
                    {"m.qzeros", DType::i32, {5, 12}},
                    {"m.scales", DType::bf16, {5, 96}}};
const QuantizationConfig kFp8Config{.method = QuantizationMethod::fp8};
const QuantizationConfig kGptqConfig{.method = QuantizationMethod::gptq, .group_size = 32, .zero_offset = 1};
const QuantizationConfig kAwqConfig{.method = QuantizationMethod::awq, .group_size = 64};

// Never read: the checks look at names, dtypes and shapes.
std::vector<std::byte> zeros(1 << 18);

void fill(MemoryTensors& source, const Parts& parts) {
  for (const Part& part : parts) {
    size_t bytes = dtype_size(part.dtype);
    for (const int64_t n : part.shape) bytes *= static_cast<size_t>(n);
    source.add(part.name, part.dtype, part.shape, zeros.data(), bytes);
  }
}

// The message with which the matrix [out, in] is refused.
std::string refusal(const Parts& parts, const QuantizationConfig& config, int64_t out = 96,
                    int64_t in = 320) {
  MemoryTensors source(nullptr);
  fill(source, parts);
  try {
    find_quantized(source, config, "m.weight", out, in);
  } catch (const Error& error) {
    CHECK(error.status() == Status::invalid_file);
    return error.message();
  }
  return "no error";
}

Parts without(Parts parts, size_t index) {
  parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(index));
  return parts;
}

Parts with(Parts parts, size_t index, DType dtype, std::vector<int64_t> shape) {
  parts[index].dtype = dtype;
  parts[index].shape = std::move(shape);
  return parts;
}

}  // namespace

TEST_CASE("the parts of a quantised matrix are found, and an ordinary one is left alone") {
  MemoryTensors fp8(nullptr), gptq(nullptr), awq(nullptr), plain(nullptr);
  fill(fp8, kFp8);
  fill(gptq, kGptq);
  fill(awq, kAwq);
  fill(plain, {{"m.weight", DType::bf16, {96, 320}}});
  CHECK(find_quantized(fp8, kFp8Config, "m.weight", 192, 320)->bytes() == 192 * 320 + 2 * 3 * 2);
  CHECK(find_quantized(gptq, kGptqConfig, "m.weight", 96, 320)->bytes() == 96 * 160 + 480 + 1920 + 1280);
  CHECK(find_quantized(awq, kAwqConfig, "m.weight", 96, 320)->groups() == 5);
  for (const QuantizationConfig& config : {kFp8Config, kGptqConfig, kAwqConfig}) {
    CHECK(!find_quantized(plain, config, "m.weight", 96, 320));
    CHECK(!find_quantized(plain, config, "other.weight", 96, 320));
  }
}

TEST_CASE("a missing or misshapen part is named, with what is right") {
  CHECK(
      refusal(without(kFp8, 0), kFp8Config, 192) ==
      "memory: tensor 'm.weight' is missing; quantization_config implies it with shape [192, 320] (F8_E4M3)");
  CHECK(refusal(without(kFp8, 1), kFp8Config, 192) ==
        "memory: tensor 'm.weight_scale_inv' is missing; quantization_config implies it with shape [2, 3] "
        "(F16, "
        "BF16, F32)");
  CHECK(refusal(with(kFp8, 0, DType::bf16, {192, 320}), kFp8Config, 192) ==
        "memory: tensor 'm.weight' is BF16; quantization_config implies F8_E4M3");
  CHECK(refusal(with(kFp8, 1, DType::bf16, {3, 2}), kFp8Config, 192) ==
        "memory: tensor 'm.weight_scale_inv' has shape [3, 2]; config.json and its quantization_config imply "
        "[2, 3]");
  CHECK(refusal(with(kFp8, 1, DType::i32, {2, 3}), kFp8Config, 192) ==
        "memory: tensor 'm.weight_scale_inv' is I32; quantization_config implies F16, BF16, F32");
  for (size_t i = 1; i < 3; ++i) {
    CHECK(refusal(without(kGptq, i), kGptqConfig).find(cat("'", kGptq[i].name, "' is missing")) !=
          std::string::npos);
    CHECK(refusal(without(kAwq, i), kAwqConfig).find(cat("'", kAwq[i].name, "' is missing")) !=
          std::string::npos);
  }
  for (size_t i = 0; i < kGptq.size(); ++i) {
    const std::string name = cat("'", kGptq[i].name, "' ");
    CHECK(refusal(with(kGptq, i, DType::i64, kGptq[i].shape), kGptqConfig).find(name + "is I64") !=
          std::string::npos);
    CHECK(refusal(with(kGptq, i, kGptq[i].dtype, {3, 4}), kGptqConfig).find(name + "has shape [3, 4]") !=
          std::string::npos);
  }
  for (size_t i = 0; i < kAwq.size(); ++i)
    CHECK(refusal(with(kAwq, i, kAwq[i].dtype, {320}), kAwqConfig)
              .find(cat("'", kAwq[i].name, "' has shape [320]")) != std::string::npos);
  QuantizationConfig ordered = kGptqConfig;
  CHECK(refusal(without(kGptq, 3), ordered) == "no error");
  ordered.desc_act = true;
  CHECK(refusal(without(kGptq, 3), ordered).find("'m.g_idx' is missing") != std::string::npos);
  // The other method's layout.
  CHECK(refusal(kGptq, kAwqConfig)
            .find("has shape [40, 96]; config.json and its quantization_config imply [320, 12]") !=
        std::string::npos);

  Parts both = kGptq;
  both.push_back({"m.weight", DType::f16, {96, 320}});
  CHECK(refusal(both, kGptqConfig) ==
        "memory: tensors 'm.weight' and 'm.qweight' hold the same matrix; there must be one of them");
}

TEST_CASE("sizes that do not fill words and groups are refused") {
  CHECK(
      refusal(kGptq, kGptqConfig, 97) ==
      "memory: 'm' has 97 outputs; quantization 'gptq' with bits 4 and group_size 32 needs a multiple of 8");
  CHECK(refusal(kGptq, kGptqConfig, 96, 321).find("has 321 inputs") != std::string::npos);
  CHECK(refusal(kAwq, kAwqConfig, 100).find("has 100 outputs") != std::string::npos);
  CHECK(refusal(kAwq, kAwqConfig, 96, 328).find("needs a multiple of 64") != std::string::npos);
}

TEST_CASE("a quantised matrix counts its elements as parameters and its stored bytes as bytes") {
  MemoryTensors source(nullptr);
  Parts parts = kGptq;
  std::vector<std::string> names;
  for (const Part& part : parts) names.push_back(cat("model.", part.name));
  for (size_t i = 0; i < parts.size(); ++i) parts[i].name = names[i].c_str();
  parts.push_back({"model.norm.weight", DType::f16, {96}});
  fill(source, parts);
  size_t progress = 0;
  WeightLoader loader(source, kGptqConfig, nullptr, [&](size_t bytes) { progress += bytes; });
  CHECK(loader.matrix("m.weight", 96, 320) == nullptr);
  loader.vector("norm.weight", 96);
  CHECK(loader.parameters() == 96 * 320 + 96);
  CHECK(loader.bytes() == 96 * 160 + 480 + 1920 + 1280 + 192);
  CHECK(progress == loader.bytes());
  WeightLoader unaware(source, std::nullopt, nullptr);
  CHECK_THROWS_WITH_AS(
      unaware.matrix("m.weight", 96, 320),
      doctest::Contains("(there is 'model.m.qweight', but config.json has no quantization_config"), Error);
}
