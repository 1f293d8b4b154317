#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/chat_template.h"
#include "text/jinja/runtime.h"
#include "text/json_text.h"
#include "text/tool_calls.h"

using namespace qwen;

namespace {

using Piece = ToolCallParser::Piece;

constexpr std::string_view kTools =
    R"([{"type": "function", "function": {"name": "f", "parameters": {"properties": {
  "s": {"type": "string"}, "i": {"type": "integer"}, "b": {"type": "boolean"}, "o": {"type": "object"}}}}}])";

// Pieces to read: text as it is, a call as «name {…}».
class Log {
 public:
  void add(const std::vector<Piece>& pieces) {
    bool text_before = false;
    for (const Piece& piece : pieces) {
      if (const auto* call = std::get_if<ToolCall>(&piece)) {
        log += "\u00AB" + call->name + " " + call->arguments + "\u00BB";
        text_before = false;
        ++calls;
      } else {
        CHECK(!text_before);
        CHECK(!std::get<std::string>(piece).empty());
        log += std::get<std::string>(piece);
        text_before = true;
      }
    }
  }
  std::string log;
  size_t calls = 0;
};

Log parse(const std::vector<std::string_view>& pieces, std::string_view tools = kTools) {
  ToolCallParser parser(tools);
  Log log;
  for (const std::string_view piece : pieces) log.add(parser.push(piece));
  log.add(parser.finish());
  return log;
}

std::string whole(std::string_view text, std::string_view tools = kTools) {
  return parse({text}, tools).log;
}

std::vector<std::string_view> bytes(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t i = 0; i < text.size(); ++i) out.push_back(text.substr(i, 1));
  return out;
}

// At once, cut in two at every position, and byte by byte.
void check_all_cuts(std::string_view text, std::string_view wanted, std::string_view tools = kTools) {
  CHECK(whole(text, tools) == wanted);
  for (size_t cut = 0; cut <= text.size(); ++cut)
    REQUIRE_MESSAGE(parse({text.substr(0, cut), text.substr(cut)}, tools).log == wanted, "cut at ", cut);
  REQUIRE(parse(bytes(text), tools).log == wanted);
}

std::string dump(const jinja::Value& value) {
  jinja::Runtime runtime("test");
  std::string out;
  jinja::append_json(runtime, value, {}, out);
  return out;
}

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

TEST_CASE("tool calls: every format gives its text and its calls, wherever it is cut") {
  struct Case {
    std::string_view text, wanted;
  };
  for (const auto& [text, wanted] : std::initializer_list<Case>{
           // JSON in tags
           {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\": 1.50, \"a\": [1, {}]}}\n</tool_call>",
            "«f {\"b\":1.50,\"a\":[1,{}]}»"},
           {"<tool_call>{\"arguments\":{},\"name\":\"f\",\"id\":7}</tool_call>", "«f {}»"},
           {"Let me look.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": "
            "{}}\n</tool_call>\n<tool_call>\n{\"name\": "
            "\"g\", \"arguments\": {}}\n</tool_call>\n",
            "Let me look.«f {}»«g {}»"},
           {"<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n Done. ", "«f {}»Done. "},
           {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"s\": \"</tool_call> "
            "\\\"}<tool_call>{\\\\\"}}\n</tool_call>x",
            "«f {\"s\":\"</tool_call> \\\"}<tool_call>{\\\\\"}»x"},
           {"<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": [1, 2]}\"}</tool_call>",
            "«f {\"a\":[1,2]}»"},
           {"<tool_call>{\"name\": \"f\"}</tool_call>", "«f {}»"},
           {"<tool_call>{\"name\": \"f\", \"arguments\": null}</tool_call>", "«f {}»"},
           {"<tool_call>{\"name\": \"f\", \"arguments\": \"\"}</tool_call>", "«f {}»"},
           {"<tool_call>{\"name\": \"\u00FC\\n\", \"arguments\": {\"\u5B57\": \"\U0001F44D\"}}</tool_call>",
            "«\u00FC\n {\"\u5B57\":\"\U0001F44D\"}»"},
           // the closing tag may be missing, but only at the end
           {"a <tool_call>\n{\"name\": \"f\", \"arguments\": {}}", "a«f {}»"},
           {"<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n", "«f {}»"},
           {"<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool", "«f {}»</tool"},

           {"<tool_call>{\"name\": \"f\"}</tool_call>\n</tool_call>", "«f {}»</tool_call>"},

           // XML-like
           {"<tool_call>\n<function=f>\n<parameter=i>\n5\n</parameter>\n<parameter=s>\na\nb\n</parameter>\n</"
            "function>\n"
            "</tool_call>",
            "«f {\"i\":5,\"s\":\"a\\nb\"}»"},
           {"<tool_call>\n<function=f>\n</function>\n</tool_call>\n\n<tool_call>\n<function=g>\n</"
            "function>\n</tool_call>",
            "«f {}»«g {}»"},
           {"<function=f>\n<parameter=b>\nTrue\n</parameter>\n</function>\n</tool_call>", "«f {\"b\":true}»"},
           {"I will.\n<function=f>\n</function>\nDone.", "I will.«f {}»Done."},
           {"<tool_call><function=f><parameter=i>5</parameter><parameter=s>a "
            "b</parameter></function></tool_call>.",
            "«f {\"i\":5,\"s\":\"a b\"}»."},
           {"<tool_call>\n<function=f>\n</function>\n<function=g>\n</function>\n</tool_call>\n",
            "«f {}»«g {}»"},
           {"<tool_call>\n<function=f>\n</function>\n</tool_call></tool_call>", "«f {}»</tool_call>"},
           {"<tool_call>\n<function=f>\n</function>", "«f {}»"},
           {"<tool_call>\n<function=f>\n</function>\n</tool", "«f {}»</tool"},
           {"<function=f><parameter=s>\n</parameter><parameter=t>\n\n</parameter><parameter=u>\n\n\n</"
            "parameter></function>",
            "«f {\"s\":\"\",\"t\":\"\",\"u\":\"\\n\"}»"},
           {"<function=f><parameter=s>\n  a\n\n</parameter></function>", "«f {\"s\":\"  a\\n\"}»"},
           {"<function=f><parameter=s>1</parameter><parameter=i>1</parameter><parameter=s>2</parameter></"
            "function>",
            "«f {\"s\":\"2\",\"i\":1}»"},
           {"<function=f><parameter=a \"b\">1</parameter></function>", "«f {\"a \\\"b\\\"\":\"1\"}»"},
           // tags inside a value
           {"<function=f><parameter=s>\n</tool_call> </function> <function=g> "
            "<parameter=\n</parameter></function>",
            "«f {\"s\":\"</tool_call> </function> <function=g> <parameter=\"}»"},
           {"<function=f><parameter=s>\na</parameter>b\n</parameter>\nc\n</parameter>\n</function>x",
            "«f {\"s\":\"a</parameter>b\\n</parameter>\\nc\"}»x"},
           {"<function=f><parameter=s>\na</parameter></parameter></functio\n</parameter>\n</function>",
            "«f {\"s\":\"a</parameter></parameter></functio\"}»"},
           {"<function=f><parameter=s>\na</parameter> <parameter=>\n</parameter> "
            "<parameter=\n</parameter></function>",
            "«f {\"s\":\"a</parameter> <parameter=>\\n</parameter> <parameter=\"}»"},
           {"<tool_call>\n<function=f>\n<parameter=s>\nSo:\n<tool_call>\n<function=g>\n<parameter=x>\n1\n</"
            "parameter>\n"
            "</function>\n</tool_call>\nthus\n</parameter>\n<parameter=i>\n2\n</parameter>\n</function>\n</"
            "tool_call>\nk",
            "«f "
            "{\"s\":\"So:\\n<tool_call>\\n<function=g>\\n<parameter=x>\\n1\\n</parameter>\\n</function>\\n</"
            "tool_call>"
            "\\nthus\",\"i\":2}»k"},
           {"<function=f><parameter=s>\n<parameter=x>\n1\n</parameter>\n</parameter></function>",
            "«f {\"s\":\"<parameter=x>\\n1\\n</parameter>\"}»"},

           // both in one answer
           {"<tool_call>{\"name\": \"f\"}</tool_call> <function=g></function></tool_call>, "
            "<tool_call>{\"name\": \"h\"}"
            "</tool_call>",
            "«f {}»«g {}»,«h {}»"},
       })
    check_all_cuts(text, wanted);
}

TEST_CASE("tool calls: what is not a call comes out as it came, and calls behind it are found") {
  for (const std::string_view text : {
           "",
           " \n",
           "text ",
           "a < b, <tool, <tool_call, <function",
           "<tool_call>",
           "<tool_call>\n",
           "</tool_call>",
           "<tool_call>\n\n</tool_call>\n",
           "<tool_call>text</tool_call>",
           "<tool_call>\n[1]\n</tool_call>",
           "<tool_call>\n{\"name\": \"f\", \"arguments\": {}\n</tool_call>\n",
           "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}}\n</tool_call>",
           "<tool_call>\n{\"name\": \"f\", \"arguments\": {}} and\n</tool_call>",
           "<tool_call>{\"name\": \"f\", \"arguments\": {,}}</tool_call>",
           "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 01}}</tool_call>",
           "<tool_call>{\"name\": \"f\", \"arguments\": {]}}</tool_call>",
           "<tool_call>{\"name\": \"f\", \"arguments\": {'a': 1}}</tool_call>",
           "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x\ny\"}}</tool_call>",
           "<tool_call>{\"name\": \"f\", \"arguments\": \"[]\"}</tool_call>",
           "<tool_call>{\"name\": \"f\", \"arguments\": \"{\"}</tool_call>",
           "<tool_call>{\"name\": \"f\", \"arguments\": 5}</tool_call>",
           "<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>",
           "<tool_call>{\"name\": 5}</tool_call>",
           "<tool_call>{\"arguments\": {}}</tool_call>",
           "<tool_call>{}</tool_call>",
           "<tool_call>\n{\"name\": \"f\", \"argu",
           "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b}}</tool_call>",
           "use <function=name> for it",
           "<function=>",
           "<function=f g></function>",
           "<function=f<b>",
           "<function=f",
           "<tool_call>\n<function=f>\ntext\n</function>\n</tool_call>",
           "<tool_call><function=f></tool_call>",
           "<function=f><parameter=></parameter></function>",
           "<function=f><parameter=a\n></parameter></function>",
           "<function=f>\n<parameter=s>\na\n",
           "<function=f><parameter=s>a</parameter>",
           "<function=f><parameter=s>a</para",
           // a value whose end is forgotten is not guessed at
           "<function=f><parameter=s>\na</parameter>\n<parameter=\n</parameter>\n</function>",
           "<function=f><parameter=s>\na\n<parameter=i>\n5\n</parameter>\n</function>\n</tool_call>",
           "<function=f><parameter=s>\na\n</function>\n</tool_call>",
       }) {
    check_all_cuts(text, text);
    // Whether or not the rest of it swallows what follows, nothing is lost.
    const std::string twice = std::string(text) + "\n" + std::string(text);
    CHECK(whole(twice) == twice);
  }
  const std::string call = "<tool_call>{\"name\": \"g\"}</tool_call>";
  check_all_cuts("<tool_call>\n" + call, "<tool_call>«g {}»");
  check_all_cuts(" <tool_call> x" + call, " <tool_call> x«g {}»");
  check_all_cuts("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b}}\n</tool_call>\n" + call,
                 "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b}}\n</tool_call>«g {}»");
  check_all_cuts("<tool_call>{\"name\": \"f\", \"arguments\": {}\n" + call,
                 "<tool_call>{\"name\": \"f\", \"arguments\": {}«g {}»");
  check_all_cuts("<tool_call>{\"name\": \"f\"}\n" + call, "<tool_call>{\"name\": \"f\"}«g {}»");
  check_all_cuts("`<function=name>` and\n<function=<function=g></function>",
                 "`<function=name>` and\n<function=«g {}»");
  check_all_cuts(call + "\n<tool_call>\nno " + call + "\n", "«g {}»<tool_call>\nno«g {}»");
}

TEST_CASE("tool calls: text is held only while it may belong to a call") {
  struct Case {
    std::string_view text, held;
  };
  for (const auto& [text, held] : std::initializer_list<Case>{{"Hello", ""},
                                                              {"Hello \n", " \n"},
                                                              {"a<", "<"},
                                                              {"a \n<tool_ca", " \n<tool_ca"},
                                                              {"<tool_x", ""},
                                                              {"a <b>", ""},
                                                              {"<<function", "<function"},
                                                              {"a <function=", " <function="},
                                                              {"<tool_call>t", ""},
                                                              {"\n<tool_call>\n", "\n<tool_call>\n"},
                                                              {"<function=f>\n<p", "<function=f>\n<p"},
                                                              {"<function=f> x", ""},
                                                              {"</tool_call", ""}}) {
    ToolCallParser parser(kTools);
    Log log;
    log.add(parser.push(text));
    CHECK_MESSAGE(log.log == text.substr(0, text.size() - held.size()), text);
  }
  ToolCallParser parser(kTools);
  Log log;
  log.add(parser.push("<tool_call>{\"name\": \"f\"}</tool_call>"));
  CHECK(log.log == "«f {}»");  // not only when something follows
  log.add(parser.push("\n"));
  log.add(parser.push("<function=g></function>"));
  CHECK(log.log == "«f {}»«g {}»");
  CHECK(parser.finish().empty());
  log.add(parser.push("\nnew"));  // a new text: its white space stands behind no call
  CHECK(log.log == "«f {}»«g {}»\nnew");
}

TEST_CASE("tool calls: random text loses nothing and does not depend on the cuts") {
  const std::vector<std::string> fragments = {
      "<tool_call>",
      "</tool_call>",
      "<function=",
      "<function=f>",
      "</function>",
      "<parameter=",
      "<parameter=s>",
      "<parameter=i>",
      "</parameter>",
      "\n",
      " ",
      "{",
      "}",
      "\"",
      "\\",
      "{\"name\": \"f\"",
      ", \"arguments\": {",
      "\"a\": 1",
      "}}",
      "text",
      "<",
      ">",
      "</",
      "5",
      "\u00E9",
      "\U0001F44D",
      "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"<\"}}\n</tool_call>",
      "<function=f>\n<parameter=s>\nx\n</parameter>\n</function>"};
  std::mt19937 random(11);
  size_t calls = 0, clean = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (size_t n = random() % 14; n--;) text += fragments[random() % fragments.size()];
    const Log wanted = parse({text});
    calls += wanted.calls;
    clean += wanted.calls == 0;
    if (!wanted.calls) REQUIRE(wanted.log == text);
    REQUIRE(parse(bytes(text)).log == wanted.log);
    std::vector<std::string_view> pieces;
    for (size_t at = 0; at < text.size(); at += pieces.back().size())
      pieces.push_back(std::string_view(text).substr(at, 1 + random() % 9));
    REQUIRE(parse(pieces).log == wanted.log);

    // The texts stand in the input, in their order, from its very beginning or behind a block.
    ToolCallParser parser(kTools);
    auto list = parser.push(text);
    for (Piece& piece : parser.finish()) list.push_back(std::move(piece));
    size_t at = 0;
    for (const Piece& piece : list) {
      if (const auto* words = std::get_if<std::string>(&piece)) {
        const size_t found = text.find(*words, at);
        REQUIRE(found != std::string::npos);
        if (&piece == list.data()) REQUIRE(found == 0);
        at = found + words->size();
      } else if (&piece == list.data()) {
        const std::string_view rest = std::string_view(text).substr(text.find_first_not_of(" \n"));
        REQUIRE((rest.starts_with("<tool_call>") || rest.starts_with("<function=")));
      }
    }
  }
  CHECK(calls > 5000);
  CHECK(clean > 5000);
}

TEST_CASE("tool calls: what the published templates render is read back") {
  const std::string lines = read(QWEN_TEST_DATA "/tool_calls/rendered.jsonl");
  std::istringstream stream(lines);
  size_t count = 0;
  for (std::string line; std::getline(stream, line); ++count) {
    const jinja::Value value = jinja::from_json(line, "rendered.jsonl");
    const jinja::Dict& one = value.dict();
    std::string wanted(one.find("content")->view());
    for (const jinja::Value& call : one.find("calls")->sequence().items)
      wanted += "\u00AB" + std::string(call.dict().find("name")->view()) + " " +
                compact_json(dump(*call.dict().find("arguments"))).value() + "\u00BB";
    INFO(one.find("id")->view());
    check_all_cuts(one.find("answer")->view(), wanted, dump(*one.find("tools")));
  }
  CHECK(count == 51);
}

TEST_CASE("tool calls: random arguments survive the templates") {
  constexpr std::string_view kTyped =
      R"([{"type": "function", "function": {"name": "f", "parameters": {"properties": {
    "s": {"type": "string"}, "t": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"},
    "b": {"type": "boolean"}, "z": {"type": ["integer", "null"]}, "l": {"type": "array"}, "o": {"type": "object"}}}}}])";
  const std::vector<std::string> fragments = {
      "a",  "\n",           " ",    "<", "</tool_call>", "<tool_call>", "</parameter>", "\u00E9", "\"", "\\",
      "{}", "<function=f>", "null", "5", "True",         "</parameter"};
  std::mt19937 random(5);
  const auto json_string = [&] {
    std::string text, json;
    for (size_t n = random() % 6; n--;) text += fragments[random() % fragments.size()];
    append_json_string(json, text);
    return json;
  };
  const auto number = [&] { return std::to_string(static_cast<int64_t>(random()) - 2'000'000'000); };
  for (const std::string_view name : {"Qwen2.5-Instruct", "Qwen3", "Qwen3-Coder", "Qwen3.5-4B"}) {
    const auto chat =
        ChatTemplate::parse(read(cat(QWEN_TEST_DATA "/chat_templates/", name, ".jinja")), std::string(name));
    for (int round = 0; round < 300; ++round) {
      std::string messages =
          R"([{"role": "user", "content": "x"}, {"role": "assistant", "content": "Well.", "tool_calls": [)";
      std::string wanted = "Well.";
      for (size_t calls = 1 + random() % 3; calls--;) {
        std::string arguments;
        for (const char key : std::string_view("stinbzlo")) {
          if (random() % 2) continue;
          const std::string value = key == 's' || key == 't' ? json_string()
                                    : key == 'i'             ? number()
                                    : key == 'n'             ? number() + ".5"
                                    : key == 'b'             ? random() % 2 ? "true" : "false"
                                    : key == 'z'             ? random() % 2 ? "null" : number()
                                                : key == 'l' ? "[" + json_string() + "," + number() + "]"
                                                 : "{" + json_string() + ":" + json_string() + "}";
          arguments += cat(arguments.empty() ? "" : ",", "\"", key, "\":", value);
        }
        messages += R"({"type": "function", "function": {"name": "f", "arguments": {)" + arguments + "}}}" +
                    (calls ? "," : "");
        wanted += "\u00ABf {" + arguments + "}\u00BB";
      }
      messages += "]}]";
      std::string answer = chat->render(messages, kTyped, "{\"enable_thinking\": false}", false);
      answer.erase(0, answer.rfind("Well."));
      answer.erase(answer.rfind("<|im_end|>"));
      INFO(name, "\n", answer);
      REQUIRE(whole(answer, kTyped) == wanted);
    }
  }
}

TEST_CASE("tool calls: a long text takes time by its length, however it is cut") {
  const auto feed = [](std::string_view begin, std::string_view unit, std::string_view end) {
    ToolCallParser parser(kTools);
    Log log;
    log.add(parser.push(begin));
    for (int i = 0; i < 300'000; ++i) log.add(parser.push(unit));
    log.add(parser.push(end));
    log.add(parser.finish());
    return log;
  };
  CHECK(feed("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"", "</tool_call>", "\"}}</tool_call>")
            .calls == 1);
  CHECK(feed("<function=f><parameter=s>\n", "</parameter>\n <", "\n</parameter>\n</function>").calls == 1);
  CHECK(feed("<function=f>", "<parameter=s>1</parameter>", "</function>").calls == 1);
  CHECK(feed("", "\n \n", "<function=f></function>").log == "«f {}»");
  CHECK(feed("", "<function=f></function>\n", "").calls == 300'000);
  CHECK(feed("<tool_call>{\"name\": ", "[", "").calls == 0);
  CHECK(feed("<function=f><parameter=s>\n", "<function=f><parameter=s>\n", "").calls == 0);
  CHECK(feed("", "<tool_call>{\"a\"", "").calls == 0);
  std::string many;
  for (int i = 0; i < 100'000; ++i) many += "<tool_call>{\"name\": \"f\"}</tool_call>\n";
  CHECK(parse({many}).calls == 100'000);
}

TEST_CASE("tool calls: tools that are no array of objects are refused") {
  CHECK_THROWS_WITH_AS(ToolCallParser("{}"), doctest::Contains("must be a JSON array of objects"), Error);
}
