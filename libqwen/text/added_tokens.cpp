#include "text/added_tokens.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace qwen {
namespace {

unsigned char first_byte(std::string_view text) {
  return static_cast<unsigned char>(text[0]);
}

}  // namespace

void AddedTokens::add(std::string content, int32_t id) {
  tokens_.push_back({std::move(content), id});
}

void AddedTokens::finish() {
  std::sort(tokens_.begin(), tokens_.end(), [](const Token& a, const Token& b) {
    if (a.content[0] != b.content[0]) return first_byte(a.content) < first_byte(b.content);
    if (a.content.size() != b.content.size()) return a.content.size() > b.content.size();
    return a.content < b.content;
  });
  first_byte_.fill(0);
  for (const Token& token : tokens_) ++first_byte_[first_byte(token.content) + size_t{1}];
  for (size_t b = 0; b < 256; ++b) first_byte_[b + 1] += first_byte_[b];
  only_byte_ = -1;
  if (!tokens_.empty() && tokens_.front().content[0] == tokens_.back().content[0])
    only_byte_ = first_byte(tokens_.front().content);
}

AddedTokens::Match AddedTokens::find(std::string_view text, size_t from) const {
  for (size_t at = from; at < text.size() && !tokens_.empty(); ++at) {
    if (only_byte_ >= 0) {
      const void* found = std::memchr(text.data() + at, only_byte_, text.size() - at);
      if (!found) break;
      at = static_cast<size_t>(static_cast<const char*>(found) - text.data());
    }
    const std::string_view rest = text.substr(at);
    const unsigned char byte = first_byte(rest);
    for (uint32_t i = first_byte_[byte]; i < first_byte_[byte + size_t{1}]; ++i) {
      if (rest.starts_with(tokens_[i].content)) return {at, at + tokens_[i].content.size(), tokens_[i].id};
    }
  }
  return {std::string_view::npos, std::string_view::npos, -1};
}

int32_t AddedTokens::id_of(std::string_view content) const {
  if (content.empty()) return -1;
  const unsigned char byte = first_byte(content);
  for (uint32_t i = first_byte_[byte]; i < first_byte_[byte + size_t{1}]; ++i)
    if (tokens_[i].content == content) return tokens_[i].id;
  return -1;
}

}  // namespace qwen
