#include "base/error.h"

#include <locale.h>
#include <string.h>

#include <filesystem>
#include <new>
#include <stdexcept>

namespace qwen {

Error current_error() noexcept {
  try {
    try {
      throw;
    } catch (const Error& error) {
      return error;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::length_error&) {
      return {Status::out_of_memory, "a length or count is larger than any memory"};
    } catch (const std::filesystem::filesystem_error& error) {
      return {Status::io, cat(error.path1().string(), ": ", system_reason(error.code().value()))};
    } catch (const std::exception& error) {
      return {Status::internal, error.what()};
    } catch (...) {
      return {Status::internal, "unknown exception"};
    }
  } catch (const std::bad_alloc&) {
    return {Status::out_of_memory, "out of memory"};  // short enough to need none
  }
}

std::string system_reason(int error) {
  // The C locale is there without memory. strerrordesc_np needs no locale, but glibc 2.32.
  static const locale_t english = ::newlocale(LC_ALL_MASK, "C", nullptr);
  return ::strerror_l(error, english);
}

std::string quote(std::string_view untrusted, size_t limit) {
  static constexpr char kHex[] = "0123456789abcdef";
  const bool shortened = untrusted.size() > limit;
  if (shortened) {
    // Cut at a code point border, so that a message in valid UTF-8 stays valid.
    size_t end = limit;
    while (end > 0 && (static_cast<unsigned char>(untrusted[end]) & 0xC0) == 0x80) --end;
    untrusted = untrusted.substr(0, end);
  }
  std::string out = "'";
  for (const char c : untrusted) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  out += shortened ? "...'" : "'";
  return out;
}

}  // namespace qwen
