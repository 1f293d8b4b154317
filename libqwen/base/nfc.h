// Unicode normalisation form C, with the data of `tokenizers` (see unicode.h).
#pragma once

#include <string>
#include <string_view>

namespace qwen {

// The NFC form of valid UTF-8. Text that is NFC already, nearly all text, comes back as it is, without a
// copy; otherwise the result lives in `storage`.
std::string_view normalize_nfc(std::string_view text, std::string& storage);

}  // namespace qwen
