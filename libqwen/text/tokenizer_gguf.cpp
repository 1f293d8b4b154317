#include "text/tokenizer_gguf.h"

#include <utility>

#include "base/error.h"
#include "base/utf8.h"
#include "text/json_text.h"

namespace qwen {
namespace {

constexpr std::string_view kModel = "tokenizer.ggml.model", kPre = "tokenizer.ggml.pre";
constexpr std::string_view kTokens = "tokenizer.ggml.tokens", kTypes = "tokenizer.ggml.token_type";
constexpr std::string_view kMerges = "tokenizer.ggml.merges", kTemplate = "tokenizer.chat_template";

constexpr size_t kMaxBytes = size_t{1} << 30;
constexpr size_t kMaxAdded = 8192;  // Qwen's files have about thirty

enum TokenType { normal = 1, control = 3, user_defined = 4, unused = 5 };  // llama.cpp's llama_token_type

template <class Value>
Value required(const GgufFile& file, std::string_view key, std::optional<Value> value,
               std::string_view wanted) {
  if (!value) file.reject(key, "missing", wanted);
  return std::move(*value);
}

}  // namespace

bool has_gguf_tokenizer(const GgufFile& file) {
  const auto model = file.text(kModel);
  return model && *model != "no_vocab" && *model != "none";
}

TokenizerFile read_gguf_tokenizer(const GgufFile& file) {
  const auto model = required(file, kModel, file.text(kModel), "'gpt2', which is byte-level BPE");
  if (model != "gpt2")
    file.reject(kModel, quote(model), "'gpt2', which is byte-level BPE", Status::unsupported);
  static constexpr std::string_view kKnown =
      "'qwen2', the pre-tokenizer of Qwen2, Qwen2.5 and Qwen3, or 'qwen35'";
  const auto pre = required(file, kPre, file.text(kPre), kKnown);
  if (pre != "qwen2" && pre != "qwen35") file.reject(kPre, quote(pre), kKnown, Status::unsupported);

  const auto tokens = required(file, kTokens, file.texts(kTokens), "an array of strings");
  const auto types =
      required(file, kTypes, file.integers(kTypes), "an array of integers, one for each token");
  if (types.size() != tokens.size())
    file.reject(kTypes, cat("an array of ", types.size()),
                cat("an array of as many integers as there are tokens, ", tokens.size()));
  const auto merges = required(file, kMerges, file.texts(kMerges), "an array of strings");

  // Offsets into the builder's texts have 32 bits; Qwen's tokens and merges have a few MB.
  for (const std::string_view key : {kTokens, kMerges})
    if (file.find(key)->bytes.size() > kMaxBytes)
      file.reject(key, cat("an array of ", file.find(key)->bytes.size(), " bytes"),
                  cat("at most ", kMaxBytes, " bytes long"), Status::unsupported);

  TokenizerBuilder builder(file.source(), kTokens, kMerges);
  builder.reserve(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] == normal) builder.add_token(static_cast<int64_t>(i), tokens[i]);
    if (types[i] != normal && types[i] != control && types[i] != user_defined && types[i] != unused)
      file.reject(kTypes, cat("an array with ", types[i], " for token ", i),
                  "1 (normal), 3 (control), 4 (user-defined) or 5 (unused) in a byte-level vocabulary",
                  Status::unsupported);
  }
  builder.finish_tokens();
  MergeList list(file.source(), kMerges);
  list.reserve(merges.size());
  for (const std::string_view merge : merges) list.add(merge);
  builder.add_merges(list);
  builder.file().nfc = true;
  if (pre == "qwen35") builder.file().pretokenizer = PreTokenizer::marks_are_letters;
  size_t added = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] != control && types[i] != user_defined) continue;
    const std::string where = cat(file.source(), ": key ", quote(kTokens), ", entry ", i);
    if (++added > kMaxAdded)
      file.reject(kTypes, cat("an array with more than ", kMaxAdded, " control and user-defined tokens"),
                  "one with fewer", Status::unsupported);
    if (tokens[i].empty() || utf8_error(tokens[i]) != std::string_view::npos || i > Vocabulary::kMaxId)
      fail(Status::invalid_file, where, ": is ", quote(tokens[i]),
           "; an added token must be UTF-8, not empty, and have an id up to ", Vocabulary::kMaxId);
    builder.add_added(where, static_cast<int64_t>(i), tokens[i], types[i] == control, false);
  }
  return builder.take();
}

std::shared_ptr<const ChatTemplate> load_chat_template(const GgufFile& file) {
  const auto source = file.text(kTemplate);
  if (!source) return nullptr;
  if (const size_t at = utf8_error(*source); at != std::string_view::npos)
    fail(Status::invalid_file, file.source(), ": key ", quote(kTemplate), " is not valid UTF-8 at byte ", at);
  std::string variables;
  const auto tokens = file.texts(kTokens);
  const auto add = [&](std::string_view name, std::string_view key) {
    const auto id = file.integer(key, 0, Vocabulary::kMaxId);
    if (!id || !tokens || static_cast<size_t>(*id) >= tokens->size()) return;
    const std::string_view text = (*tokens)[static_cast<size_t>(*id)];
    if (utf8_error(text) != std::string_view::npos) return;
    if (!variables.empty()) variables += ',';
    append_json_string(variables, name);
    variables += ':';
    append_json_string(variables, text);
  };
  // Qwen's tokenizers have no beginning-of-text token, though its configurations (and so the metadata) name one.
  if (file.boolean("tokenizer.ggml.add_bos_token").value_or(true))
    add("bos_token", "tokenizer.ggml.bos_token_id");
  add("eos_token", "tokenizer.ggml.eos_token_id");
  add("pad_token", "tokenizer.ggml.padding_token_id");
  add("unk_token", "tokenizer.ggml.unknown_token_id");
  return ChatTemplate::parse(std::string(*source), cat(file.source(), ", ", kTemplate),
                             cat("{", variables, "}"));
}

}  // namespace qwen
