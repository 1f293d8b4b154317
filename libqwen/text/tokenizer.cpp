#include "text/tokenizer.h"

#include <utility>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/nfc.h"
#include "base/utf8.h"
#include "checkpoint/checkpoint.h"
#include "text/bpe.h"
#include "text/detokenizer.h"
#include "text/pretokenizer.h"
#include "text/tokenizer_gguf.h"
#include "text/tokenizer_json.h"

namespace qwen {

struct Tokenizer::Tables {
  explicit Tables(TokenizerFile&& read)
      : file(std::move(read)), bpe(file.vocabulary, std::move(file.merges)) {}

  // One encode() call: where the ids go, and memory that pieces share.
  struct Encoding {
    std::vector<int32_t> ids;
    BytePairEncoder::Scratch scratch;
    std::string normalized;
  };

  template <PreTokenizer kind>
  void encode_pieces(std::string_view text, Encoding& encoding) const {
    const char* const end = text.data() + text.size();
    if (text.empty()) return;
    const char* begin = text.data();
    const char* middle = next_piece<kind>(begin, end);
    while (middle != end) {  // one piece is found ahead, so that its table entry is on its way meanwhile
      const char* const next = next_piece<kind>(middle, end);
      bpe.prefetch({middle, next});
      bpe.encode({begin, middle}, encoding.scratch, encoding.ids);
      begin = middle;
      middle = next;
    }
    bpe.encode({begin, end}, encoding.scratch, encoding.ids);
  }

  void encode_words(std::string_view text, Encoding& encoding) const {
    if (file.pretokenizer == PreTokenizer::marks_are_letters)
      encode_pieces<PreTokenizer::marks_are_letters>(text, encoding);
    else
      encode_pieces<PreTokenizer::marks_are_symbols>(text, encoding);
  }

  // Cuts `text` at the tokens of `added`; what lies between goes to `encode_rest`.
  template <class EncodeRest>
  static void cut(const AddedTokens& added, std::string_view text, Encoding& encoding,
                  EncodeRest encode_rest) {
    for (size_t from = 0; from < text.size();) {
      const AddedTokens::Match match = added.find(text, from);
      if (match.begin == std::string_view::npos) return encode_rest(text.substr(from));
      if (match.begin > from) encode_rest(text.substr(from, match.begin - from));
      encoding.ids.push_back(match.id);
      from = match.end;
    }
  }

  TokenizerFile file;
  BytePairEncoder bpe;  // refers to file.vocabulary, so a Tables never moves
};

Tokenizer::Tokenizer(std::unique_ptr<const Tables> tables) : tables_(std::move(tables)) {}
Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer> Tokenizer::open(const std::filesystem::path& path) {
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(path, ignored);
  const auto file = folder ? path / "tokenizer.json" : path;
  if (!folder || !std::filesystem::exists(file, ignored))
    if (const auto gguf = find_gguf(path)) return open(GgufFile(*gguf, LoadMode::mmap));
  const MappedFile mapped(file);
  auto tables = std::make_unique<const Tables>(parse_tokenizer_json(mapped.text(), file.string()));
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(tables)));
}

std::shared_ptr<const Tokenizer> Tokenizer::open(const GgufFile& file) {
  auto tables = std::make_unique<const Tables>(read_gguf_tokenizer(file));
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(tables)));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool parse_added) const {
  // The merging of a long piece numbers its bytes with 32 bits.
  if (text.size() > size_t{1} << 31)
    fail(Status::invalid_argument, "text has ", text.size(), " bytes; at most ", size_t{1} << 31,
         " can be encoded");
  if (const size_t at = utf8_error(text); at != std::string_view::npos)
    fail(Status::invalid_argument, "text is not valid UTF-8 at byte ", at);
  Tables::Encoding encoding;
  encoding.ids.reserve(text.size() / 3 + 8);

  // Hugging Face's order: added tokens cut the text as it stands, each part between them is normalised alone,
  // and those with normalized = true then cut the normalised part.
  const auto encode_part = [&](std::string_view part) {
    if (tables_->file.nfc) part = normalize_nfc(part, encoding.normalized);
    const auto encode_words = [&](std::string_view words) { tables_->encode_words(words, encoding); };
    if (parse_added)
      Tables::cut(tables_->file.normalized, part, encoding, encode_words);
    else
      encode_words(part);
  };
  if (parse_added)
    Tables::cut(tables_->file.raw, text, encoding, encode_part);
  else
    encode_part(text);
  return std::move(encoding.ids);
}

namespace {

const Vocabulary::Token& checked(const Vocabulary& vocabulary, int32_t id) {
  if (id < 0 || id >= vocabulary.size())
    fail(Status::invalid_argument, "token id ", id, " is out of range; it must be from 0 to ",
         vocabulary.size() - 1);
  return vocabulary.token(id);
}

}  // namespace

std::string_view Tokenizer::token_bytes(int32_t id) const {
  checked(tables_->file.vocabulary, id);
  return tables_->file.vocabulary.bytes(id);
}

bool Tokenizer::is_added(int32_t id) const {
  return checked(tables_->file.vocabulary, id).added;
}

bool Tokenizer::is_special(int32_t id) const {
  return checked(tables_->file.vocabulary, id).special;
}

int32_t Tokenizer::find(std::string_view content) const {
  return tables_->file.by_content.id_of(content);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  out.reserve(ids.size() * 4);
  Detokenizer detokenizer(*this, skip_special);
  for (const int32_t id : ids) detokenizer.push(id, out);
  detokenizer.finish(out);
  return out;
}

int32_t Tokenizer::size() const {
  return tables_->file.vocabulary.size();
}

}  // namespace qwen
