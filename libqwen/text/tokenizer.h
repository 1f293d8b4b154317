// Byte-level BPE exactly as Hugging Face `tokenizers` runs Qwen's tokenizer.json: added tokens, NFC, the
// pre-tokenizer regex (as a hand-written scanner chosen by the regex string), ByteLevel, BPE by merge rank.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qwen {

class GgufFile;

class Tokenizer {
 public:
  // Opens a tokenizer.json, or the one inside a model folder, or the one in a GGUF file's metadata (or in the only GGUF
  // file of a folder without tokenizer.json). No weights are needed.
  // Throws Error: not_found; invalid_file (what, where); unsupported (an unknown regex, normalizer or model,
  // by name).
  static std::shared_ptr<const Tokenizer> open(const std::filesystem::path& path);
  static std::shared_ptr<const Tokenizer> open(const GgufFile& file);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Text -> ids. The text must be valid UTF-8 (else Error invalid_argument naming the byte offset).
  // parse_added: whether "<|im_start|>" in the text becomes its token (as Hugging Face does) or plain text
  // pieces. Thread-safe: const, no shared mutable state.
  std::vector<int32_t> encode(std::string_view text, bool parse_added = true) const;

  // Ids -> bytes of one token ("" for an id inside the vocabulary padding). Error invalid_argument: id out of
  // range. For a byte-level token these may be part of a code point; for an added token its content.
  std::string_view token_bytes(int32_t id) const;
  bool is_added(int32_t id) const;
  bool is_special(int32_t id) const;  // an added token with special = true: skipped by decode(skip_special)
  int32_t find(std::string_view content) const;  // id of an added token's exact content, -1: none

  // Ids -> text; bytes that are not valid UTF-8 become U+FFFD as Hugging Face's decoder writes them.
  std::string decode(std::span<const int32_t> ids, bool skip_special = true) const;

  int32_t size() const;  // highest id + 1 (base vocabulary and added tokens)

 private:
  struct Tables;
  explicit Tokenizer(std::unique_ptr<const Tables> tables);
  std::unique_ptr<const Tables> tables_;
};

}  // namespace qwen
