/* The host in C++: reads cases from standard input, prints one line of JSON for each (README.md has both formats).
 *
 *     c++ -std=c++17 host.cpp $(pkg-config --cflags --libs qwen) -o host
 *     ./host path/to/model < cases/demo.txt
 */
#include <cstdio>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <qwen.hpp>
#include <sstream>

namespace {

using Words = std::vector<std::string>;

Words split(const std::string& text, char separator) {
  Words parts;
  std::istringstream rest(text);
  for (std::string part; std::getline(rest, part, separator);) parts.push_back(part);
  return parts;
}

/* Cuts off the first word. */
std::string word(std::string& rest) {
  const size_t space = rest.find(' ');
  const std::string first = rest.substr(0, space);
  rest = space == std::string::npos ? "" : rest.substr(space + 1);
  return first;
}

std::string unescape(const std::string& text) {
  const std::map<char, char> escapes{{'n', '\n'}, {'t', '\t'}, {'0', '\0'}, {'\\', '\\'}};
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) plain += text[i] == '\\' ? escapes.at(text.at(++i)) : text[i];
  return plain;
}

std::vector<int32_t> numbers(const std::string& text) {
  std::vector<int32_t> ids;
  for (const std::string& number : split(text, ' ')) ids.push_back(std::stoi(number));
  return ids;
}

std::vector<std::pair<int32_t, float>> biases(const std::string& text) {
  const Words parts = split(text, ' ');
  std::vector<std::pair<int32_t, float>> pairs;
  for (size_t i = 0; i + 1 < parts.size(); i += 2)
    pairs.emplace_back(std::stoi(parts[i]), std::stof(parts[i + 1]));
  return pairs;
}

/* ------------------------------------------------------------------ JSON */

std::string json(std::string_view text) {
  static const std::map<char, std::string> special{{'"', "\\\""}, {'\\', "\\\\"}, {'\b', "\\b"},
                                                   {'\t', "\\t"}, {'\n', "\\n"},  {'\f', "\\f"},
                                                   {'\r', "\\r"}};
  std::string quoted = "\"";
  for (const char byte : text) {
    char code[8];
    std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(byte));
    if (const auto found = special.find(byte); found != special.end())
      quoted += found->second;
    else if (static_cast<unsigned char>(byte) < 0x20)
      quoted += code;
    else
      quoted += byte;
  }
  return quoted + '"';
}

std::string json(int32_t number) {
  return std::to_string(number);
}

std::string json(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  char text[11];
  std::snprintf(text, sizeof text, "\"%08x\"", bits);
  return text;
}

std::string finish(int32_t reason) {
  return json(std::map<int32_t, std::string>{
      {QWEN_FINISH_STOP, "stop"},
      {QWEN_FINISH_LENGTH, "length"},
      {QWEN_FINISH_CANCELLED, "cancelled"},
      {QWEN_FINISH_ERROR,
       "error"}}.at(reason));
}

/* `count` elements, each as element(index) writes it. */
template <class Element>
std::string list(size_t count, Element element) {
  std::string all;
  for (size_t i = 0; i < count; ++i) all += (i ? "," : "") + element(i);
  return "[" + all + "]";
}
template <class Row>
std::string list(const Row& row) {
  return list(row.size(), [&](size_t i) { return json(row[i]); });
}
template <class Row>
std::string list_or_null(const Row& row) {
  return row.empty() ? "null" : list(row);
}

std::string tool(std::string_view name, std::string_view arguments) {
  return "{\"name\":" + json(name) + ",\"arguments\":" + json(arguments) + "}";
}

std::string event(const qwen::Event& event) {
  const std::string choice = "{\"choice\":" + json(event.choice());
  if (event.type() == QWEN_EVENT_FINISHED)
    return choice + ",\"finish\":" + finish(event.finish_reason()) + "}";
  if (event.type() == QWEN_EVENT_TOOL_CALL)
    return choice + ",\"tool\":" + tool(event.tool_name(), event.tool_arguments()) + "}";
  return choice + ",\"channel\":" + (event.is_reasoning() ? "\"reasoning\"" : "\"answer\"") +
         ",\"text\":" + json(event.text()) + ",\"ids\":" + list(event.token_ids()) +
         ",\"logprobs\":" + list_or_null(event.logprobs()) + "}";
}

std::string top(const qwen::Choice& choice) {
  if (choice.top_count == 0) return "null";
  return list(choice.token_ids.size(), [&](size_t token) {
    return list(choice.top_count, [&](size_t place) {
      const size_t at = token * choice.top_count + place;
      return "[" + json(choice.top_token_ids[at]) + "," + json(choice.top_logprobs[at]) + "]";
    });
  });
}

std::string choice(const qwen::Choice& choice) {
  return "{\"text\":" + json(choice.text) + ",\"reasoning\":" + json(choice.reasoning) +
         ",\"ids\":" + list(choice.token_ids) + ",\"finish\":" + finish(choice.finish_reason) +
         ",\"stop\":" + (choice.stop_text ? json(*choice.stop_text) : "null") +
         ",\"logprobs\":" + list_or_null(choice.logprobs) + ",\"top\":" + top(choice) + ",\"tools\":" +
         list(choice.tool_calls.size(),
              [&](size_t i) { return tool(choice.tool_calls[i].name, choice.tool_calls[i].arguments); }) +
         "}";
}

std::string result(const qwen::Result& result) {
  return ",\"choices\":" + list(result.choices.size(), [&](size_t i) { return choice(result.choices[i]); }) +
         ",\"prompt_logprobs\":" + list_or_null(result.prompt_logprobs) +
         ",\"prompt_tokens\":" + std::to_string(result.stats.prompt_tokens);
}

std::string error(const qwen::Error& error) {
  return ",\"error\":{\"code\":" + json(error.code()) + ",\"message\":" + json(error.what()) + "}";
}

void print(const std::string& name, const std::string& rest) {
  std::cout << "{\"case\":" << json(name) << rest << "}\n";
}

/* ------------------------------------------------------------------ cases */

struct Case {
  std::string name;
  qwen::Prompt prompt;
  qwen::Inputs inputs;
  qwen::Options options;
  std::optional<qwen::Request> request; /* submitted, running */
  std::optional<qwen::Error> failure;   /* the first one; what follows it in the case is not done */

  void add(const std::string& what, std::string rest) {
    if (what == "text") return void(prompt.text(unescape(rest)));
    if (what == "tokens") return void(prompt.tokens(numbers(rest)));
    if (what == "tools") return void(prompt.tools(rest));
    if (what == "input") return void(inputs.text(unescape(rest)));
    if (what == "input_tokens") return void(inputs.tokens(numbers(rest)));
    if (what == "instruction")
      return void(rest.empty() ? inputs.instruction() : inputs.instruction(unescape(rest)));
    const std::string key = word(rest); /* of the others this is the first argument */
    if (what == "message") return void(prompt.message(key, unescape(rest)));
    if (what == "i64") return void(options.set(key, std::stoll(rest)));
    if (what == "f64") return void(options.set(key, std::stod(rest)));
    if (what == "str") return void(options.set(key, unescape(rest)));
    if (what == "ids") return void(options.set(key, numbers(rest)));
    if (what == "bias") return void(options.set(key, biases(rest)));
    if (what != "strs") throw std::invalid_argument("unknown word: " + what);
    Words texts = split(rest, '\t');
    for (std::string& text : texts) text = unescape(text);
    options.set(key, texts);
  }

  std::string answer(qwen::Engine& engine, const std::string& what, const std::string& rest) {
    if (failure) throw *failure;
    if (what == "generate") return result(engine.generate(prompt, options));
    if (what == "stream") return stream(engine, false);
    if (what == "cancel") return stream(engine, true);
    if (what == "encode") return ",\"ids\":" + list(prompt.encode(engine.model(), options));
    if (what == "rerank")
      return ",\"scores\":" + list(engine.rerank(unescape(rest), inputs, options).at(0, "scores").values());
    if (what == "embed") return embed(engine, std::stoll(rest));
    for (const qwen::Event& event : *request) static_cast<void>(event); /* "wait" */
    return result(request->result());
  }

  std::string stream(qwen::Engine& engine, bool cancel) {
    qwen::Request started = engine.stream(prompt, options);
    Words events;
    if (cancel) started.cancel();
    for (const qwen::Event& next : started)
      if (!next.done()) events.push_back(event(next));
    return ",\"events\":" + list(events.size(), [&](size_t i) { return events[i]; }) +
           result(started.result());
  }

  std::string embed(qwen::Engine& engine, int64_t dimensions) {
    const qwen::Tensors tensors = engine.embed(inputs, dimensions, options);
    const qwen::Tensor rows = tensors.at(0, "embeddings");
    return ",\"embeddings\":" +
           list(static_cast<size_t>(rows.shape()[0]), [&](size_t i) { return list(rows.row(i)); });
  }

  /* Does something; what it throws becomes the case's error. */
  void attempt(const std::function<void()>& something) {
    try {
      if (!failure) something();
    } catch (const qwen::Error& error) {
      failure = error;
    }
  }

  void answer_and_print(qwen::Engine& engine, const std::string& what, const std::string& rest = "") {
    std::string line;
    attempt([&] { line = answer(engine, what, rest); });
    print(name, failure ? error(*failure) : line);
  }
};

void run(qwen::Engine& engine) {
  Case now;
  std::vector<Case> submitted;
  for (std::string line; std::getline(std::cin, line);) {
    const std::string what = word(line);
    if (what.empty() || what[0] == '#') continue;
    if (what == "case") {
      now = Case();
      now.name = line;
    } else if (what == "submit") {
      now.attempt([&] { now.request = engine.stream(now.prompt, now.options); });
      submitted.push_back(std::move(now));
    } else if (what == "wait") {
      for (Case& each : submitted) each.answer_and_print(engine, what);
      submitted.clear();
    } else if (what == "generate" || what == "stream" || what == "cancel" || what == "encode" ||
               what == "embed" || what == "rerank") {
      now.answer_and_print(engine, what, line);
    } else {
      now.attempt([&] { now.add(what, line); });
    }
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) throw std::invalid_argument("usage: host MODEL_FOLDER < CASES");
  qwen::Engine engine(argv[1]);
  run(engine);
} catch (const qwen::Error& failure) {
  print("open", error(failure));
  return 1;
} catch (const std::exception& wrong) {
  std::cerr << "host.cpp: " << wrong.what() << "\n";
  return 2;
}
