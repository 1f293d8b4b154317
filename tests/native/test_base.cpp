#include <doctest/doctest.h>

#include <cerrno>

#include "base/error.h"
#include "base/json.h"

using namespace qwen;

TEST_CASE("cat writes numbers without the host's locale") {
  CHECK(cat("a", 1, 'b', 2.5, true) == "a1b2.5true");
}

TEST_CASE("the system's reasons are in English") {
  CHECK(system_reason(ENOENT) == "No such file or directory");
  CHECK(system_reason(ENOMEM) == "Cannot allocate memory");
  CHECK(system_reason(99999) == "Unknown error 99999");
}

TEST_CASE("quote escapes control bytes and never cuts a code point") {
  CHECK(quote("a\nb") == "'a\\x0ab'");
  CHECK(quote("ééé", 3) == "'é...'");
}

TEST_CASE("broken JSON is an error that names the file and the line") {
  try {
    parse_json("{\n \"a\": [1,\n}", "config.json");
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.status() == Status::invalid_file);
    CHECK(error.message().find("config.json: not valid JSON at line 3") == 0);
  }
  const std::string deep(100000, '[');
  CHECK_THROWS_AS(parse_json(deep, "deep"), Error);
}

TEST_CASE("a member of another type is an error that names the key") {
  const auto document = parse_json(R"({"n": "seven", "big": 1e6})", "f");
  CHECK_THROWS_WITH_AS(json_int(document, "n", "f"), "f: key 'n' must be an integer, it is a string", Error);
  CHECK(json_int(document, "big", "f") == 1000000);
  CHECK(!json_int(document, "absent", "f"));
}
