// Chat templates against what transformers itself rendered: the published Qwen templates (cases.jsonl) and
// single constructs (constructs.jsonl), the committed ones always, the full collection where $QWEN_SHARED or
// ../shared has it.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "base/json.h"
#include "text/chat_template.h"
#include "text/jinja_runtime.h"

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
  for (const jinja::Value& line : lines(test_data() / "constructs.jsonl")) {
    const jinja::Dict& one = line.dict();
    const std::string source(one.find("template")->view());
    const jinja::Value* wanted = one.find("text");
    const jinja::Value* variables = one.find("variables");
    ++count;
    std::string got;
    Status status = Status::ok;
    try {
      got = rendered(source, variables ? dump(*variables) : "{}");
    } catch (const Error& error) {
      status = error.status();
      got = error.message();
    }
    if (wanted) {
      const bool same = status == Status::ok && got == wanted->view();
      CHECK_MESSAGE(same, source, "\n  wanted: ", wanted->view(), "\n  got:    ", got);
    } else {
      const bool refused = status == Status::invalid_argument || status == Status::invalid_file;
      CHECK_MESSAGE(refused, source, "\n  wanted an error: ", one.find("error")->view(), "\n  got:    ", got);
    }
  }
  CHECK(count > 300);
}
