// The GGUF container (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 2 and 3, little-endian: magic,
// version, counts, metadata (typed values by key), tensor infos, padding, tensor data. What it holds is said in
// gguf_config.h and gguf_tensors.h.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"
#include "checkpoint/tensor.h"

namespace qwen {

enum class GgufType : uint32_t {  // the numbers of the format
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64
};

// A metadata value. Borrows the file.
struct GgufValue {
  GgufType type = GgufType::u8;
  GgufType element = GgufType::u8;  // of an array
  uint64_t count = 0;               // of an array
  std::string_view bytes;           // a scalar's, a string's or all the elements'
};

class GgufFile {
 public:
  // Maps the file and validates the whole header: every length, count, type and bound, tensors inside the file and not
  // over each other. Touches no tensor's data. The first part of a split model ("x-00001-of-00003.gguf", as
  // llama-gguf-split names them) opens the others beside it, whose tensors then count as its own.
  // Throws Error: invalid_file naming the key or tensor, unsupported (version, byte order, a tensor type by name),
  // not_found (a part), and what MappedFile throws.
  GgufFile(const std::filesystem::path& path, LoadMode mode);

  const std::string& source() const { return source_; }
  const std::map<std::string_view, GgufValue>& metadata() const { return metadata_; }
  const GgufValue* find(std::string_view key) const;

  // Typed values; nothing when the key is absent. Throws Error(invalid_file): another type, or out of bounds.
  std::optional<std::string_view> text(std::string_view key) const;
  std::optional<int64_t> integer(std::string_view key, int64_t low, int64_t high) const;
  std::optional<double> number(std::string_view key) const;  // finite
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::vector<std::string_view>> texts(std::string_view key) const;
  std::optional<std::vector<int64_t>> integers(std::string_view key) const;

  // A scalar as JSON has it, so that config.json's checks can judge it: "28", "1e-06" (a float in the shortest form that
  // names it, as people wrote it), "true", "\"yarn\""; "[]" for an array. Throws Error(invalid_file) for NaN and infinity.
  std::string json(std::string_view key, const GgufValue& value) const;

  // As the file names them, sorted by name; shapes row-major (the file has them the other way round).
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const TensorView* tensor(std::string_view name) const;

  void map_ahead(const std::function<bool(double, bool)>& go_on) const {
    std::vector<const MappedFile*> files = {&file_};
    for (const auto& part : parts_) files.push_back(&part->file_);
    qwen::map_ahead(files, go_on);
  }

  // "model.gguf: key 'x' is 3; it must be …"
  [[noreturn]] void reject(std::string_view key, std::string_view value, std::string_view wanted,
                           Status status = Status::invalid_file) const;

 private:
  class Reader;
  struct OnePart {};
  GgufFile(const std::filesystem::path& path, LoadMode mode, OnePart);
  void join_parts(int64_t count, LoadMode mode);
  void sort_tensors();
  void read_metadata(Reader& reader, uint64_t count);
  void read_tensors(Reader& reader, uint64_t count);
  void place_tensors(const std::vector<uint64_t>& offsets, size_t header_bytes);
  void check_overlaps() const;
  std::string value_text(std::string_view key, const GgufValue& value) const;

  MappedFile file_;
  std::string source_;
  std::map<std::string_view, GgufValue> metadata_;
  std::vector<TensorView> tensors_;
  std::vector<std::unique_ptr<const GgufFile>>
      parts_;  // the others of a split model: what tensors_ points into
};

// "x-00002-of-00003.gguf": the number, the count, and the name of the first. Nothing for other names.
struct GgufPartName {
  int64_t number, count;
  std::string first;
  std::string part(int64_t number_wanted) const;
};
std::optional<GgufPartName> parse_gguf_part_name(const std::string& file_name);

// Whether the path is a file that is meant to be GGUF: by its name or its first four bytes.
bool is_gguf(const std::filesystem::path& path);

}  // namespace qwen
