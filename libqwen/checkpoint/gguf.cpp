#include "checkpoint/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <memory>

#include "base/error.h"

namespace qwen {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF values are read as they lie in the file");

constexpr std::string_view kMagic = "GGUF";
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr uint32_t kMaxDimensions = 4;
constexpr int64_t kMaxParts = 65535;
constexpr size_t kMaxNameBytes = 65535;  // of a key, and more than any tensor's name

struct TensorType {
  uint32_t number;
  std::string_view name;
  std::optional<DType> dtype;  // nothing: known, not supported
};
// The numbers of ggml_type (https://github.com/ggml-org/ggml/blob/master/include/ggml.h).
constexpr std::array kTensorTypes = {
    TensorType{0, "F32", DType::f32},        TensorType{1, "F16", DType::f16},
    TensorType{2, "Q4_0", DType::q4_0},      TensorType{3, "Q4_1", DType::q4_1},
    TensorType{6, "Q5_0", DType::q5_0},      TensorType{7, "Q5_1", DType::q5_1},
    TensorType{8, "Q8_0", DType::q8_0},      TensorType{9, "Q8_1", std::nullopt},
    TensorType{10, "Q2_K", DType::q2_k},     TensorType{11, "Q3_K", DType::q3_k},
    TensorType{12, "Q4_K", DType::q4_k},     TensorType{13, "Q5_K", DType::q5_k},
    TensorType{14, "Q6_K", DType::q6_k},     TensorType{15, "Q8_K", std::nullopt},
    TensorType{16, "IQ2_XXS", std::nullopt}, TensorType{17, "IQ2_XS", std::nullopt},
    TensorType{18, "IQ3_XXS", std::nullopt}, TensorType{19, "IQ1_S", std::nullopt},
    TensorType{20, "IQ4_NL", DType::iq4_nl}, TensorType{21, "IQ3_S", std::nullopt},
    TensorType{22, "IQ2_S", std::nullopt},   TensorType{23, "IQ4_XS", DType::iq4_xs},
    TensorType{24, "I8", DType::i8},         TensorType{25, "I16", DType::i16},
    TensorType{26, "I32", DType::i32},       TensorType{27, "I64", DType::i64},
    TensorType{28, "F64", DType::f64},       TensorType{29, "IQ1_M", std::nullopt},
    TensorType{30, "BF16", DType::bf16},     TensorType{34, "TQ1_0", std::nullopt},
    TensorType{35, "TQ2_0", std::nullopt},   TensorType{39, "MXFP4", DType::mxfp4},
    TensorType{40, "NVFP4", std::nullopt},   TensorType{41, "Q1_0", std::nullopt},
};

constexpr std::string_view kTypeNames[] = {"a UINT8",  "an INT8",   "a UINT16", "an INT16", "a UINT32",
                                           "an INT32", "a FLOAT32", "a BOOL",   "a STRING", "an ARRAY",
                                           "a UINT64", "an INT64",  "a FLOAT64"};

std::string five_digits(int64_t number) {
  const std::string digits = cat(number);
  return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
}

// Bytes of a scalar; 0: of variable length.
size_t scalar_bytes(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
      return 8;
    default:
      return 0;
  }
}

template <class T>
T load(std::string_view bytes, size_t index = 0) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof value, sizeof value);
  return value;
}

// Element `index`; nothing when the type is no integer or the value is above INT64_MAX.
std::optional<int64_t> integer_of(GgufType type, std::string_view bytes, size_t index = 0) {
  switch (type) {
    case GgufType::u8:
      return load<uint8_t>(bytes, index);
    case GgufType::i8:
      return load<int8_t>(bytes, index);
    case GgufType::u16:
      return load<uint16_t>(bytes, index);
    case GgufType::i16:
      return load<int16_t>(bytes, index);
    case GgufType::u32:
      return load<uint32_t>(bytes, index);
    case GgufType::i32:
      return load<int32_t>(bytes, index);
    case GgufType::i64:
      return load<int64_t>(bytes, index);
    case GgufType::u64: {
      const auto value = load<uint64_t>(bytes, index);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

// Walks the header; nothing is taken that the file does not hold.
class GgufFile::Reader {
 public:
  Reader(std::string_view text, const std::string& source) : text_(text), source_(source) {}

  size_t offset() const { return offset_; }
  size_t rest() const { return text_.size() - offset_; }
  std::string_view take(uint64_t bytes, std::string_view what) {
    if (bytes > rest())
      fail(Status::invalid_file, source_, ": ", what, " at byte ", offset_, " should be ", bytes,
           " bytes long, but only ", rest(), " follow: the file is cut short or damaged, download it again");
    const std::string_view taken = text_.substr(offset_, bytes);
    offset_ += bytes;
    return taken;
  }
  template <class T>
  T number(std::string_view what) {
    return load<T>(take(sizeof(T), what));
  }
  std::string_view string(std::string_view what) { return take(number<uint64_t>(what), what); }
  GgufType type(std::string_view what) {
    const size_t at = offset_;
    const auto value = number<uint32_t>(what);
    if (value > static_cast<uint32_t>(GgufType::f64))
      fail(Status::invalid_file, source_, ": ", what, " at byte ", at, " is ", value,
           "; GGUF has the types 0 to 12");
    return static_cast<GgufType>(value);
  }
  GgufValue value(std::string_view what) {
    GgufValue value;
    value.type = type(what);
    if (value.type == GgufType::string) {
      value.bytes = string(what);
    } else if (value.type == GgufType::array) {
      value.element = type(what);
      value.count = number<uint64_t>(what);
      value.bytes = elements(value.element, value.count, what);
    } else {
      value.bytes = take(scalar_bytes(value.type), what);
    }
    return value;
  }

 private:
  std::string_view elements(GgufType element, uint64_t count, std::string_view what) {
    if (element == GgufType::array)
      fail(Status::unsupported, source_, ": ", what, " is an array of arrays, which is not supported");
    const size_t begin = offset_, bytes = scalar_bytes(element);
    if (bytes > 0) {
      if (count > rest() / bytes) take(std::numeric_limits<uint64_t>::max(), what);  // says what is wrong
      return take(count * bytes, what);
    }
    for (uint64_t i = 0; i < count; ++i) string(what);  // ends at the file's end at the latest
    return text_.substr(begin, offset_ - begin);
  }

  std::string_view text_;
  const std::string& source_;
  size_t offset_ = 0;
};

GgufFile::GgufFile(const std::filesystem::path& path, LoadMode mode) : GgufFile(path, mode, OnePart{}) {
  if (const auto parts = integer("split.count", 0, kMaxParts); parts && *parts > 1) join_parts(*parts, mode);
}

GgufFile::GgufFile(const std::filesystem::path& path, LoadMode mode, OnePart)
    : file_(path, mode), source_(path.string()) {
  Reader reader(file_.text(), source_);
  if (!file_.text().starts_with(kMagic))
    fail(Status::invalid_file, source_, ": does not begin with 'GGUF'; this is not a GGUF file");
  reader.take(kMagic.size(), "the magic");
  const auto version = reader.number<uint32_t>("the version");
  if (version == __builtin_bswap32(2) || version == __builtin_bswap32(3))
    fail(Status::unsupported, source_, ": is a big-endian GGUF file; only little-endian ones are supported");
  if (version != 2 && version != 3)
    fail(Status::unsupported, source_, ": has GGUF version ", version, "; supported are 2 and 3");
  const auto tensors = reader.number<uint64_t>("the number of tensors");
  const auto values = reader.number<uint64_t>("the number of metadata values");
  read_metadata(reader, values);
  read_tensors(reader, tensors);
}

// The keys: gguf-split of https://github.com/ggml-org/llama.cpp. The first part has all the metadata.
void GgufFile::join_parts(int64_t count, LoadMode mode) {
  const auto name = parse_gguf_part_name(file_.path().filename().string());
  if (!name || name->count != count)
    fail(Status::invalid_file, source_, ": is one of ", count,
         " parts of a split model, whose names must be like 'model-00001-of-", five_digits(count),
         ".gguf' and lie beside each other");
  if (name->number != 1)
    fail(Status::not_found, source_, ": is part ", name->number, " of a split model; give the first part, ",
         quote(name->first));
  for (int64_t number = 2; number <= count; ++number) {
    const auto path = file_.path().parent_path() / name->part(number);
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored))
      fail(Status::not_found, source_, ": part ", quote(path.filename().string()), " of the ", count,
           " is not in the folder; download the missing parts");
    std::unique_ptr<GgufFile> part(new GgufFile(path, mode, OnePart{}));
    const auto own_number = part->integer("split.no", 0, kMaxParts),
               own_count = part->integer("split.count", 0, kMaxParts);
    if (own_number != number - 1 || own_count != count)
      fail(Status::invalid_file, part->source_, ": keys 'split.no' and 'split.count' are ",
           own_number.value_or(0), " and ", own_count.value_or(0), "; they must be ", number - 1, " and ",
           count);
    std::move(part->tensors_.begin(), part->tensors_.end(), std::back_inserter(tensors_));
    part->tensors_.clear();
    parts_.push_back(std::move(part));
  }
  sort_tensors();
  const auto total = integer("split.tensors.count", 0, std::numeric_limits<int32_t>::max());
  if (total && *total != static_cast<int64_t>(tensors_.size()))
    reject("split.tensors.count", cat(*total), cat("the number of tensors in all parts, ", tensors_.size()));
}

void GgufFile::sort_tensors() {
  std::sort(tensors_.begin(), tensors_.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  const auto twice = std::adjacent_find(tensors_.begin(), tensors_.end(),
                                        [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twice != tensors_.end())
    fail(Status::invalid_file, source_, ": tensor ", quote(twice->name), " is there twice");
}

void GgufFile::read_metadata(Reader& reader, uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {  // a count that is too large ends at the file's end
    const std::string_view key = reader.string("the key of a metadata value");
    if (key.empty() || key.size() > kMaxNameBytes)
      fail(Status::invalid_file, source_, ": metadata value ", i, " has a key of ", key.size(),
           " bytes; it must have 1 to ", kMaxNameBytes);
    const std::string what = cat("key ", quote(key));
    if (!metadata_.emplace(key, reader.value(what)).second)
      fail(Status::invalid_file, source_, ": ", what, " is there twice");
  }
}

void GgufFile::read_tensors(Reader& reader, uint64_t count) {
  std::vector<uint64_t> offsets;
  for (uint64_t i = 0; i < count; ++i) {
    const std::string_view name = reader.string("the name of a tensor");
    if (name.empty() || name.size() > kMaxNameBytes)
      fail(Status::invalid_file, source_, ": tensor ", i, " has a name of ", name.size(),
           " bytes; it must have 1 to ", kMaxNameBytes);
    const std::string what = cat("tensor ", quote(name));
    const auto refuse = [&](const auto&... pieces) {
      fail(Status::invalid_file, source_, ": ", what, ": ", pieces...);
    };
    TensorView view;
    view.name = name;
    view.source = source_;
    const auto dimensions = reader.number<uint32_t>(what);
    if (dimensions < 1 || dimensions > kMaxDimensions)
      refuse("it has ", dimensions, " dimensions; it must have 1 to ", kMaxDimensions);
    for (uint32_t d = 0; d < dimensions; ++d) {
      const auto size = reader.number<uint64_t>(what);
      if (size < 1 || size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        refuse("a dimension is ", size, "; it must be from 1 to 9223372036854775807");
      view.shape.insert(view.shape.begin(),
                        static_cast<int64_t>(size));  // the file begins with the innermost
    }
    const auto number = reader.number<uint32_t>(what);
    const auto type = std::find_if(kTensorTypes.begin(), kTensorTypes.end(),
                                   [&](const TensorType& candidate) { return candidate.number == number; });
    if (type == kTensorTypes.end() || !type->dtype) {
      std::string known;
      for (const TensorType& candidate : kTensorTypes)
        if (candidate.dtype) known += cat(known.empty() ? "" : ", ", candidate.name);
      const std::string name_or_number =
          type == kTensorTypes.end() ? cat("number ", number) : std::string(type->name);
      fail(Status::unsupported, source_, ": ", what, " has type ", name_or_number,
           ", which is not supported by this version (supported: ", known, ")");
    }
    view.dtype = *type->dtype;
    offsets.push_back(reader.number<uint64_t>(what));
    const DTypeBlock block = dtype_block(view.dtype);
    if (view.shape.back() % block.elements != 0)
      refuse("its rows have ", view.shape.back(), " elements; ", type->name, " needs a multiple of ",
             block.elements);
    uint64_t bytes = block.bytes;
    bool overflow =
        __builtin_mul_overflow(bytes, static_cast<uint64_t>(view.shape.back() / block.elements), &bytes);
    for (size_t d = 0; d + 1 < view.shape.size(); ++d)
      overflow = __builtin_mul_overflow(bytes, static_cast<uint64_t>(view.shape[d]), &bytes) || overflow;
    if (overflow) refuse(type->name, " of shape ", shape_text(view.shape), " is more than 2^64 bytes");
    view.bytes = bytes;
    tensors_.push_back(std::move(view));
  }
  place_tensors(offsets, reader.offset());
  sort_tensors();
}

void GgufFile::place_tensors(const std::vector<uint64_t>& offsets, size_t header_bytes) {
  const auto given = integer("general.alignment", 1, static_cast<int64_t>(kMaxAlignment));
  const uint64_t alignment = given ? static_cast<uint64_t>(*given) : kDefaultAlignment;
  if (!std::has_single_bit(alignment))
    reject("general.alignment", cat(alignment), cat("a power of two up to ", kMaxAlignment));
  const size_t begin = (header_bytes + alignment - 1) / alignment * alignment;
  const size_t size = file_.bytes().size() > begin ? file_.bytes().size() - begin : 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    TensorView& tensor = tensors_[i];
    const auto refuse = [&](const auto&... pieces) {
      fail(Status::invalid_file, source_, ": tensor ", quote(tensor.name), ": ", pieces...);
    };
    if (offsets[i] % alignment != 0)
      refuse("its data begins at ", offsets[i], ", which is no multiple of the alignment, ", alignment);
    if (offsets[i] > size || tensor.bytes > size - offsets[i])
      refuse(dtype_name(tensor.dtype), " of shape ", shape_text(tensor.shape), " is ", tensor.bytes,
             " bytes from byte ", offsets[i], " of the data section on, which has only ", size,
             " bytes: the file is cut short or damaged, download it again");
    tensor.data = file_.bytes().data() + begin + offsets[i];
  }
  check_overlaps();
}

void GgufFile::check_overlaps() const {
  std::vector<const TensorView*> in_file_order;
  in_file_order.reserve(tensors_.size());
  for (const TensorView& tensor : tensors_) in_file_order.push_back(&tensor);
  std::sort(in_file_order.begin(), in_file_order.end(),
            [](const TensorView* a, const TensorView* b) { return a->data < b->data; });
  for (size_t i = 1; i < in_file_order.size(); ++i) {
    const TensorView &previous = *in_file_order[i - 1], &tensor = *in_file_order[i];
    if (tensor.data < previous.data + previous.bytes)
      fail(Status::invalid_file, source_, ": tensor ", quote(tensor.name), ": its data begins inside tensor ",
           quote(previous.name), ": tensors must not overlap");
  }
}

const TensorView* GgufFile::tensor(std::string_view name) const {
  const auto found =
      std::lower_bound(tensors_.begin(), tensors_.end(), name,
                       [](const TensorView& tensor, std::string_view key) { return tensor.name < key; });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

void GgufFile::reject(std::string_view key, std::string_view value, std::string_view wanted,
                      Status status) const {
  fail(status, source_, ": key ", quote(key), " is ", value, "; it must be ", wanted);
}

std::string GgufFile::value_text(std::string_view key, const GgufValue& value) const {
  if (value.type == GgufType::string) return quote(value.bytes);
  if (value.type == GgufType::array || value.type == GgufType::f32 || value.type == GgufType::f64)
    return std::string(kTypeNames[static_cast<size_t>(value.type)]);
  return json(key, value);
}

std::string GgufFile::json(std::string_view key, const GgufValue& value) const {
  const auto finite = [&](auto number) {
    if (!std::isfinite(number)) reject(key, cat(number), "a finite number");
    return cat(number);
  };
  switch (value.type) {
    case GgufType::f32:
      return finite(load<float>(value.bytes));
    case GgufType::f64:
      return finite(load<double>(value.bytes));
    case GgufType::boolean:
      return load<uint8_t>(value.bytes) ? "true" : "false";
    case GgufType::u64:
      return cat(load<uint64_t>(value.bytes));
    case GgufType::array:
      return "[]";
    case GgufType::string: {
      std::string text = "\"";
      for (const char c : value.bytes) {
        // What no value that counts contains only has to stay valid JSON.
        const bool plain = c >= 0x20 && c < 0x7F && c != '"' && c != '\\';
        text += plain ? c : '?';
      }
      return text += '"';
    }
    default:
      return cat(*integer_of(value.type, value.bytes));
  }
}

std::optional<std::string_view> GgufFile::text(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (value->type != GgufType::string) reject(key, value_text(key, *value), "a string");
  return value->bytes;
}

std::optional<int64_t> GgufFile::integer(std::string_view key, int64_t low, int64_t high) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  const auto number = integer_of(value->type, value->bytes);
  if (!number || *number < low || *number > high)
    reject(key, value_text(key, *value), cat("an integer from ", low, " to ", high));
  return number;
}

std::optional<double> GgufFile::number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  double number = std::numeric_limits<double>::quiet_NaN();
  if (value->type == GgufType::f32) number = load<float>(value->bytes);
  if (value->type == GgufType::f64) number = load<double>(value->bytes);
  if (const auto whole = integer_of(value->type, value->bytes)) number = static_cast<double>(*whole);
  if (!std::isfinite(number)) reject(key, value_text(key, *value), "a finite number");
  return number;
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (value->type != GgufType::boolean) reject(key, value_text(key, *value), "true or false");
  return load<uint8_t>(value->bytes) != 0;
}

std::optional<std::vector<std::string_view>> GgufFile::texts(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (value->type != GgufType::array || value->element != GgufType::string)
    reject(key, value_text(key, *value), "an array of strings");
  std::vector<std::string_view> texts;
  texts.reserve(value->count);  // each took 8 bytes of the file at least
  Reader reader(value->bytes, source_);
  for (uint64_t i = 0; i < value->count; ++i) texts.push_back(reader.string(key));
  return texts;
}

std::optional<std::vector<int64_t>> GgufFile::integers(std::string_view key) const {
  const GgufValue* value = find(key);
  if (!value) return std::nullopt;
  if (value->type != GgufType::array || !(integer_of(value->element, std::string(8, '\0'))))
    reject(key, value_text(key, *value), "an array of integers");
  std::vector<int64_t> numbers(value->count);
  for (size_t i = 0; i < numbers.size(); ++i) {
    const auto number = integer_of(value->element, value->bytes, i);
    if (!number) reject(key, "an array with a number above 2^63", "an array of smaller integers");
    numbers[i] = *number;
  }
  return numbers;
}

std::optional<GgufPartName> parse_gguf_part_name(const std::string& file_name) {
  // x-00001-of-00003.gguf
  static constexpr std::string_view kEnd = ".gguf", kOf = "-of-";
  const size_t length = 1 + 5 + kOf.size() + 5 + kEnd.size();
  if (file_name.size() <= length || !file_name.ends_with(kEnd)) return std::nullopt;
  const std::string_view tail = std::string_view(file_name).substr(file_name.size() - length);
  const auto digits = [&](size_t at) -> std::optional<int64_t> {
    int64_t value = 0;
    for (const char c : tail.substr(at, 5)) {
      if (c < '0' || c > '9') return std::nullopt;
      value = value * 10 + (c - '0');
    }
    return value;
  };
  const auto number = digits(1), count = digits(6 + kOf.size());
  if (tail[0] != '-' || tail.substr(6, kOf.size()) != kOf || !number || !count) return std::nullopt;
  GgufPartName name{*number, *count, file_name};
  name.first = name.part(1);
  return name;
}

std::string GgufPartName::part(int64_t number_wanted) const {
  std::string name = first;
  return name.replace(name.size() - 19, 5, five_digits(number_wanted));
}

bool is_gguf(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return false;
  if (path.extension() == ".gguf") return true;
  return MappedFile(path, LoadMode::mmap).text().starts_with(kMagic);
}

}  // namespace qwen
