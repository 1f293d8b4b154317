// A conversation in the terminal: the answer is printed as it comes, thoughts apart from it in brackets.
// /reset forgets what was said, the end of input (Ctrl-D) leaves.
//
//     c++ -std=c++17 chat.cpp $(pkg-config --cflags --libs qwen) -o chat
//     ./chat path/to/Qwen3-0.6B
#include <iostream>
#include <qwen.hpp>
#include <string>
#include <vector>

// Prints the answer to the last message of the history and returns it.
std::string answer(qwen::Engine& engine, const std::vector<qwen::Message>& history) {
  std::string text;
  bool thinking = false;
  for (const qwen::Event& event : engine.stream(qwen::Prompt::from_messages(history))) {
    if (event.text().empty()) continue;
    if (event.is_reasoning() != thinking) std::cout << (thinking ? ")\n" : "(");
    thinking = event.is_reasoning();
    if (!thinking) text += event.text();
    std::cout << event.text() << std::flush;
  }
  std::cout << (thinking ? ")\n" : "\n");
  return text;
}

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: " << argv[0] << " MODEL_FOLDER\n";
    return 2;
  }
  try {
    qwen::Engine engine(argv[1]);
    std::vector<qwen::Message> history;
    std::string line;
    while (std::cout << "> " << std::flush && std::getline(std::cin, line)) {
      if (line == "/reset") {
        history.clear();
      } else if (!line.empty()) {
        history.push_back({"user", line});
        // Thoughts do not go back into the prompt: the models were not trained that way.
        history.push_back({"assistant", answer(engine, history)});
      }
    }
    std::cout << "\n";
  } catch (const qwen::Error& error) {
    std::cerr << error.status_name() << ": " << error.what() << "\n";
    return 1;
  }
}
