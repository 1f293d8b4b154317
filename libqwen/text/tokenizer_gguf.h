// The tokenizer and the chat template in a GGUF file's metadata.
#pragma once

#include <memory>

#include "checkpoint/gguf.h"
#include "text/chat_template.h"
#include "text/tokenizer_builder.h"

namespace qwen {

// tokenizer.ggml.model "gpt2" (byte-level BPE) with tokenizer.ggml.pre "qwen2" or "qwen35", whose text is NFC as
// in Qwen's tokenizer.json; tokens, token_type and merges. Control and user-defined tokens are added tokens, control ones special;
// unused ones (padding) are none. Throws Error: invalid_file naming the key, unsupported (another kind, by name).
TokenizerFile read_gguf_tokenizer(const GgufFile& file);
bool has_gguf_tokenizer(const GgufFile& file);  // false: none at all, or "no_vocab"

// tokenizer.chat_template with eos_token, pad_token and the like as variables. nullptr: the file has none.
std::shared_ptr<const ChatTemplate> load_chat_template(const GgufFile& file);

}  // namespace qwen
