#include <doctest/doctest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/nfc.h"
#include "text/pretokenizer.h"
#include "text/tokenizer.h"

using namespace qwen;

namespace {

const char* const kTiny = QWEN_TEST_DATA "/tiny_tokenizer/tokenizer.json";

std::string tiny_json() {
  std::ifstream file(kTiny, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// A file that is gone when the test is.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& text) {
    static int count = 0;
    path_ =
        std::filesystem::temp_directory_path() / cat("qwen-tokenizer-", ::getpid(), "-", count++, ".json");
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// The tiny tokenizer.json with the first `old` replaced.
std::string edited(std::string_view old, std::string_view replacement) {
  std::string text = tiny_json();
  const size_t at = text.find(old);
  REQUIRE_MESSAGE(at != std::string::npos, "the tiny tokenizer.json has no " << old);
  return text.replace(at, old.size(), replacement);
}

struct Refusal {
  Status status = Status::ok;
  std::string message;
};

// What opening a file of this content says; the message must name the file.
Refusal refusal(const std::string& json) {
  const TemporaryFile file(json);
  try {
    Tokenizer::open(file.path());
  } catch (const Error& error) {
    CHECK(error.message().starts_with(file.path().string()));
    return {error.status(), error.message()};
  }
  return {};
}

void check_refused(const std::string& json, Status status, std::string_view named) {
  const Refusal got = refusal(json);
  INFO("message: " << got.message << "; wanted: " << named);
  CHECK(static_cast<int>(got.status) == static_cast<int>(status));
  CHECK(got.message.find(named) != std::string::npos);
}

}  // namespace

TEST_CASE("a tokenizer opens from its file or its folder; a missing one is not found") {
  CHECK(Tokenizer::open(kTiny)->size() == 492);
  CHECK(Tokenizer::open(QWEN_TEST_DATA "/tiny_tokenizer")->size() == 492);
  try {
    Tokenizer::open(QWEN_TEST_DATA "/no_such_folder");
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.status() == Status::not_found);
    CHECK(error.message().find("no_such_folder") != std::string::npos);
  }
}

TEST_CASE("the empty text has no ids, and NUL bytes are text") {
  const auto tokenizer = Tokenizer::open(kTiny);
  CHECK(tokenizer->encode("").empty());
  CHECK(tokenizer->decode({}).empty());
  const std::string text("a\0b\0", 4);
  CHECK(tokenizer->decode(tokenizer->encode(text)) == text);
}

TEST_CASE("text that is not UTF-8 is an error that names the byte") {
  const auto tokenizer = Tokenizer::open(kTiny);
  const auto offset = [&](std::string_view text) -> std::string {
    try {
      tokenizer->encode(text);
    } catch (const Error& error) {
      CHECK(error.status() == Status::invalid_argument);
      return error.message();
    }
    return "";
  };
  CHECK(offset("0123456789\xFF") == "text is not valid UTF-8 at byte 10");
  CHECK(offset("\xC3") == "text is not valid UTF-8 at byte 0");
  CHECK(offset("a\xC0\x80") == "text is not valid UTF-8 at byte 1");               // overlong
  CHECK(offset("ab\xED\xA0\x80") == "text is not valid UTF-8 at byte 2");          // a surrogate
  CHECK(offset("\u5B57\xF4\x90\x80\x80") == "text is not valid UTF-8 at byte 3");  // above U+10FFFF
  CHECK(offset("\xF4\x8F\xBF\xBF") == "");
}

TEST_CASE("added tokens are found in text, or are text, as asked") {
  const auto tokenizer = Tokenizer::open(kTiny);
  const int32_t start = tokenizer->find("<|im_start|>");
  REQUIRE(start >= 0);
  CHECK(tokenizer->is_added(start));
  CHECK(tokenizer->is_special(start));
  CHECK(tokenizer->token_bytes(start) == "<|im_start|>");
  CHECK(!tokenizer->is_special(tokenizer->find("<think>")));
  CHECK(!tokenizer->is_added(0));
  CHECK(tokenizer->find("<|im_start") == -1);
  CHECK(tokenizer->encode("<|im_start|>") == std::vector<int32_t>{start});
  const auto plain = tokenizer->encode("<|im_start|>", false);
  CHECK(plain.size() > 1);
  CHECK(tokenizer->decode(plain) == "<|im_start|>");
}

TEST_CASE("added tokens that are to be found after normalisation are found there") {
  // U+00E9 as the file writes it, e + U+0301 in the text: equal only after NFC.
  const auto json =
      edited(R"("added_tokens": [)",
             R"("added_tokens": [{"id": 600, "content": "caf\u00e9!", "single_word": false, "lstrip": false,
                              "rstrip": false, "normalized": true, "special": false},)");
  const TemporaryFile file(json);
  const auto tokenizer = Tokenizer::open(file.path());
  CHECK(tokenizer->encode("cafe\u0301!") == std::vector<int32_t>{600});
  CHECK(tokenizer->size() == 601);
  CHECK(tokenizer->token_bytes(599).empty());  // a hole in the numbering
}

TEST_CASE("a file cut off anywhere is refused") {
  const std::string json = tiny_json();
  for (size_t length = 0; length + 2 < json.size(); length += 1 + length / 97) {
    const Refusal got = refusal(json.substr(0, length));
    REQUIRE_MESSAGE(static_cast<int>(got.status) == static_cast<int>(Status::invalid_file),
                    length << ": " << got.message);
  }
}

TEST_CASE("a file with bytes changed at random opens or is refused, and never crashes") {
  const std::string json = tiny_json();
  std::mt19937 random(3);
  for (int round = 0; round < 1500; ++round) {
    std::string broken = json;
    for (int changes = 1 + round % 4; changes > 0; --changes) {
      static constexpr std::string_view kBytes = "\"\\{}[],:0-9e.xn\xC4\xFF\x01 ";
      broken[random() % broken.size()] = kBytes[random() % kBytes.size()];
    }
    const TemporaryFile file(broken);
    try {
      const auto tokenizer = Tokenizer::open(file.path());
      tokenizer->decode(tokenizer->encode("Hello, the w\u00F6rld <|im_end|> 12"));
    } catch (const Error& error) {
      CHECK(error.message().starts_with(file.path().string()));
    }
  }
}

TEST_CASE("a broken vocabulary is refused by name") {
  const auto vocab = [](std::string_view entry) {
    return edited(R"("vocab": {)", cat(R"("vocab": {)", entry, ","));
  };
  check_refused(vocab(R"("zz": "7")"), Status::invalid_file, "an id in 'model.vocab' must be an integer");
  check_refused(vocab(R"("zz": 600.5)"), Status::invalid_file, "must be an integer, it is '600.5'");
  check_refused(vocab(R"("zz": null)"), Status::invalid_file, "must be an integer");
  check_refused(vocab(R"("zz": -1)"), Status::invalid_file, "token 'zz' has id -1; it must be from 0");
  check_refused(vocab(R"("zz": 99999999)"), Status::invalid_file, "token 'zz' has id 99999999");
  check_refused(vocab(R"("zz": 99999999999999999999999)"), Status::invalid_file, "must be an integer");
  check_refused(vocab(R"("zz": 3)"), Status::invalid_file, "id 3 is given to two tokens");
  check_refused(vocab(R"("!": 600)"), Status::invalid_file, "are the same token '!'");
  check_refused(vocab("\"z \xFF\": 600"), Status::invalid_file, "is not valid UTF-8");
  check_refused(edited(R"("!": 0,)", ""), Status::unsupported, "'model.vocab' has no token for byte 33");
  check_refused(edited(R"("vocab": {)", R"("vocab": 1, "x": {)"), Status::invalid_file,
                "'model.vocab' must be an object");
  check_refused(edited(R"("vocab")", R"("v")"), Status::invalid_file, "'model.vocab' is missing");
  check_refused(edited(R"("model")", R"("modell")"), Status::invalid_file, "'model'");
  check_refused("[]", Status::invalid_file, "expected an object");
  check_refused("", Status::invalid_file, "ends at byte 0");
  check_refused(tiny_json() + "x", Status::invalid_file, "not valid JSON");
}

TEST_CASE("broken merges are refused by name") {
  const auto merges = [](std::string_view entry) {
    return edited(R"("merges": [)", cat(R"("merges": [)", entry, ","));
  };
  check_refused(merges(R"(["qq", "a"])"), Status::invalid_file, "merge 0 ('qq', 'a') names token 'qq'");
  check_refused(merges(R"(["z", "\u0120"])"), Status::invalid_file, "which 'model.vocab' does not have");
  check_refused(merges(R"(["z", ""])"), Status::invalid_file, "names token ''");
  check_refused(merges(R"(["z"])"), Status::invalid_file, "the second token of a merge");
  check_refused(merges(R"(["z", "z", "z"])"), Status::invalid_file, "after the two tokens of a merge");
  check_refused(merges(R"("zz")"), Status::invalid_file,
                "merge 0 is 'zz'; it must be two tokens with one space");
  check_refused(merges("7"), Status::invalid_file, "must be a pair");
  check_refused(merges(R"(["h", "e"])"), Status::invalid_file, "is there twice");
  check_refused(edited(R"("merges")", R"("m")"), Status::invalid_file, "'model.merges' is missing");
}

TEST_CASE("broken added tokens are refused by name") {
  const auto added = [](std::string_view entry) {
    return edited(R"("added_tokens": [)", cat(R"("added_tokens": [)", entry, ","));
  };
  check_refused(added(R"({"id": 600})"), Status::invalid_file, "entry 0: 'content' is missing or empty");
  check_refused(added(R"({"id": 600, "content": ""})"), Status::invalid_file,
                "'content' is missing or empty");
  check_refused(added(R"({"id": 600, "content": 5})"), Status::invalid_file, "'content' must be a string");
  check_refused(added(R"({"content": "<x>"})"), Status::invalid_file, "('<x>'): 'id' is missing");
  check_refused(added(R"({"id": -2, "content": "<x>"})"), Status::invalid_file, "'id' is -2");
  check_refused(added(R"({"id": 456, "content": "<x>"})"), Status::invalid_file,
                "id 456 is already the token");
  check_refused(added(R"({"id": 600, "content": "!"})"), Status::invalid_file,
                "but 'model.vocab' gives it 0");
  check_refused(added("7"), Status::invalid_file, "entry 0 must be an object");
  for (const char* flag : {"single_word", "lstrip", "rstrip"})
    check_refused(added(cat(R"({"id": 600, "content": "<x>", ")", flag, R"(": true})")), Status::unsupported,
                  flag);
}

TEST_CASE("what Qwen's tokenizers do not use is refused by name") {
  check_refused(edited("(?i:'s|", "(?i:'x|"), Status::unsupported, "unknown regex '(?i:'x|");
  check_refused(edited(R"("NFC")", R"("NFKC")"), Status::unsupported, "'normalizer.type' is 'NFKC'");
  check_refused(edited(R"("Isolated")", R"("Removed")"), Status::unsupported, "behavior 'Removed'");
  check_refused(edited(R"("type": "BPE")", R"("type": "Unigram")"), Status::unsupported,
                "'model.type' is 'Unigram'");
  check_refused(edited(R"("ignore_merges": false)", R"("ignore_merges": true)"), Status::unsupported,
                "ignore_merges");
  check_refused(edited(R"("byte_fallback": false)", R"("byte_fallback": true)"), Status::unsupported,
                "byte_fallback");
  check_refused(edited(R"("dropout": null)", R"("dropout": 0.1)"), Status::unsupported, "dropout");
  check_refused(edited(R"("unk_token": null)", R"("unk_token": "<unk>")"), Status::unsupported, "'<unk>'");
  check_refused(edited(R"("use_regex": false)", R"("use_regex": true)"), Status::unsupported, "use_regex");
}

TEST_CASE("merges may be strings, and stand before the vocabulary") {
  std::string json = tiny_json();
  const size_t begin = json.find(R"("merges":)"), end = json.rfind(']') + 1, comma = json.rfind(',', begin);
  std::string_view rest = std::string_view(json).substr(begin + 9, end - begin - 9);
  std::string strings;
  const auto next_string = [&] {  // as written; the tiny merges hold \" but no other escape
    const size_t first = rest.find('"');
    size_t last = rest.find('"', first + 1);
    while (rest[last - 1] == '\\') last = rest.find('"', last + 1);
    const std::string_view content = rest.substr(first + 1, last - first - 1);
    rest.remove_prefix(last + 1);
    return content;
  };
  while (rest.find('"') != std::string_view::npos) {
    const std::string_view left = next_string(), right = next_string();
    strings += cat(strings.empty() ? "" : ", ", '"', left, ' ', right, '"');
  }
  json.erase(comma, end - comma);
  json.insert(json.find(R"("vocab")"), cat(R"("merges": [)", strings, "], "));
  const TemporaryFile file(json);
  const std::string text = "the quick brown fox, and the other things that were there";
  CHECK(Tokenizer::open(file.path())->encode(text) == Tokenizer::open(kTiny)->encode(text));
}

TEST_CASE("a null normalizer leaves the text as it is") {
  const std::string json = edited(R"("normalizer": )", R"("normalizer": null, "unused": )");
  const TemporaryFile file(json);
  const auto tokenizer = Tokenizer::open(file.path());
  CHECK(tokenizer->decode(tokenizer->encode("e\u0301")) == "e\u0301");
  CHECK(Tokenizer::open(kTiny)->decode(Tokenizer::open(kTiny)->encode("e\u0301")) == "\u00E9");
}

TEST_CASE("a token that the merges do not reach is not used, even for a piece equal to it") {
  const TemporaryFile file(edited(R"("vocab": {)", R"("vocab": {"qzx": 600,)"));
  const auto tokenizer = Tokenizer::open(file.path());
  const auto first = tokenizer->encode("qzx"), second = tokenizer->encode("qzx");
  CHECK(first == second);
  CHECK(first == Tokenizer::open(kTiny)->encode("qzx"));
}

TEST_CASE("threads that share a tokenizer get the ids that one thread gets") {
  const auto tokenizer = Tokenizer::open(kTiny);
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i) texts.push_back(cat("the thing number ", i, " and then the others"));
  std::vector<std::vector<int32_t>> expected;
  for (const auto& text : texts) expected.push_back(Tokenizer::open(kTiny)->encode(text));
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (size_t i = 0; i < texts.size(); ++i) wrong += tokenizer->encode(texts[i]) != expected[i];
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("the pre-tokenizer cuts as the regex does") {
  const auto pieces = [](std::string_view text, bool marks_are_letters) {
    std::string out;
    for (const char* p = text.data(); p != text.data() + text.size();) {
      const char* end = text.data() + text.size();
      const char* next = marks_are_letters ? next_piece<PreTokenizer::marks_are_letters>(p, end)
                                           : next_piece<PreTokenizer::marks_are_symbols>(p, end);
      REQUIRE(next > p);
      out.append(p, next).push_back('|');
      p = next;
    }
    return out;
  };
  CHECK(pieces("I'LL don't 'tis 12", false) == "I|'LL| don|'t| '|tis| |1|2|");
  CHECK(pieces("a  b\n\n  c \n d  ", false) == "a| | b|\n\n| | c| \n| d|  |");
  CHECK(pieces("x+=(y);\r\n\r\nz", false) == "x|+=(|y|);\r\n\r\n|z|");
  CHECK(pieces("'\u017Fa", false) == "'\u017F|a|");
  CHECK(pieces("\u0915\u094D\u0937", false) == "\u0915|\u094D\u0937|");
  CHECK(pieces("\u0915\u094D\u0937", true) == "\u0915\u094D\u0937|");
}

TEST_CASE("NFC text is not copied, other text is normalised") {
  std::string storage;
  for (const std::string_view text : {"", "ascii", "na\u00EFve \u5B57 \uAC00 \u0E01\u0E34\u0E48 \U0001F44D"})
    CHECK(normalize_nfc(text, storage).data() == text.data());
  CHECK(normalize_nfc("ae\u0301x", storage) == "a\u00E9x");
  CHECK(normalize_nfc("\u1100\u1161\u11A8", storage) == "\uAC01");
  CHECK(normalize_nfc("\u00E9\u0323", storage) == "\u1EB9\u0301");
  CHECK(normalize_nfc("\u212B", storage) == "\u00C5");
}

// Merges of long files are looked for beside the vocabulary; white space makes the tiny one long.
TEST_CASE("a long file gives the same tokenizer, wherever its merges seem to be") {
  const std::string text =
      "A tiny tokenizer's merges, and \"merges\" in a text: is it?\n  1234 merges\xE2\x80\xA6";
  const auto wanted = Tokenizer::open(kTiny)->encode(text);
  const std::string space(size_t{2} << 20, ' ');
  const auto encoded = [&](const std::string& json) {
    const TemporaryFile file(json + space);
    return Tokenizer::open(file.path())->encode(text);
  };
  CHECK(encoded(tiny_json()) == wanted);
  CHECK(encoded(edited("\"truncation\": null", R"("truncation": {"merges": [["a", "b"], ["b", "a"]]})")) ==
        wanted);
  CHECK(encoded(edited("\"truncation\": null", R"("truncation": {"merges": 7, "x": {"merges": [1]}})")) ==
        wanted);
}

TEST_CASE("what is wrong with the merges of a long file is said as of a short one") {
  const std::string space(size_t{2} << 20, ' ');
  const std::string broken = edited("\"merges\": [", "\"merges\": [\"one two three\", ");
  check_refused(broken, Status::invalid_file, "merge 0 is 'one two three'");
  check_refused(broken + space, Status::invalid_file, "merge 0 is 'one two three'");
}
