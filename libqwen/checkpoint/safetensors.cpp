#include "checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"

namespace qwen {
namespace {

constexpr std::array kDTypes = {DType::f32,     DType::f16, DType::bf16, DType::f64, DType::f8_e4m3,
                                DType::f8_e5m2, DType::i8,  DType::u8,   DType::i16, DType::u16,
                                DType::i32,     DType::u32, DType::i64,  DType::u64, DType::boolean};
// In the format, but no Qwen checkpoint that this library reads has them.
constexpr std::array<std::string_view, 7> kOtherDTypes = {"F4",          "F6_E2M3",     "F6_E3M2", "F8_E8M0",
                                                          "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"};

// One file's header while it is read: what an error message needs, and the bytes the offsets point into.
struct HeaderReader {
  std::string source;  // the file's path
  std::span<const std::byte> data;

  template <class... Pieces>
  [[noreturn]] void reject(std::string_view name, const Pieces&... pieces) const {
    fail(Status::invalid_file, source, ": tensor ", quote(name), ": ", pieces...);
  }

  DType dtype(std::string_view name, const JsonValue& value) const {
    if (!value.IsString()) reject(name, "'dtype' must be a string, it is ", json_kind(value));
    const std::string_view text = json_text(value);
    for (const DType candidate : kDTypes)
      if (text == dtype_name(candidate)) return candidate;
    std::string known;
    for (const DType candidate : kDTypes) known += cat(known.empty() ? "" : ", ", dtype_name(candidate));
    if (std::find(kOtherDTypes.begin(), kOtherDTypes.end(), text) != kOtherDTypes.end())
      fail(Status::unsupported, source, ": tensor ", quote(name), ": dtype ", quote(text),
           " is not supported by this version (supported: ", known, ")");
    reject(name, "dtype ", quote(text), " is unknown; it must be one of ", known);
  }

  std::vector<int64_t> shape(std::string_view name, const JsonValue& value) const {
    if (!value.IsArray()) reject(name, "'shape' must be an array of sizes, it is ", json_kind(value));
    std::vector<int64_t> sizes;
    sizes.reserve(value.Size());
    for (const auto& size : value.GetArray()) {
      if (!size.IsInt64() || size.GetInt64() < 0)
        reject(name, "'shape' must hold integers from 0 to 9223372036854775807 only");
      sizes.push_back(size.GetInt64());
    }
    return sizes;
  }

  std::pair<uint64_t, uint64_t> data_offsets(std::string_view name, const JsonValue& value) const {
    if (!value.IsArray() || value.Size() != 2 || !value[0].IsUint64() || !value[1].IsUint64())
      reject(name, "'data_offsets' must be an array of two non-negative integers, [begin, end]");
    return {value[0].GetUint64(), value[1].GetUint64()};
  }

  TensorView tensor(std::string_view name, const JsonValue& entry) const {
    if (!entry.IsObject()) reject(name, "its header entry must be an object, it is ", json_kind(entry));
    std::array<std::pair<std::string_view, const JsonValue*>, 3> members = {
        {{"dtype", nullptr}, {"shape", nullptr}, {"data_offsets", nullptr}}};
    for (const auto& member : entry.GetObject())
      for (auto& [key, value] : members)
        if (json_text(member.name) == key) {
          if (value) reject(name, "its header entry holds '", key, "' twice");
          value = &member.value;
        }
    for (const auto& [key, value] : members)
      if (!value) reject(name, "its header entry has no '", key, "'");

    TensorView view;
    view.name = name;
    view.source = source;
    view.dtype = dtype(name, *members[0].second);
    view.shape = shape(name, *members[1].second);
    const auto [begin, end] = data_offsets(name, *members[2].second);
    if (begin > end) reject(name, "its data begins at ", begin, " and ends before that, at ", end);
    if (end > data.size())
      reject(name, "its data ends at byte ", end, " of the data section, which has only ", data.size(),
             " bytes: the file is cut short or damaged, download it again");
    uint64_t bytes = dtype_size(view.dtype);
    for (const int64_t size : view.shape)
      if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes))
        reject(name, dtype_name(view.dtype), " of shape ", shape_text(view.shape),
               " is more than 2^64 bytes");
    if (bytes != end - begin)
      reject(name, dtype_name(view.dtype), " of shape ", shape_text(view.shape), " is ", bytes,
             " bytes, but its data_offsets [", begin, ", ", end, "] hold ", end - begin);
    view.data = data.data() + begin;
    view.bytes = bytes;
    return view;
  }
};

void check_metadata(const JsonValue& metadata, std::string_view source) {
  if (metadata.IsNull()) return;
  bool strings_only = metadata.IsObject();
  if (strings_only)
    for (const auto& member : metadata.GetObject()) strings_only = strings_only && member.value.IsString();
  if (!strings_only)
    fail(Status::invalid_file, source, ": '__metadata__' must be an object whose values are strings");
}

// The tensors must tile the data section exactly: a byte with two owners or with none means that the header
// does not describe this file.
void check_tiling(const HeaderReader& reader, const std::vector<TensorView>& tensors) {
  std::vector<const TensorView*> in_file_order;
  in_file_order.reserve(tensors.size());
  for (const auto& tensor : tensors) in_file_order.push_back(&tensor);
  std::sort(in_file_order.begin(), in_file_order.end(), [](const TensorView* a, const TensorView* b) {
    return std::pair(a->data, a->bytes) < std::pair(b->data, b->bytes);
  });
  size_t expected = 0;
  const TensorView* previous = nullptr;
  for (const TensorView* tensor : in_file_order) {
    const auto begin = static_cast<size_t>(tensor->data - reader.data.data());
    if (begin < expected)
      reader.reject(tensor->name, "its data begins at ", begin, ", inside tensor ",
                    qwen::quote(previous->name), ", which ends at ", expected, ": tensors must not overlap");
    if (begin > expected)
      reader.reject(tensor->name, "its data begins at ", begin, ", but bytes ", expected, " to ", begin,
                    " before it belong to no tensor");
    expected = begin + tensor->bytes;
    previous = tensor;
  }
  if (expected != reader.data.size())
    fail(Status::invalid_file, reader.source, ": the last ", reader.data.size() - expected,
         " bytes belong to no tensor: the header describes ", expected, " bytes of data, the file holds ",
         reader.data.size());
}

// The header's JSON text and the data section behind it.
std::pair<std::string_view, std::span<const std::byte>> split_file(const MappedFile& file,
                                                                   std::string_view source) {
  const std::string_view text = file.text();
  if (text.size() < 8)
    fail(Status::invalid_file, source, ": has ", text.size(),
         " bytes; a safetensors file begins with 8 bytes of header length");
  uint64_t length = 0;
  for (size_t i = 0; i < 8; ++i)
    length |= static_cast<uint64_t>(static_cast<unsigned char>(text[i])) << (8 * i);
  if (length > kMaxHeaderBytes)
    fail(Status::invalid_file, source, ": header length ", length, " is above the format's limit of ",
         kMaxHeaderBytes, " bytes; this is not a safetensors file");
  if (length > text.size() - 8)
    fail(Status::invalid_file, source, ": the header should be ", length, " bytes long, but only ",
         text.size() - 8, " follow: the file is cut short or is not a safetensors file");
  const std::string_view header = text.substr(8, length);
  if (!header.starts_with('{'))
    fail(Status::invalid_file, source, ": the header must begin with '{'; this is not a safetensors file");
  return {header, file.bytes().subspan(8 + length)};
}

class FileTensorSource final : public TensorSource {
 public:
  FileTensorSource(std::vector<MappedFile> files, std::vector<TensorView> tensors, std::string description)
      : files_(std::move(files)), tensors_(std::move(tensors)), description_(std::move(description)) {}

  const TensorView* find(std::string_view name) const override {
    const auto found =
        std::lower_bound(tensors_.begin(), tensors_.end(), name,
                         [](const TensorView& tensor, std::string_view key) { return tensor.name < key; });
    return found != tensors_.end() && found->name == name ? &*found : nullptr;
  }

  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    all.reserve(tensors_.size());
    for (const auto& tensor : tensors_) all.push_back(tensor.name);
    return all;
  }

  std::string description() const override { return description_; }

  void map_ahead(const std::function<bool(double, bool)>& go_on) const override {
    std::vector<const MappedFile*> files;
    for (const MappedFile& file : files_) files.push_back(&file);
    qwen::map_ahead(files, go_on);
  }

 private:
  std::vector<MappedFile> files_;    // what the views point into
  std::vector<TensorView> tensors_;  // sorted by name
  std::string description_;
};

}  // namespace

std::vector<TensorView> read_safetensors_header(const MappedFile& file) {
  const std::string source = file.path().string();
  const auto [header, data] = split_file(file, source);
  const JsonDocument document = parse_json(header, source);
  if (!document.IsObject())
    fail(Status::invalid_file, source, ": the header must be a JSON object, it is ", json_kind(document));

  const HeaderReader reader{source, data};
  std::vector<TensorView> tensors;
  tensors.reserve(document.MemberCount());
  bool metadata_seen = false;
  for (const auto& member : document.GetObject()) {
    const std::string_view name = json_text(member.name);
    if (name != "__metadata__") {
      tensors.push_back(reader.tensor(name, member.value));
      continue;
    }
    if (std::exchange(metadata_seen, true))
      fail(Status::invalid_file, source, ": '__metadata__' is there twice");
    check_metadata(member.value, source);
  }
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  const auto twice = std::adjacent_find(tensors.begin(), tensors.end(),
                                        [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twice != tensors.end()) reader.reject(twice->name, "is in the header twice");
  check_tiling(reader, tensors);
  return tensors;
}

std::shared_ptr<const TensorSource> make_file_tensor_source(std::vector<MappedFile> files,
                                                            std::vector<TensorView> tensors,
                                                            std::string description) {
  return std::make_shared<FileTensorSource>(std::move(files), std::move(tensors), std::move(description));
}

std::shared_ptr<const TensorSource> open_safetensors(const std::filesystem::path& file, LoadMode mode) {
  std::vector<MappedFile> files;
  files.emplace_back(file, mode);
  auto tensors = read_safetensors_header(files.front());
  return make_file_tensor_source(std::move(files), std::move(tensors), file.string());
}

}  // namespace qwen
