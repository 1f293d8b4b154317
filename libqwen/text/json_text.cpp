#include "text/json_text.h"

#include <rapidjson/memorystream.h>
#include <rapidjson/reader.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>

#include "base/json.h"

namespace qwen {
namespace {

constexpr unsigned kParseFlags = rapidjson::kParseValidateEncodingFlag | rapidjson::kParseIterativeFlag |
                                 rapidjson::kParseNumbersAsStringsFlag;
constexpr unsigned kMaxDepth = 128;

using StringBuffer = rapidjson::GenericStringBuffer<rapidjson::UTF8<>, JsonAllocator>;
using Writer = rapidjson::Writer<StringBuffer, rapidjson::UTF8<>, rapidjson::UTF8<>, JsonAllocator>;

// The reader calls one of these per event, `false` stops it. All but these are the writer's own.
class CompactWriter : public Writer {
 public:
  using Writer::Writer;
  // The writer's own would write a string.
  bool RawNumber(const char* digits, rapidjson::SizeType size, bool) {
    return RawValue(digits, size, rapidjson::kNumberType);
  }
  bool StartObject() { return ++depth_ <= kMaxDepth && Writer::StartObject(); }
  bool StartArray() { return ++depth_ <= kMaxDepth && Writer::StartArray(); }
  bool EndObject(rapidjson::SizeType count) {
    --depth_;
    return Writer::EndObject(count);
  }
  bool EndArray(rapidjson::SizeType count) {
    --depth_;
    return Writer::EndArray(count);
  }

 private:
  unsigned depth_ = 0;
};

}  // namespace

std::optional<std::string> compact_json(std::string_view json) {
  // RapidJSON takes a zero byte for the end of the text.
  if (json.find('\0') != std::string_view::npos) return std::nullopt;
  rapidjson::MemoryStream bytes(json.data(), json.size());
  rapidjson::EncodedInputStream<rapidjson::UTF8<>, rapidjson::MemoryStream> stream(bytes);
  StringBuffer out;
  CompactWriter writer(out);
  if (JsonReader().Parse<kParseFlags>(stream, writer).IsError()) return std::nullopt;
  return std::string(out.GetString(), out.GetSize());
}

void append_json_string(std::string& out, std::string_view text) {
  StringBuffer quoted;
  Writer(quoted).String(text.data(), static_cast<rapidjson::SizeType>(text.size()));
  out.append(quoted.GetString(), quoted.GetSize());
}

}  // namespace qwen
