#include "text/tokenizer_json.h"

#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/task.h"
#include "text/json_scanner.h"

namespace qwen {
namespace {

// The merges of a file as long as this are read on a thread of their own, beside the vocabulary. (Published ones have 7 to 13 MB:
// 27 ms instead of 43.)
constexpr size_t kWorthAThread = size_t{1} << 20;

constexpr std::string_view kVocabKey = "model.vocab", kMergesKey = "model.merges";

class Loader {
 public:
  Loader(std::string_view text, std::string_view source)
      : text_(text), source_(source), builder_(source, kVocabKey, kMergesKey) {}
  TokenizerFile load();

 private:
  // What was found where the merges seemed to be. It counts if they turn out to begin there.
  struct MergesAhead {
    size_t begin, end;
    MergeList list;
  };

  std::string outline();
  void read_model(JsonScanner& scanner, std::string& rest, size_t& copied);
  void read_vocab(JsonScanner& scanner);
  MergeList merge_list(JsonScanner& scanner) const;
  std::optional<MergesAhead> look_for_merges() const;
  void read_merges(JsonScanner& scanner);
  void read_added_tokens(const JsonValue& document);
  void check_model(const JsonValue& document) const;
  void check_normalizer(const JsonValue& document);
  void check_pretokenizer(const JsonValue& document);
  void check_split(const JsonValue& split);
  void check_byte_level(const JsonValue& step) const;
  void check_decoder(const JsonValue& document) const;
  void check_post_processor(const JsonValue& document) const;
  std::string type_of(const JsonValue& object, std::string_view key) const;
  void require(const JsonValue& object, std::string_view key, bool wanted, std::string_view where) const;

  std::string_view text_;
  std::string_view source_;
  TokenizerBuilder builder_;
  bool has_vocab_ = false;
  size_t merges_at_ = std::string_view::npos;
  std::optional<Task<std::optional<MergesAhead>>> ahead_;
};

// The file without the vocabulary and the merges: a few kilobytes for the JSON adapter, which checks all its
// syntax. The vocabulary is read on the way; the merges, which need it, are remembered.
std::string Loader::outline() {
  std::string rest, scratch;
  size_t copied = 0;
  JsonScanner scanner(text_, source_);
  scanner.expect('{', "an object");
  while (!scanner.take('}')) {
    const bool is_model = scanner.string(scratch) == "model";
    scanner.expect(':', "':'");
    if (is_model && scanner.peek() == '{')
      read_model(scanner, rest, copied);
    else
      scanner.skip_value();
    if (!scanner.take(',') && scanner.peek() != '}') scanner.fail_here("',' or '}'");
  }
  rest.append(text_.substr(copied));
  return rest;
}

void Loader::read_model(JsonScanner& scanner, std::string& rest, size_t& copied) {
  std::string scratch;
  bool merges_wait = false;  // they came before the vocabulary
  scanner.expect('{', "an object");
  while (!scanner.take('}')) {
    const std::string_view key = scanner.string(scratch);
    const bool is_vocab = key == "vocab", is_merges = key == "merges";
    scanner.expect(':', "':'");
    scanner.peek();
    const size_t begin = scanner.offset();
    if (is_vocab && has_vocab_) fail(Status::invalid_file, source_, ": key 'model.vocab' appears twice");
    if (is_merges && merges_at_ != std::string_view::npos)
      fail(Status::invalid_file, source_, ": key 'model.merges' appears twice");
    if (is_vocab)
      read_vocab(scanner);
    else if (is_merges && has_vocab_)
      read_merges(scanner);
    else
      scanner.skip_value();
    if (is_merges) {
      merges_at_ = begin;
      merges_wait = !has_vocab_;
    }
    if (is_vocab || is_merges) {
      rest.append(text_.substr(copied, begin - copied)).append("null");
      copied = scanner.offset();
    }
    if (!scanner.take(',') && scanner.peek() != '}') scanner.fail_here("',' or '}'");
  }
  if (!has_vocab_)
    fail(Status::invalid_file, source_, ": key 'model.vocab' is missing; it must map tokens to ids");
  if (merges_at_ == std::string_view::npos)
    fail(Status::invalid_file, source_, ": key 'model.merges' is missing; it must list pairs of tokens");
  if (merges_wait) {
    JsonScanner again(text_, source_);
    again.seek(merges_at_);
    read_merges(again);
  }
}

void Loader::read_vocab(JsonScanner& scanner) {
  has_vocab_ = true;
  // Qwen's files have 40 to 75 bytes for each entry with its merge; the containers grow when the guess is
  // wrong.
  builder_.reserve(text_.size() / 40 + 512);
  std::string unescaped;
  if (scanner.peek() != '{')
    fail(Status::invalid_file, source_, ": key 'model.vocab' must be an object of token: id");
  scanner.expect('{', "an object");
  while (!scanner.take('}')) {
    const std::string_view written = scanner.string(unescaped);
    scanner.expect(':', "':'");
    builder_.add_token(scanner.integer("an id in 'model.vocab'"), written);
    if (!scanner.take(',') && scanner.peek() != '}') scanner.fail_here("',' or '}'");
  }
  builder_.finish_tokens();
}

MergeList Loader::merge_list(JsonScanner& scanner) const {
  MergeList list(source_, kMergesKey);
  list.reserve(text_.size() / 40 + 512);
  std::string left, right;
  if (scanner.peek() != '[')
    fail(Status::invalid_file, source_, ": key 'model.merges' must be an array of pairs");
  scanner.expect('[', "an array");
  while (!scanner.take(']')) {
    if (scanner.take('[')) {
      const std::string_view first = scanner.string(left);
      scanner.expect(',', "',' and the second token of a merge");
      const std::string_view second = scanner.string(right);
      scanner.expect(']', "']' after the two tokens of a merge");
      list.add(first, second);
    } else {  // the older form: both tokens in one string
      if (scanner.peek() != '"')
        fail(Status::invalid_file, source_, ": key 'model.merges': merge ", list.size(),
             " must be a pair [\"a\", \"b\"] or a string \"a b\"");
      list.add(scanner.string(left));
    }
    if (!scanner.take(',') && scanner.peek() != ']') scanner.fail_here("',' or ']'");
  }
  return list;
}

// Merges at the first place that looks like their key. Without the syntax around it that is a guess, which read_merges() checks;
// what is wrong with them is found again there, and said.
std::optional<Loader::MergesAhead> Loader::look_for_merges() const {
  constexpr std::string_view key = "\"merges\"";
  for (const char* from = text_.data();;) {
    const char* const found = static_cast<const char*>(
        memmem(from, static_cast<size_t>(text_.data() + text_.size() - from), key.data(), key.size()));
    if (found == nullptr) return std::nullopt;
    from = found + key.size();
    JsonScanner scanner(text_, source_);
    scanner.seek(static_cast<size_t>(from - text_.data()));
    if (!scanner.take(':') || scanner.peek() != '[') continue;  // a token of that name
    const size_t begin = scanner.offset();
    try {
      MergeList list = merge_list(scanner);
      return MergesAhead{begin, scanner.offset(), std::move(list)};
    } catch (const Error&) {
      return std::nullopt;
    }
  }
}

void Loader::read_merges(JsonScanner& scanner) {
  if (ahead_) {
    const auto ahead = ahead_->get();
    ahead_.reset();
    if (ahead && ahead->begin == scanner.offset()) {
      scanner.seek(ahead->end);
      return builder_.add_merges(ahead->list);
    }
  }
  builder_.add_merges(merge_list(scanner));
}

std::string Loader::type_of(const JsonValue& object, std::string_view key) const {
  if (!object.IsObject())
    fail(Status::invalid_file, source_, ": key ", quote(key), " must be an object, it is ",
         json_kind(object));
  const auto type = json_string(object, "type", source_);
  if (!type) fail(Status::invalid_file, source_, ": key ", quote(key), " must have a 'type'");
  return *type;
}

// A flag that must have one value because this library does only that; absent counts as that value.
void Loader::require(const JsonValue& object, std::string_view key, bool wanted,
                     std::string_view where) const {
  if (json_bool(object, key, source_).value_or(wanted) != wanted)
    fail(Status::unsupported, source_, ": key '", where, ".", key, "' is ", !wanted, "; only ", wanted,
         " is supported");
}

void Loader::check_model(const JsonValue& document) const {
  const JsonValue* model = json_find(document, "model");
  if (!model || !model->IsObject()) fail(Status::invalid_file, source_, ": key 'model' must be an object");
  const std::string type =
      json_string(*model, "type", source_).value_or("BPE");  // very old files leave it out
  if (type != "BPE")
    fail(Status::unsupported, source_, ": key 'model.type' is ", quote(type), "; only 'BPE' is supported");
  for (const char* flag : {"byte_fallback", "ignore_merges", "fuse_unk"})
    require(*model, flag, false, "model");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const std::string value = json_string(*model, key, source_).value_or("");
    if (!value.empty())
      fail(Status::unsupported, source_, ": key 'model.", key, "' is ", quote(value),
           "; only '' is supported");
  }
  if (const auto token = json_string(*model, "unk_token", source_))
    fail(Status::unsupported, source_, ": key 'model.unk_token' is ", quote(*token),
         "; only null is supported");
  if (json_number(*model, "dropout", source_).value_or(0) != 0)
    fail(Status::unsupported, source_, ": key 'model.dropout' is not 0; merging at random is not supported");
}

void Loader::check_normalizer(const JsonValue& document) {
  const JsonValue* normalizer = json_find(document, "normalizer");
  if (!normalizer) return;
  const std::string type = type_of(*normalizer, "normalizer");
  if (type != "NFC")
    fail(Status::unsupported, source_, ": key 'normalizer.type' is ", quote(type),
         "; only 'NFC' and null are supported");
  builder_.file().nfc = true;
}

void Loader::check_byte_level(const JsonValue& step) const {
  // add_prefix_space defaults to true in the format, so its absence is not harmless.
  if (json_bool(step, "add_prefix_space", source_).value_or(true))
    fail(Status::unsupported, source_,
         ": key 'pre_tokenizer' has a ByteLevel with add_prefix_space = true; only false is supported");
  if (json_bool(step, "use_regex", source_).value_or(true))
    fail(Status::unsupported, source_,
         ": key 'pre_tokenizer' has a ByteLevel with use_regex = true; only false, behind a Split, is "
         "supported");
}

void Loader::check_split(const JsonValue& split) {
  const std::string behavior = json_string(split, "behavior", source_).value_or("");
  if (behavior != "Isolated")
    fail(Status::unsupported, source_, ": key 'pre_tokenizer' has a Split with behavior ", quote(behavior),
         "; only 'Isolated' is supported");
  require(split, "invert", false, "pre_tokenizer");
  const JsonValue* pattern = json_find(split, "pattern");
  const auto regex = pattern ? json_string(*pattern, "Regex", source_) : std::nullopt;
  if (!regex) fail(Status::unsupported, source_, ": key 'pre_tokenizer' has a Split without pattern.Regex");
  const auto kind = pretokenizer_of_regex(*regex);
  if (!kind)
    fail(Status::unsupported, source_, ": key 'pre_tokenizer' has the unknown regex ", quote(*regex, 400),
         "; known are ", quote(pretokenizer_regex(PreTokenizer::marks_are_symbols), 400), " and ",
         quote(pretokenizer_regex(PreTokenizer::marks_are_letters), 400));
  builder_.file().pretokenizer = *kind;
}

void Loader::check_pretokenizer(const JsonValue& document) {
  const JsonValue* sequence = json_find(document, "pre_tokenizer");
  const auto wanted = "; only a Sequence of Split and ByteLevel is supported";
  if (!sequence) fail(Status::unsupported, source_, ": key 'pre_tokenizer' is null", wanted);
  if (const std::string type = type_of(*sequence, "pre_tokenizer"); type != "Sequence")
    fail(Status::unsupported, source_, ": key 'pre_tokenizer.type' is ", quote(type), wanted);
  const JsonValue* steps = json_find(*sequence, "pretokenizers");
  if (!steps || !steps->IsArray() || steps->Size() != 2)
    fail(Status::unsupported, source_, ": key 'pre_tokenizer.pretokenizers' does not list two steps", wanted);
  const std::array<std::string_view, 2> types = {"Split", "ByteLevel"};
  for (rapidjson::SizeType i = 0; i < 2; ++i) {
    if (const std::string type = type_of((*steps)[i], "pre_tokenizer.pretokenizers"); type != types[i])
      fail(Status::unsupported, source_, ": key 'pre_tokenizer.pretokenizers' has type ", quote(type),
           " at place ", i, wanted);
  }
  check_split((*steps)[0]);
  check_byte_level((*steps)[1]);
}

void Loader::check_decoder(const JsonValue& document) const {
  const JsonValue* decoder = json_find(document, "decoder");
  const std::string type = decoder ? type_of(*decoder, "decoder") : "null";
  if (type != "ByteLevel")
    fail(Status::unsupported, source_, ": key 'decoder.type' is ", quote(type),
         "; only 'ByteLevel' is supported");
}

void Loader::check_post_processor(const JsonValue& document) const {
  const JsonValue* processor = json_find(document, "post_processor");
  if (!processor) return;
  const std::string type = type_of(*processor, "post_processor");
  for (const char* known : {"ByteLevel", "TemplateProcessing", "Sequence"})
    if (type == known) return;
  fail(Status::unsupported, source_, ": key 'post_processor.type' is ", quote(type),
       "; only ByteLevel, TemplateProcessing, Sequence and null are supported");
}

void Loader::read_added_tokens(const JsonValue& document) {
  const JsonValue* list = json_find(document, "added_tokens");
  if (!list) return;
  if (!list->IsArray())
    fail(Status::invalid_file, source_, ": key 'added_tokens' must be an array, it is ", json_kind(*list));
  for (rapidjson::SizeType i = 0; i < list->Size(); ++i) {
    const JsonValue& entry = (*list)[i];
    const std::string where = cat(source_, ": key 'added_tokens', entry ", i);
    if (!entry.IsObject()) fail(Status::invalid_file, where, " must be an object, it is ", json_kind(entry));
    const std::string content = json_string(entry, "content", where).value_or("");
    if (content.empty()) fail(Status::invalid_file, where, ": 'content' is missing or empty");
    const auto id = json_int(entry, "id", where);
    if (!id || *id < 0 || *id > Vocabulary::kMaxId)
      fail(Status::invalid_file, where, " (", quote(content), "): 'id' ", id ? cat("is ", *id) : "is missing",
           "; it must be from 0 to ", Vocabulary::kMaxId);
    for (const char* flag : {"single_word", "lstrip", "rstrip"}) {
      if (json_bool(entry, flag, where).value_or(false))
        fail(Status::unsupported, where, " (", quote(content), "): '", flag,
             "' is true; only false is supported");
    }
    const bool special = json_bool(entry, "special", where).value_or(false);
    const bool normalized = json_bool(entry, "normalized", where).value_or(!special);

    builder_.add_added(where, *id, content, special, normalized);
  }
}

TokenizerFile Loader::load() {
  // Offsets into the text and the token arena have 32 bits; the largest published file has 13 MB.
  if (text_.size() > size_t{1} << 30)
    fail(Status::unsupported, source_, ": has ", text_.size(), " bytes; at most ", size_t{1} << 30,
         " are supported");
  if (text_.size() >= kWorthAThread) ahead_.emplace("qwen-load", [this] { return look_for_merges(); });
  const std::string rest = outline();
  const JsonDocument document = parse_json(rest, source_);
  if (!has_vocab_) fail(Status::invalid_file, source_, ": key 'model' is missing or not an object");
  check_model(document);
  check_normalizer(document);
  check_pretokenizer(document);
  check_decoder(document);
  check_post_processor(document);
  read_added_tokens(document);
  return builder_.take();
}

}  // namespace

TokenizerFile parse_tokenizer_json(std::string_view text, std::string_view source) {
  return Loader(text, source).load();
}

}  // namespace qwen
