// tokenizer.json -> the tables the tokenizer works on.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

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

// Throws Error: invalid_file naming the file and the key; unsupported for a part of the format that Qwen's
// tokenizers do not use and this library would get wrong. `text` must stay until the call returns. Read over:
// "truncation" and "padding" (a caller's last settings, which encode() of Hugging Face's transformers
// overrides too) and "post_processor" of the kinds that add nothing when add_special_tokens = false.
TokenizerFile parse_tokenizer_json(std::string_view text, std::string_view source);

}  // namespace qwen
