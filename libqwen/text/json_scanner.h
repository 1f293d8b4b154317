// A cursor over JSON text that reads strings and numbers in place. tokenizer.json is 7 to 13 MB, nearly all
// of it the vocabulary and the merges; these are walked here, without a document tree, and everything else
// goes through the library's JSON adapter.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace qwen {

class JsonScanner {
 public:
  // `source` names the file in errors, which are Error(invalid_file) with the byte offset.
  JsonScanner(std::string_view text, std::string_view source) : text_(text), source_(source) {}

  size_t offset() const { return at_; }
  void seek(size_t offset) { at_ = offset; }
  char peek();        // the next character that is not white space; it stays
  bool take(char c);  // whether it is c; if so it is read
  void expect(char c, std::string_view what);
  // The next string's content. Points into the text, or into `unescaped` when the string has escapes. UTF-8
  // is not checked.
  std::string_view string(std::string& unescaped);
  int64_t integer(std::string_view what);
  void skip_value();  // any value; its insides are looked at only as far as finding its end needs

  [[noreturn]] void fail_here(std::string_view what) const;

 private:
  void unescape(std::string& out);

  std::string_view text_;
  std::string_view source_;
  size_t at_ = 0;
};

}  // namespace qwen
