// Chat templates against what transformers itself rendered: the published Qwen templates (cases.jsonl) and
// single constructs (constructs.jsonl), the committed ones always, the full collection where $QWEN_SHARED or
// ../shared has it.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "base/json.h"
#include "text/chat_template.h"
#include "text/jinja/runtime.h"

using namespace qwen;
namespace fs = std::filesystem;

namespace {

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The text of any JSON value, object order kept.
std::string dump(const jinja::Value& value) {
  jinja::Runtime runtime("test");
  std::string out;
  jinja::append_json(runtime, value, {}, out);
  return out;
}

std::vector<jinja::Value> lines(const fs::path& path) {
  std::vector<jinja::Value> out;
  std::istringstream text(read(path));
  for (std::string line; std::getline(text, line);) out.push_back(jinja::from_json(line, path.string()));
  return out;
}

fs::path test_data() {
  return fs::path(QWEN_TEST_DATA) / "chat_templates";
}

std::string rendered(std::string_view source, std::string_view variables = "{}",
                     std::string_view messages = "[]") {
  return ChatTemplate::parse(std::string(source), "t")->render(messages, "", variables, false);
}

// The error that parsing or rendering ends with; status ok: there was none.
Error failure(std::string_view source, std::string_view variables = "{}") {
  try {
    rendered(source, variables);
  } catch (const Error& error) {
    return error;
  }
  return Error(Status::ok, "");
}

struct Tally {
  size_t equal = 0, total = 0;
};

Tally check_cases(const fs::path& folder) {
  Tally tally;
  std::map<std::string, std::shared_ptr<const ChatTemplate>> templates;
  for (const jinja::Value& line : lines(folder / "cases.jsonl")) {
    const jinja::Dict& one = line.dict();
    jinja::Dict variables;
    bool generation_prompt = false;
    for (const auto& [key, value] : one.find("kwargs")->dict().items()) {
      if (key.view() == "add_generation_prompt")
        generation_prompt = value.boolean();
      else
        variables.set(key, value);
    }
    const jinja::Value* tools = one.find("tools");
    const std::string tools_json = tools->is_none() ? "" : dump(*tools);
    const std::string variables_json = dump(jinja::DictPtr(std::make_shared<jinja::Dict>(variables)));
    for (const auto& [name, expected] : one.find("rendered")->dict().items()) {
      auto& parsed = templates[std::string(name.view())];
      if (!parsed) {
        const fs::path file = folder / (std::string(name.view()) + ".jinja");
        parsed = ChatTemplate::parse(read(file), file.filename().string());
      }
      const jinja::Value* wanted = expected.dict().find("text");
      std::string got;
      bool failed = false;
      try {
        got = parsed->render(dump(*one.find("messages")), tools_json, variables_json, generation_prompt);
      } catch (const Error& error) {
        failed = true;
        got = error.message();
        // A construct that transformers ran must not be refused, and what it refused is the caller's mistake.
        CHECK_MESSAGE(error.status() == Status::invalid_argument, got);
      }
      const bool same = wanted ? !failed && got == wanted->view() : failed;
      CHECK_MESSAGE(same, one.find("id")->view(), " / ", name.view(), "\n", got);
      // raise_exception's own text reaches the host.
      if (const jinja::Value* error = expected.dict().find("error");
          error && error->view().starts_with("TemplateError: "))
        CHECK(got.find(error->view().substr(15)) != std::string::npos);
      ++tally.total;
      tally.equal += same;
    }
  }
  return tally;
}

}  // namespace

TEST_CASE("the committed cases render byte for byte as transformers renders them") {
  const Tally tally = check_cases(test_data());
  CHECK(tally.total > 50);
  CHECK(tally.equal == tally.total);
}

TEST_CASE("every published template renders every conversation byte for byte") {
  const char* shared = std::getenv("QWEN_SHARED");
  const fs::path folder = fs::path(shared ? shared : "../shared") / "qwen-chat-templates";
  if (!fs::exists(folder / "cases.jsonl")) {
    MESSAGE("skipped: no ", folder.string());
    return;
  }
  const Tally tally = check_cases(folder);
  MESSAGE(tally.equal, " of ", tally.total, " rendered as transformers does");
  CHECK(tally.total == 924);
  CHECK(tally.equal == tally.total);
}

TEST_CASE("single constructs behave as jinja2's") {
  size_t count = 0;
  std::string variables;  // of all constructs, in the first line
  for (const jinja::Value& line : lines(test_data() / "constructs.jsonl")) {
    const jinja::Dict& one = line.dict();
    if (const jinja::Value* shared = one.find("variables")) {
      variables = dump(*shared);
      continue;
    }
    const std::string source(one.find("template")->view());
    const jinja::Value* wanted = one.find("text");
    ++count;
    std::string got;
    Status status = Status::ok;
    try {
      got = rendered(source, variables);
    } catch (const Error& error) {
      status = error.status();
      got = error.message();
    }
    if (wanted) {
      const bool same = status == Status::ok && got == wanted->view();
      CHECK_MESSAGE(same, source, "\n  wanted: ", wanted->view(), "\n  got:    ", got);
    } else {
      // A filter or test that nobody has is refused as one that this interpreter does not have.
      const bool unknown = one.find("error")->view().find(": No ") != std::string::npos;
      const bool refused = status == (unknown ? Status::unsupported : Status::invalid_argument) ||
                           status == Status::invalid_file;
      CHECK_MESSAGE(refused, source, "\n  wanted an error: ", one.find("error")->view(), "\n  got:    ", got);
    }
  }
  CHECK(count > 300);
}

TEST_CASE("an error names the template, the line and what is wrong") {
  const auto check = [](std::string_view source, Status status, std::string_view message) {
    const Error error = failure(source, R"({"user": {"name": "Ada"}, "xs": [1, 2]})");
    CHECK(error.status() == status);
    CHECK_MESSAGE(error.message() == cat("chat template t, line ", message), error.message());
  };
  check("a\n\n{{ raise_exception('no ' ~ 1) }}", Status::invalid_argument, "3: no 1");
  check("{% if xs %}\n  {{ user.nosuch.deep }}\n{% endif %}", Status::invalid_argument,
        "2: 'dict object' has no attribute 'nosuch'");
  check("\n{{ nosuch.deep }}", Status::invalid_argument, "2: 'nosuch' is undefined");
  check("{{ 'a' + 1 }}", Status::invalid_argument, "1: can only concatenate str (not \"int\") to str");
  check("\r\n\r\n{{ xs.startswith('a') }}", Status::invalid_argument,
        "3: 'list object' has no attribute 'startswith'");
  check("{% macro f(x) %}\n{{ x.y.z }}\n{% endmacro %}\n{{ f({}) }}", Status::invalid_argument,
        "2: 'dict object' has no attribute 'y'");
  check("{{ xs.append(1) }}", Status::invalid_argument,
        "1: access to attribute 'append' of 'list' object is unsafe.");
  check("a\n{% if x %}\nb", Status::invalid_file, "3: the block 'if' of line 2 has no end 'endif'");
  check("{{ 1 +\n }}", Status::invalid_file, "2: expected an expression, got '}}'");
  check("{{ (1] }}", Status::invalid_file, "1: unexpected ']', expected ')'");
  check("\n{# never", Status::invalid_file, "2: the comment has no end '#}'");
}

TEST_CASE("a construct outside the subset is refused by name") {
  const auto check = [](std::string_view source, std::string_view message) {
    const Error error = failure(source, R"({"xs": [1, 2], "text": "a"})");
    CHECK(error.status() == Status::unsupported);
    CHECK_MESSAGE(error.message() == cat("chat template t, line ", message), error.message());
  };
  check("\n{% include 'x' %}", "2: the tag 'include' is not supported");
  check("{% extends 'x' %}", "1: the tag 'extends' is not supported");
  check("{% block a %}{% endblock %}", "1: the tag 'block' is not supported");
  check("{% import 'a' as b %}", "1: the tag 'import' is not supported");
  check("{% for x in xs recursive %}{% endfor %}", "1: 'recursive' loops are not supported");
  check("\n\n{{ xs|groupby('a') }}", "3: the filter 'groupby' is not supported");
  check("{{ xs|map('pprint')|list }}", "1: the filter 'pprint' is not supported");
  check("{{ xs is nosuch }}", "1: the test 'nosuch' is not supported");
  check("{{ text.encode('utf-8') }}", "1: the method str.encode is not supported");
  check("{{ cycler(1, 2) }}", "1: the function 'cycler' is not supported");
  check("{{ f(*xs) }}", "1: '*' in a call's arguments is not supported");
  check("{{ xs[1, 2] }}", "1: a subscript with several indices is not supported");
  check("{{ 2 ** 64 }}", "1: integers beyond 64 bits are not supported");
  check("{{ xs|map('string') }}", "1: printing a generator (write |list first)");
  check("{{ '%x' % 3 }}", "1: the format '%x' is not supported");
  check("{{ '{:>3}'.format(3) }}", "1: the format field ':>3' is not supported");
  // Only what a rendering reaches is refused, but for tags.
  CHECK(rendered("{% if false %}{{ 1|groupby('a') }}{% endif %}ok") == "ok");
}

TEST_CASE("a template cannot spend more than the limits") {
  const auto limited = [](std::string_view source, std::string_view variables = "{}") {
    const Error error = failure(source, variables);
    CHECK(error.status() == Status::unsupported);
    CHECK_MESSAGE(error.message().find("limit") != std::string::npos, error.message());
  };
  limited("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}");
  limited("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
  limited(
      "{% macro f() %}{% for x in [1] %}{% if true %}{{ f() }}{% endif %}{% endfor %}{% endmacro %}{{ f() "
      "}}");
  limited("{{ 'x' * 100000000 }}");
  limited("{{ [1] * 100000000 }}");
  limited("{{ 'x'.ljust(1000000000) }}{{ 'x'.zfill(1000000000) }}");
  limited("{% for a in range(100000) %}{{ 'x' * 10000 }}{% endfor %}");
  limited("{% set ns = namespace(s='x') %}{% for a in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}");
  limited("{% set ns = namespace(s=[1]) %}{% for a in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}");
  limited(
      "{% set ns = namespace(s=[1]) %}{% for a in range(64) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ "
      "ns.s }}");
  limited(
      "{% set ns = namespace(a=1, b=1) %}{% for i in range(64) %}{% set ns.a = [ns.a, ns.a] %}"
      "{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}");
  limited("{% set ns = namespace(l=[]) %}{% for a in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}");
  limited(
      "{% set ns = namespace(l={}) %}{% for a in range(100000) %}{% set ns.l = {'a': ns.l} %}{% endfor %}");
  limited(
      "{% set ns = namespace(l='') %}{% for a in range(100000) %}{% set ns.l = [ns.l].count %}{% endfor %}");
  limited(
      "{% set ns = namespace(l='') %}{% for a in range(100000) %}{% set ns.l = joiner(ns.l) %}{% endfor %}");
  limited(
      "{% set ns = namespace(f=1) %}{% macro m() %}{% macro n() %}{{ caller }}{% endmacro %}{% set ns.f = n "
      "%}"
      "{% endmacro %}{{ 'a' * 70000000 }}");
  limited("{{ 'aaaa'|replace('', 'x' * 60000000) }}");
  limited("{{ s|tojson(indent=9999) }}",
          R"({"s": )" + std::string(90, '[') + "1,1,1,1,1,1,1,1,1" + std::string(90, ']') + "}");
  for (const std::string_view open :
       {"(", "[", "{'a':", "-(", "not (", "x(", "x[", "x|f(", "x is f(", "(x if x else ", "a.b("}) {
    std::string nested = "{{ ";
    for (int i = 0; i < 20000; ++i) nested += open;
    nested += '1';
    const size_t inside = open.find_first_of("([{");
    for (int i = 0; i < 20000; ++i) nested += open[inside] == '(' ? ')' : open[inside] == '[' ? ']' : '}';
    limited(nested + " }}");
  }
  for (const std::string_view open :
       {"{% if x %}", "{% for x in y %}", "{% macro f() %}", "{% set x %}", "{% with %}",
        "{% filter upper %}", "{% call f() %}", "{% generation %}"}) {
    std::string nested;
    for (int i = 0; i < 20000; ++i) nested += open;
    limited(nested);
  }
  std::string chain = "{{ 1";
  for (int i = 0; i < 20000; ++i) chain += " if 1 else 2";
  limited(chain + " }}");
  chain = "{{ 1";
  for (int i = 0; i < 20000; ++i) chain += " if 1";
  limited(chain + " }}");
  std::string targets = "{% set ";
  for (int i = 0; i < 20000; ++i) targets += "(";
  limited(targets + "a" + std::string(20000, ')') + " = 1 %}");
  limited(std::string((4U << 20) + 1, 'a'));
}

TEST_CASE("what is long but not nested is no problem") {
  for (const std::string_view piece :
       {" + 1", " ~ 1", " and 1", " or 1", " == 1", "|string", " * 1", "|string|int"}) {
    std::string chain = "{{ 1";
    for (int i = 0; i < 5000; ++i) chain += piece;
    CHECK_MESSAGE(failure(chain + " }}").status() == Status::ok, piece);
  }
  std::string chain = "{{ 1 is defined";
  for (int i = 0; i < 5000; ++i) chain += " is defined";
  CHECK(failure(chain).status() == Status::invalid_file);
  chain = "{{ ";
  for (int i = 0; i < 5001; ++i) chain += "not ";
  CHECK(rendered(chain + "1 }}") == "False");
  chain = "{{ ";
  for (int i = 0; i < 5001; ++i) chain += "-";
  CHECK(rendered(chain + "1 }}") == "-1");
}

TEST_CASE("what refers to itself is freed") {  // seen by the leak sanitizer
  CHECK(rendered("{% set ns = namespace() %}{% set ns.me = ns %}{% set ns.l = [ns, {'a': ns}] %}"
                 "{% macro f() %}{% set g = ns %}{% macro h() %}{{ g }}{% endmacro %}{% set ns.h = h %}{% "
                 "endmacro %}"
                 "{{ f() }}{% for x in [ns] %}{% set ns.loop = loop %}{% set ns.c = loop.changed %}{{ "
                 "loop.changed(loop) }}"
                 "{% endfor %}{% set ns.f = f %}") == "True");
}

TEST_CASE("arguments of render are checked") {
  const auto parsed = ChatTemplate::parse("{{ messages|length }}{{ tools is none }}{{ a }}", "t");
  CHECK(parsed->render(R"([{"role": "user"}])", "", R"({"a": 5})", true) == "1True5");
  CHECK(parsed->render("[]", "[]", "", true) == "0False");
  CHECK(parsed->render("[]", "null", "", true) == "0True");
  for (const auto& [messages, tools, variables, wanted] :
       std::vector<std::array<std::string, 4>>{{"{}", "", "", "messages: must be an array of objects"},
                                               {"[1]", "", "", "messages: message 0 must be an object"},
                                               {"[", "", "", "messages: not valid JSON at line 1"},
                                               {"", "", "", "messages: not valid JSON at line 1"},
                                               {"[]", "{}", "", "tools: must be an array"},
                                               {"[]", "", "[]", "template variables: must be an object"},
                                               {"[\"\xff\"]", "", "", "messages: not valid JSON"},
                                               {std::string(100000, '['), "", "", "messages: line 1"}}) {
    try {
      parsed->render(messages, tools, variables, false);
      FAIL("no error for ", messages);
    } catch (const Error& error) {
      CHECK(error.status() == Status::invalid_argument);
      CHECK_MESSAGE(error.message().find(wanted) == 0, error.message());
    }
  }
  CHECK_THROWS_AS(ChatTemplate::parse("\xff", "t"), Error);
}

TEST_CASE("a message's reasoning is offered under transformers' names") {
  CHECK(rendered("{{ messages|tojson }}", "{}", R"([{"role":"a","reasoning":"r","n":1}])") ==
        R"([{"thinking": "r", "role": "a", "reasoning": "r", "n": 1, "reasoning_content": "r"}])");
  CHECK(rendered("{{ messages|tojson }}", "{}", R"([{"role":"a","reasoning":null}])") ==
        R"([{"role": "a", "reasoning": null}])");
}

TEST_CASE("JSON numbers, repeated keys and order survive") {
  CHECK(rendered("{{ v|tojson }}", R"({"v": {"b": 1.0, "a": -0, "c": 18446744073709551616, "b": 1e2}})") ==
        R"({"b": 100.0, "a": 0, "c": 18446744073709551616})");
}

TEST_CASE("one template renders on many threads at once") {
  const auto parsed = ChatTemplate::parse(read(test_data() / "Qwen3.jinja"), "Qwen3.jinja");
  const std::string messages =
      R"([{"role":"user","content":"hi"},{"role":"assistant","content":"<think>a</think>b"},{"role":"user","content":"c"}])";
  const std::string wanted = parsed->render(messages, "", "", true);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) wrong += parsed->render(messages, "", "", true) != wanted;
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("a model folder's template and special tokens are found where transformers finds them") {
  const fs::path folder = fs::temp_directory_path() / cat("qwen-chat-template-", getpid());
  fs::create_directories(folder);
  const auto write = [&](const char* name, std::string_view text) { std::ofstream(folder / name) << text; };
  const auto render = [&] { return load_chat_template(folder)->render("[]", "", "", false); };
  CHECK(load_chat_template(folder) == nullptr);
  write("tokenizer_config.json", R"({"bos_token": null, "eos_token": "<e>"})");
  CHECK(load_chat_template(folder) == nullptr);
  write("chat_template.json", R"({"chat_template": "json {{ eos_token }}"})");
  CHECK(render() == "json <e>");
  write("tokenizer_config.json",
        R"({"bos_token": null, "eos_token": "<e>", "pad_token": {"content": "<p>"},
            "chat_template": "{{ eos_token }}{{ pad_token }}{{ bos_token is defined }}"})");
  CHECK(render() == "<e><p>False");
  CHECK(load_chat_template(folder)->render("[]", "", R"({"eos_token": "mine"})", false) == "mine<p>False");
  write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]})");
  CHECK(render() == "d");
  write("chat_template.jinja", "file");
  CHECK(render() == "file");
  fs::remove(folder / "chat_template.jinja");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "tool_use", "template": "t"}]})");
  CHECK_THROWS_AS(load_chat_template(folder), Error);
  write("tokenizer_config.json", R"({"chat_template": 5})");
  CHECK_THROWS_AS(load_chat_template(folder), Error);
  write("tokenizer_config.json", "[]");
  CHECK_THROWS_AS(load_chat_template(folder), Error);
  fs::remove_all(folder);
  CHECK_THROWS_AS(load_chat_template(folder), Error);
}

TEST_CASE("mutated templates end in text or in an Error, nothing else") {
  std::vector<std::string> sources;
  for (const char* name : {"Qwen3", "Qwen2.5-Instruct", "Qwen3-Coder", "Qwen3.5-4B"})
    sources.push_back(read(test_data() / cat(name, ".jinja")));
  for (const jinja::Value& line : lines(test_data() / "constructs.jsonl"))
    if (const jinja::Value* source = line.dict().find("template")) sources.emplace_back(source->view());
  static constexpr std::string_view kPieces[] = {"{{",
                                                 "}}",
                                                 "{%",
                                                 "%}",
                                                 "{%-",
                                                 "-%}",
                                                 "{#",
                                                 "#}",
                                                 "(",
                                                 ")",
                                                 "[",
                                                 "]",
                                                 "{",
                                                 "}",
                                                 "|",
                                                 "~",
                                                 "+",
                                                 "*",
                                                 "**",
                                                 "//",
                                                 "%",
                                                 "'",
                                                 "\"",
                                                 "\\",
                                                 ".",
                                                 ",",
                                                 ":",
                                                 "=",
                                                 "==",
                                                 "<",
                                                 " in ",
                                                 " is ",
                                                 " not ",
                                                 " if ",
                                                 " else ",
                                                 "{% endif %}",
                                                 "{% endfor %}",
                                                 "{% for x in xs %}",
                                                 "{% set x = ",
                                                 "{% macro f(a) %}",
                                                 "{% endmacro %}",
                                                 "loop",
                                                 "xs",
                                                 "user",
                                                 "text",
                                                 "namespace(",
                                                 "range(9)",
                                                 "f(x)",
                                                 "|list",
                                                 "|map('",
                                                 "|tojson",
                                                 "|sort",
                                                 "[::-1]",
                                                 "[-1]",
                                                 "1",
                                                 "0",
                                                 "-",
                                                 "9223372036854775807",
                                                 "1e308",
                                                 "none",
                                                 "\xc3\xa9",
                                                 "\xff",
                                                 "\n",
                                                 " ",
                                                 "{% raw %}",
                                                 "{% break %}"};
  const std::string variables =
      R"({"user": {"name": "Ada", "items": [1, 2]}, "xs": [3, 1, 2], "text": "H\u00e9 \ud83d\ude00", "nothing": null, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}}]})";
  const std::string messages =
      R"([{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "<think>x</think>y", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}, {"role": "tool", "content": "r"}])";
  uint64_t state = 20240607;  // xorshift: the same mutations on every machine
  const auto draw = [&](size_t below) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return static_cast<size_t>(state % below);
  };
  size_t texts = 0, errors = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string source = sources[draw(draw(2) ? 4 : sources.size())];
    for (size_t edits = 1 + draw(4); edits > 0; --edits) {
      const size_t at = draw(source.size() + 1), size = std::min(draw(12), source.size() - at);
      switch (draw(4)) {
        case 0:
          source.erase(at, size);
          break;
        case 1:
          source.insert(at, kPieces[draw(std::size(kPieces))]);
          break;
        case 2:
          source.replace(at, size, kPieces[draw(std::size(kPieces))]);
          break;
        default: {
          const std::string& other = sources[draw(sources.size())];
          const size_t from = draw(other.size() + 1);
          source.insert(at, other.substr(from, draw(40)));
        }
      }
    }
    try {
      ChatTemplate::parse(source, "t")->render(messages, "", variables, true);
      ++texts;
    } catch (const Error& error) {
      ++errors;
      if (error.status() == Status::internal) FAIL(error.message());
    }
  }
  CHECK(texts > 500);
  CHECK(errors > 500);
}
