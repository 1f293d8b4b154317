// The tables of a tokenizer, built token by token and merge by merge, whichever file they stand in.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/large_pages.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pretokenizer.h"
#include "text/vocabulary.h"

namespace qwen {

struct TokenizerFile {
  Vocabulary vocabulary;
  MergeTable merges;
  AddedTokens raw;         // added tokens found in the text as it stands (normalized = false: all of Qwen's)
  AddedTokens normalized;  // those found after normalisation
  AddedTokens by_content;  // all of them, under the content the file gives
  PreTokenizer pretokenizer = PreTokenizer::marks_are_symbols;
  bool nfc = false;
};

// The merges as a file lists them. Needs no vocabulary, so that it can be read beside it, on another thread.
class MergeList {
 public:
  // Borrows the texts. Messages name them.
  MergeList(std::string_view source, std::string_view key) : source_(source), key_(key) {}

  void reserve(size_t merges);  // only saves time
  // Written in the ByteLevel alphabet. Throws Error(invalid_file).
  void add(std::string_view left, std::string_view right);
  void add(std::string_view both);  // with one space between the two

  size_t size() const { return merges_.size(); }
  // Of merge i; as bytes.
  std::string_view joined(size_t i) const {
    return std::string_view(bytes_).substr(merges_[i].offset, merges_[i].length);
  }
  std::string_view left(size_t i) const { return joined(i).substr(0, merges_[i].left_length); }
  std::string_view right(size_t i) const { return joined(i).substr(merges_[i].left_length); }

 private:
  struct Merge {
    uint32_t offset, left_length, length;  // of both tokens' bytes, one behind the other, in bytes_
  };
  std::string_view source_, key_;
  LargeVector<Merge> merges_;
  std::string bytes_;
};

// In this order: tokens, finish_tokens, add_merges, pretokenizer and nfc of file(), added tokens, take. Throws
// Error: invalid_file naming source, key and token; unsupported.
class TokenizerBuilder {
 public:
  // Borrows the texts. tokens_key and merges_key: where the file has its tokens and merges, for messages.
  TokenizerBuilder(std::string_view source, std::string_view tokens_key, std::string_view merges_key)
      : source_(source), tokens_key_(tokens_key), merges_key_(merges_key) {}

  void reserve(size_t tokens);  // only saves time
  // Tokens and merges are written in the ByteLevel alphabet; a token that is not stands for its own bytes.
  void add_token(int64_t id, std::string_view written);
  void finish_tokens();
  void add_merges(const MergeList& merges);
  // `where` begins messages: "tokenizer.json: key 'added_tokens', entry 3".
  void add_added(std::string_view where, int64_t id, std::string_view content, bool special, bool normalized);

  TokenizerFile& file() { return file_; }
  TokenizerFile take();

 private:
  std::string_view source_, tokens_key_, merges_key_;
  TokenizerFile file_;
  std::vector<int32_t> writable_;  // ids whose bytes encoding can produce
  std::string bytes_, storage_;    // of the token at hand
};

}  // namespace qwen
