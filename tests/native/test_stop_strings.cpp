#include <doctest/doctest.h>

#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/utf8.h"
#include "text/stop_strings.h"

using namespace qwen;

namespace {

struct Result {
  std::string text;
  std::optional<size_t> matched;
  bool operator==(const Result&) const = default;
};

// The oracle: the whole text at once, every end tried against every stop string, the longest and then the first taken.
Result naive(const std::vector<std::string>& stops, std::string_view text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> best;
    for (size_t i = 0; i < stops.size(); ++i)
      if (text.substr(0, end).ends_with(stops[i]) && (!best || stops[i].size() > stops[*best].size()))
        best = i;
    if (best) return {std::string(text.substr(0, end - stops[*best].size())), best};
  }
  return {std::string(text), std::nullopt};
}

// Length of the longest end of `text` that is a proper beginning of a stop string.
size_t must_hold(const std::vector<std::string>& stops, std::string_view text) {
  size_t longest = 0;
  for (const std::string& stop : stops)
    for (size_t n = 1; n < stop.size() && n <= text.size(); ++n)
      if (text.ends_with(std::string_view(stop).substr(0, n))) longest = std::max(longest, n);
  return longest;
}

std::vector<std::string> code_points(std::string_view text) {
  std::vector<std::string> out;
  for (size_t at = 0; at < text.size(); at += out.back().size())
    out.emplace_back(text.substr(at, utf8_length(static_cast<unsigned char>(text[at]))));
  return out;
}

std::string random_text(std::mt19937& random, const std::vector<std::string>& alphabet, size_t length) {
  std::string out;
  while (length--) out += alphabet[random() % alphabet.size()];
  return out;
}

}  // namespace

TEST_CASE("stop strings: the text before the match, whichever way it was cut, and nothing held too long") {
  // Code points that share their first bytes, so that a held beginning can end inside one.
  const std::vector<std::vector<std::string>> alphabets = {{"a", "b"},
                                                           {"a", "b", "\n"},
                                                           {"\u00E9", "\u00E8", "a"},
                                                           {"\u5B57", "\u5B58", "\U0001F44D", "\U0001F44E"}};
  std::mt19937 random(3);
  size_t matches = 0;
  for (int round = 0; round < 30000; ++round) {
    const auto& alphabet = alphabets[random() % alphabets.size()];
    std::vector<std::string> stops(random() % 6);
    for (std::string& stop : stops) stop = random_text(random, alphabet, 1 + random() % 6);
    const std::string text = random_text(random, alphabet, random() % 40);
    const Result wanted = naive(stops, text);
    matches += wanted.matched.has_value();

    StopStrings matcher(stops);
    const auto points = code_points(text);
    std::string out, seen;
    for (size_t at = 0; at < points.size();) {
      std::string piece;
      for (size_t n = random() % 4; n-- && at < points.size();) piece += points[at++];
      const bool over = matcher.matched().has_value();
      const std::string released = matcher.push(piece);
      REQUIRE(utf8_error(released) == std::string::npos);
      out += released;
      seen += piece;
      if (over) REQUIRE(released.empty());
      // Neither more nor less is held than has to be.
      if (!matcher.matched()) REQUIRE(out.size() == seen.size() - must_hold(stops, seen));
    }
    if (wanted.matched) REQUIRE(matcher.finish().empty());
    out += matcher.finish();
    REQUIRE(Result{out, matcher.matched()} == wanted);
  }
  CHECK(matches > 5000);
  CHECK(matches < 25000);
}

TEST_CASE(
    "stop strings: the one that is complete first ends the text, the longest of those that end together") {
  const auto run = [](std::vector<std::string> stops, std::string_view text) {
    StopStrings matcher(std::move(stops));
    std::string out = matcher.push(text);
    out += matcher.finish();
    return Result{out, matcher.matched()};
  };
  CHECK(run({"abc", "ab"}, "xabc") == Result{"x", 1});
  CHECK(run({"abcd", "bc"}, "abcd") == Result{"a", 1});
  CHECK(run({"b", "ab"}, "xab") == Result{"x", 1});
  CHECK(run({"ab", "ab"}, "ab") == Result{"", 0});
  CHECK(run({"aab"}, "aaaab") == Result{"aa", 0});
  CHECK(run({"</s>"}, "a</s></s>b") == Result{"a", 0});
}

TEST_CASE("stop strings: without any, and once none is possible, text passes through at once") {
  StopStrings none({});
  CHECK(none.push("text") == "text");
  CHECK(none.finish().empty());
  StopStrings matcher({"\nUser:"});
  CHECK(matcher.push("Hi\nUs") == "Hi");
  CHECK(matcher.push("ers") == "\nUsers");
  CHECK(matcher.push("\n") == "");
  CHECK(matcher.finish() == "\n");
  CHECK(matcher.push("User:") == "User:");  // finish() let go of the line break
  CHECK(!matcher.matched());
}

TEST_CASE("stop strings: a code point that shares bytes with a stop string's stays whole") {
  StopStrings matcher({"a\u00E9"});  // C3 A9
  CHECK(matcher.push("a") == "");
  CHECK(matcher.push("\u00E8") == "a\u00E8");  // C3 A8
  CHECK(matcher.push("a") == "");
  CHECK(matcher.push("\u00E9") == "");
  CHECK(matcher.matched() == 0);
}

TEST_CASE("stop strings: long held text is not read again") {
  // A million bytes held, then a fallback for each: quadratic work would not end in a test's time.
  const std::string run(1'000'000, 'a');
  StopStrings matcher({run + "b", "aac"});
  std::string out;
  for (const char c : run) out += matcher.push(std::string_view(&c, 1));
  CHECK(out.empty());
  CHECK(matcher.push("x") == run + "x");
}

TEST_CASE("stop strings: what can not be one is refused by its index") {
  CHECK_THROWS_WITH_AS(StopStrings({"a", ""}), doctest::Contains("stop string 1 is empty"), Error);
  CHECK_THROWS_WITH_AS(StopStrings({"\xC3"}), doctest::Contains("stop string 0 is not valid UTF-8"), Error);
}
