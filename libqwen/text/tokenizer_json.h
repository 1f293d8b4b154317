// tokenizer.json -> the tables the tokenizer works on.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "text/tokenizer_builder.h"

namespace qwen {

// Throws Error: invalid_file naming the file and the key; unsupported for a part of the format that Qwen's
// tokenizers do not use and this library would get wrong. `text` must stay until the call returns. Read over:
// "truncation" and "padding" (a caller's last settings, which encode() of Hugging Face's transformers
// overrides too) and "post_processor" of the kinds that add nothing when add_special_tokens = false.
TokenizerFile parse_tokenizer_json(std::string_view text, std::string_view source);

}  // namespace qwen
