#include "text/detokenizer.h"

#include "base/utf8.h"

namespace qwen {

void Detokenizer::push(int32_t id, std::string& out) {
  const std::string_view bytes = tokenizer_->token_bytes(id);
  if (skip_special_ && tokenizer_->is_special(id)) return;
  if (pending_.empty()) {
    pending_.assign(bytes.substr(utf8_append_lossy(bytes, out)));
  } else {
    pending_.append(bytes);
    pending_.erase(0, utf8_append_lossy(pending_, out));
  }
}

void Detokenizer::finish(std::string& out) {
  if (!pending_.empty()) out.append(kReplacementCharacter);
  pending_.clear();
}

}  // namespace qwen
