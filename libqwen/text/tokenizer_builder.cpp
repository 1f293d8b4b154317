#include "text/tokenizer_builder.h"

#include <array>
#include <utility>

#include "base/error.h"
#include "base/nfc.h"
#include "base/utf8.h"

namespace qwen {
namespace {

// The ByteLevel alphabet: a token is written with one printable character for each byte. The printable bytes
// of Latin-1 stand for themselves, the other 68 for U+0100 onwards in byte order (GPT-2's bytes_to_unicode).
constexpr size_t kAlphabetEnd = 0x144;
constexpr auto kByteOfCharacter = [] {
  std::array<int16_t, kAlphabetEnd> table{};
  for (auto& entry : table) entry = -1;
  size_t next = 0x100;
  for (size_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    table[printable ? byte : next++] = static_cast<int16_t>(byte);
  }
  return table;
}();

// Appends the bytes that `written` stands for. false (with `out` as before) when a character is not of the
// alphabet.
bool append_alphabet_bytes(std::string_view written, std::string& out) {
  const size_t before = out.size();
  for (size_t i = 0; i < written.size(); ++i) {
    size_t character = static_cast<unsigned char>(written[i]);
    if (character >= 0x80) {
      // Two bytes at most: the alphabet ends at U+0143.
      const bool two = character >= 0xC2 && character <= 0xC5 && i + 1 < written.size() &&
                       (static_cast<unsigned char>(written[i + 1]) & 0xC0) == 0x80;
      character =
          two ? (character & 0x1F) << 6 | (static_cast<unsigned char>(written[i + 1]) & 0x3F) : kAlphabetEnd;
      ++i;
    }
    if (character >= kAlphabetEnd || kByteOfCharacter[character] < 0) {
      out.resize(before);
      return false;
    }
    out.push_back(static_cast<char>(kByteOfCharacter[character]));
  }
  return true;
}

// The reverse, for messages: how the file writes these bytes.
std::string alphabet_form(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) {
    size_t character = 0;
    while (kByteOfCharacter[character] != static_cast<unsigned char>(c)) ++character;
    utf8_append(out, static_cast<char32_t>(character));
  }
  return out;
}

}  // namespace

void TokenizerBuilder::reserve(size_t tokens) {
  file_.vocabulary.reserve(tokens, tokens * 8);
  writable_.reserve(tokens);
}

void TokenizerBuilder::add_token(int64_t id, std::string_view written) {
  Vocabulary& vocabulary = file_.vocabulary;
  bytes_.clear();
  const bool in_alphabet = append_alphabet_bytes(written, bytes_);
  if (!in_alphabet) {
    if (utf8_error(written) != std::string_view::npos)
      fail(Status::invalid_file, source_, ": key ", quote(tokens_key_), ": token ", quote(written),
           " is not valid UTF-8");
    bytes_.assign(written);
  }
  if (id < 0 || id > Vocabulary::kMaxId)
    fail(Status::invalid_file, source_, ": key ", quote(tokens_key_), ": token ", quote(written), " has id ",
         id, "; it must be from 0 to ", Vocabulary::kMaxId);
  if (vocabulary.contains(static_cast<int32_t>(id)))
    fail(Status::invalid_file, source_, ": key ", quote(tokens_key_), ": id ", id,
         " is given to two tokens, one is ", quote(written));
  vocabulary.add(static_cast<int32_t>(id), bytes_, false, false);
  if (in_alphabet && !bytes_.empty()) writable_.push_back(static_cast<int32_t>(id));
}

void TokenizerBuilder::finish_tokens() {
  Vocabulary& vocabulary = file_.vocabulary;
  vocabulary.make_index(writable_.size());
  for (size_t i = 0; i < writable_.size(); ++i) {
    if (i + 16 < writable_.size()) vocabulary.prefetch(vocabulary.bytes(writable_[i + 16]));
    const int32_t id = writable_[i];
    if (const int32_t other = vocabulary.index(id); other >= 0)
      fail(Status::invalid_file, source_, ": key ", quote(tokens_key_), ": ids ", other, " and ", id,
           " are the same token ", quote(alphabet_form(vocabulary.bytes(id))));
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (vocabulary.byte_token(static_cast<unsigned char>(byte)) < 0)
      fail(Status::unsupported, source_, ": key ", quote(tokens_key_), " has no token for byte ", byte,
           "; a byte-level vocabulary holds all 256");
  }
}

void MergeList::reserve(size_t merges) {
  merges_.reserve(merges);
  bytes_.reserve(merges * 8);
}

void MergeList::add(std::string_view left, std::string_view right) {
  Merge merge{static_cast<uint32_t>(bytes_.size()), 0, 0};
  const auto append = [&](std::string_view written) {
    if (written.empty() || !append_alphabet_bytes(written, bytes_))
      fail(Status::invalid_file, source_, ": key ", quote(key_), ": merge ", size(), " names token ",
           quote(written), ", which is not written in the ByteLevel alphabet");
    return static_cast<uint32_t>(bytes_.size()) - merge.offset;
  };
  merge.left_length = append(left);
  merge.length = append(right);
  merges_.push_back(merge);
}

void MergeList::add(std::string_view both) {
  const size_t space = both.find(' ');
  if (space == std::string_view::npos || both.find(' ', space + 1) != std::string_view::npos)
    fail(Status::invalid_file, source_, ": key ", quote(key_), ": merge ", size(), " is ", quote(both),
         "; it must be two tokens with one space between them");
  add(both.substr(0, space), both.substr(space + 1));
}

// Bytes -> ids -> table. Each search is a cache miss or two, so those of merges a little ahead are started early.
void TokenizerBuilder::add_merges(const MergeList& merges) {
  constexpr size_t kAhead = 16;
  const Vocabulary& vocabulary = file_.vocabulary;
  if (merges.size() > MergeTable::kMaxMerges)
    fail(Status::unsupported, source_, ": key ", quote(merges_key_), " has ", merges.size(),
         " merges; at most ", MergeTable::kMaxMerges, " are supported");
  const auto name = [&](size_t i) {
    return cat(source_, ": key ", quote(merges_key_), ": merge ", i, " (",
               quote(alphabet_form(merges.left(i))), ", ", quote(alphabet_form(merges.right(i))), ")");
  };
  struct Ids {
    int32_t left, right, joined;
  };
  LargeVector<Ids> found(merges.size());
  int32_t guess = 0;
  for (size_t i = 0; i < merges.size(); ++i) {
    if (i + kAhead < merges.size()) {
      vocabulary.prefetch(merges.left(i + kAhead));
      vocabulary.prefetch(merges.right(i + kAhead));
    }
    const auto search = [&](std::string_view bytes) {
      const int32_t id = vocabulary.find(bytes);
      if (id < 0)
        fail(Status::invalid_file, name(i), " names token ", quote(alphabet_form(bytes)), ", which ",
             quote(tokens_key_), " does not have");
      return id;
    };
    found[i].left = search(merges.left(i));
    found[i].right = search(merges.right(i));
    // Trained vocabularies number their tokens in merge order, so the joined token nearly always has the next
    // id.
    const std::string_view joined = merges.joined(i);
    const bool next =
        guess < vocabulary.size() && vocabulary.token(guess).indexed && vocabulary.bytes(guess) == joined;
    found[i].joined = next ? guess : search(joined);
    guess = found[i].joined + 1;
  }
  file_.merges.reserve(found.size());
  for (size_t i = 0; i < found.size(); ++i) {
    if (i + kAhead < found.size()) file_.merges.prefetch(found[i + kAhead].left, found[i + kAhead].right);
    if (!file_.merges.add(found[i].left, found[i].right, found[i].joined))
      fail(Status::invalid_file, name(i), " is there twice");
  }
}

void TokenizerBuilder::add_added(std::string_view where, int64_t id, std::string_view content, bool special,
                                 bool normalized) {
  Vocabulary& vocabulary = file_.vocabulary;
  // The decoder reads every token through the byte alphabet, added ones too, and falls back to the content
  // itself.
  bytes_.clear();
  const bool in_alphabet = append_alphabet_bytes(content, bytes_);
  if (!in_alphabet) bytes_.assign(content);
  if (file_.by_content.id_of(content) >= 0)
    fail(Status::invalid_file, where, ": content ", quote(content), " is there twice");
  const auto token = static_cast<int32_t>(id);
  const int32_t base = in_alphabet ? vocabulary.find(bytes_) : -1;
  if (base >= 0 && base != token)
    fail(Status::invalid_file, where, " (", quote(content), ") has id ", token, ", but ", quote(tokens_key_),
         " gives it ", base);
  if (!vocabulary.contains(token))
    vocabulary.add(token, bytes_, true, special);
  else if (vocabulary.bytes(token) == bytes_ && !vocabulary.token(token).added)
    vocabulary.mark_added(token, special);
  else
    fail(Status::invalid_file, where, " (", quote(content), "): id ", token, " is already the token ",
         quote(vocabulary.bytes(token)));
  file_.by_content.add(std::string(content), token);
  file_.by_content.finish();
  if (normalized)
    file_.normalized.add(std::string(file_.nfc ? normalize_nfc(content, storage_) : content), token);
  else
    file_.raw.add(std::string(content), token);
}

TokenizerFile TokenizerBuilder::take() {
  file_.raw.finish();
  file_.normalized.finish();
  return std::move(file_);
}

}  // namespace qwen
