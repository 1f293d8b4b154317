#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/utf8.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

using namespace qwen;

namespace {

std::shared_ptr<const Tokenizer> tiny() {
  return Tokenizer::open(QWEN_TEST_DATA "/tiny_tokenizer");
}

// Tokens that make every kind of trouble: all single bytes (the tiny vocabulary's ids 0 to 255), words, added
// tokens.
std::vector<int32_t> random_ids(const Tokenizer& tokenizer, std::mt19937& random) {
  std::vector<int32_t> ids(random() % 24);
  for (auto& id : ids)
    id = static_cast<int32_t>(random() % (random() % 3 ? 256 : static_cast<size_t>(tokenizer.size())));
  return ids;
}

}  // namespace

TEST_CASE("the detokenizer's pieces are whole code points and add up to decode") {
  const auto tokenizer = tiny();
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    const auto ids = random_ids(*tokenizer, random);
    const bool skip_special = round % 2 == 0;
    Detokenizer detokenizer(*tokenizer, skip_special);
    std::string text;
    for (const int32_t id : ids) {
      std::string piece;
      detokenizer.push(id, piece);
      REQUIRE(utf8_error(piece) == std::string::npos);
      text += piece;
    }
    detokenizer.finish(text);
    REQUIRE(utf8_error(text) == std::string::npos);
    REQUIRE(text == tokenizer->decode(ids, skip_special));
  }
}

TEST_CASE(
    "a text cut between any two tokens comes out as each half would, joined where a code point is not cut") {
  const auto tokenizer = tiny();
  const std::string text = "na\u00EFve \u5B57 \U0001F44D\U0001F3FD e\u0323\u0301 <|im_end|> \u0E01\u0E33";
  const auto ids = tokenizer->encode(text);
  const std::string whole = tokenizer->decode(ids, false);
  for (size_t cut = 0; cut <= ids.size(); ++cut) {
    Detokenizer detokenizer(*tokenizer, false);
    std::string out;
    size_t bytes = 0;
    for (size_t i = 0; i < cut; ++i) {
      detokenizer.push(ids[i], out);
      bytes += tokenizer->token_bytes(ids[i]).size();
    }
    CHECK(utf8_error(out) == std::string::npos);
    CHECK(whole.starts_with(out));
    CHECK(bytes - out.size() <= 3);  // nothing waits but an unfinished code point
    for (size_t i = cut; i < ids.size(); ++i) detokenizer.push(ids[i], out);
    detokenizer.finish(out);
    CHECK(out == whole);
  }
}

TEST_CASE("bytes that never become a code point are replaced as soon as that is certain") {
  const auto tokenizer = tiny();
  const auto byte = [&](unsigned char value) {
    // The id whose bytes are this one byte.
    for (int32_t id = 0; id < 256; ++id)
      if (tokenizer->token_bytes(id) == std::string_view(reinterpret_cast<const char*>(&value), 1)) return id;
    return -1;
  };
  const auto pushed = [&](std::initializer_list<unsigned char> bytes) {
    Detokenizer detokenizer(*tokenizer);
    std::string out;
    for (const unsigned char value : bytes) {
      detokenizer.push(byte(value), out);
      out += '|';
    }
    detokenizer.finish(out);
    return out;
  };
  CHECK(pushed({0xE5, 0xAD, 0x97}) == "||\u5B57|");              // a whole one waits for its last byte
  CHECK(pushed({0xE5, 0x41}) == "|\uFFFDA|");                    // broken off by ASCII
  CHECK(pushed({0xED, 0xA0, 0x80}) == "|\uFFFD\uFFFD|\uFFFD|");  // a surrogate is never begun
  CHECK(pushed({0xF0, 0x9F, 0x91}) == "|||\uFFFD");              // unfinished at the end: one replacement
  CHECK(pushed({0xF0, 0x9F, 0xF0, 0x9F}) == "||\uFFFD||\uFFFD");
  CHECK(pushed({0xC0, 0xFF}) == "\uFFFD|\uFFFD|");
}

TEST_CASE("a skipped special token does not part a code point from its rest, as in decode") {
  const auto tokenizer = tiny();
  const auto ids = tokenizer->encode("\u5B57");
  REQUIRE(ids.size() > 1);
  std::vector<int32_t> mixed = {ids[0], tokenizer->find("<|im_end|>")};
  mixed.insert(mixed.end(), ids.begin() + 1, ids.end());
  CHECK(tokenizer->decode(mixed, true) == "\u5B57");
  CHECK(tokenizer->decode(mixed, false) == "\uFFFD<|im_end|>\uFFFD\uFFFD");
}

TEST_CASE("finish makes the detokenizer new") {
  const auto tokenizer = tiny();
  Detokenizer detokenizer(*tokenizer);
  const auto ids = tokenizer->encode("\u5B57");
  std::string out;
  detokenizer.push(ids[0], out);
  detokenizer.finish(out);
  CHECK(out == "\uFFFD");
  out.clear();
  for (const int32_t id : ids) detokenizer.push(id, out);
  detokenizer.finish(out);
  CHECK(out == "\u5B57");
}

TEST_CASE("an id out of range is an error that names it") {
  const auto tokenizer = tiny();
  Detokenizer detokenizer(*tokenizer);
  std::string out;
  CHECK_THROWS_WITH_AS(detokenizer.push(-1, out), doctest::Contains("token id -1 is out of range"), Error);
  CHECK_THROWS_AS(detokenizer.push(tokenizer->size(), out), Error);
  CHECK_THROWS_AS(tokenizer->decode(std::vector<int32_t>{1 << 30}), Error);
  CHECK(out.empty());
}
