// GGUF files in memory, sound ones and broken ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace qwen::test {

template <class T>
std::string number(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
inline std::string gguf_string(std::string_view text) {
  return number(uint64_t{text.size()}) + std::string(text);
}

// A value with its type in front.
inline std::string u32(uint32_t value) {
  return number(uint32_t{4}) + number(value);
}
inline std::string f32(float value) {
  return number(uint32_t{6}) + number(value);
}
inline std::string boolean(bool value) {
  return number(uint32_t{7}) + number(static_cast<uint8_t>(value));
}
inline std::string text(std::string_view value) {
  return number(uint32_t{8}) + gguf_string(value);
}
inline std::string texts(const std::vector<std::string>& values) {
  std::string out = number(uint32_t{9}) + number(uint32_t{8}) + number(uint64_t{values.size()});
  for (const std::string& value : values) out += gguf_string(value);
  return out;
}
inline std::string i32s(const std::vector<int32_t>& values) {
  std::string out = number(uint32_t{9}) + number(uint32_t{5}) + number(uint64_t{values.size()});
  for (const int32_t value : values) out += number(value);
  return out;
}

struct GgufTensor {
  std::string name;
  std::vector<uint64_t> sizes;  // as the file has them: the innermost first
  uint32_t type = 0;            // F32
  uint64_t offset = 0;
};

struct GgufContent {
  std::vector<std::pair<std::string, std::string>> values;  // key, value with its type
  std::vector<GgufTensor> tensors;
  size_t data_bytes = 0;
  uint32_t version = 3;
  size_t alignment = 32;

  std::string bytes() const {
    std::string file =
        "GGUF" + number(version) + number(uint64_t{tensors.size()}) + number(uint64_t{values.size()});
    for (const auto& [key, value] : values) file += gguf_string(key) + value;
    for (const GgufTensor& tensor : tensors) {
      file += gguf_string(tensor.name) + number(static_cast<uint32_t>(tensor.sizes.size()));
      for (const uint64_t size : tensor.sizes) file += number(size);
      file += number(tensor.type) + number(tensor.offset);
    }
    file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + std::string(data_bytes, '\1');
  }
};

}  // namespace qwen::test
