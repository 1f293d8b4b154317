// The same for qwen.hpp: compiled with structs that have grown since this library was built (tests/abi/client.c).
#include <cstdio>
#include <qwen.hpp>

int main(int, char** argv) try {
  qwen::check_abi_version();
  qwen::Engine engine(argv[1]);
  const auto prompt = qwen::Prompt::from_messages({{"user", "What is 1 + 1?"}});
  const auto options = std::move(qwen::Options().set("temperature", 0));
  int64_t unknown = 0;
  std::string called, streamed;
  engine.generate(prompt, options, [&](const qwen::Event& event) {
    unknown |= event.get().of_the_future;
    called += event.text();
  });
  for (const qwen::Event& event : engine.stream(prompt, options)) {
    unknown |= event.get().of_the_future;
    streamed += event.text();
  }
  qwen::Queue queue;
  const auto request = engine.submit(queue, 7, prompt, options);
  std::string queued;
  for (bool done = false; !done;)
    for (const qwen::Event& event : queue.next()) {
      unknown |= event.get().of_the_future;
      queued += event.text();
      done |= event.done();
    }
  const auto result = request.result();
  return unknown || called.empty() || called != streamed || called != queued || result.stats.of_the_future;
} catch (const qwen::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
