// The tables of a tokenizer, built token by token and merge by merge, whichever file they stand in.
#pragma once

#include <string>
#include <string_view>
#include <vector>

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

// In this order: tokens, finish_tokens, merges, finish_merges, pretokenizer and nfc of file(), added tokens, take. Throws
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
  void add_merge(std::string_view left, std::string_view right);
  void add_merge(std::string_view both);  // with one space between the two
  void finish_merges();
  size_t merges() const { return merges_.size(); }
  // `where` begins messages: "tokenizer.json: key 'added_tokens', entry 3".
  void add_added(std::string_view where, int64_t id, std::string_view content, bool special, bool normalized);

  TokenizerFile& file() { return file_; }
  TokenizerFile take();

 private:
  std::string_view source_, tokens_key_, merges_key_;
  TokenizerFile file_;
  std::vector<int32_t> writable_;  // ids whose bytes encoding can produce
  std::string bytes_, storage_;    // of the token at hand

  // The merges as read, until all are: the searches that follow are then many at a time in flight.
  struct Merge {
    uint32_t offset;  // of both tokens' bytes, one behind the other, in merge_bytes_
    uint32_t left_length, length;
    int32_t left, right, joined;
  };
  std::vector<Merge> merges_;
  std::string merge_bytes_;
};

}  // namespace qwen
