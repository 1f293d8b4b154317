// qwen.hpp as a host sees it: compiled in every dialect, linked with the installed library.
// argv[1]: the demo model; argv[2]: the same without an end token, so that an answer goes on until it is ended; argv[3]: an
// adapter for it.
#include <poll.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <qwen.hpp>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#if __cplusplus >= 202002L
#include <ranges>
#include <span>
static_assert(std::ranges::input_range<qwen::Request>);
static_assert(std::input_iterator<qwen::Request::Iterator>);
static_assert(std::ranges::common_range<qwen::Request>);
static_assert(std::ranges::contiguous_range<qwen::Span<const float>>);
static_assert(std::is_constructible_v<std::span<const float>, qwen::Span<const float>>);
#endif

namespace {

int failures = 0;

// A macro, so that it can name the line and the expression.
#define CHECK(condition)                                                     \
  do {                                                                       \
    if (!(condition)) {                                                      \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);   \
      ++failures;                                                            \
    }                                                                        \
  } while (0)

template <class Call>
qwen::Error error_of(Call call) {
  try {
    call();
  } catch (const qwen::Error& error) {
    return error;
  }
  return qwen::Error(QWEN_OK, "nothing was thrown");
}

template <class Handle>
constexpr bool kMoveOnly = std::is_nothrow_move_constructible_v<Handle> && std::is_nothrow_move_assignable_v<Handle> &&
                           !std::is_copy_constructible_v<Handle> && !std::is_copy_assignable_v<Handle> &&
                           std::is_nothrow_destructible_v<Handle>;
static_assert(kMoveOnly<qwen::Options> && kMoveOnly<qwen::Tokenizer> && kMoveOnly<qwen::Model>);
static_assert(kMoveOnly<qwen::Prompt> && kMoveOnly<qwen::Request> && kMoveOnly<qwen::Queue>);
static_assert(kMoveOnly<qwen::Tensors> && kMoveOnly<qwen::Inputs> && kMoveOnly<qwen::Engine>);
static_assert(std::is_copy_constructible_v<qwen::Result> && std::is_copy_constructible_v<qwen::Event>);
static_assert(std::is_nothrow_copy_constructible_v<qwen::Error>);

qwen::Prompt sum(int a, int b) {
  return qwen::Prompt::from_messages(
      {{"system", "Be brief."}, {"user", "What is " + std::to_string(a) + " + " + std::to_string(b) + "?"}});
}

qwen::Options greedy(int64_t max_tokens = 200) {
  qwen::Options options;
  options.set("temperature", 0).set("max_tokens", max_tokens);
  return options;
}

// Waits until that many requests have ended; whether nothing is left then.
bool have_ended(const qwen::Engine& engine, int64_t requests) {
  for (int i = 0; i < 3000 && engine.stats().finished < requests; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const qwen::EngineStats stats = engine.stats();
  return stats.finished == requests && stats.running + stats.waiting == 0;
}

void test_errors(const std::string& folder) {
  qwen::check_abi_version();
  const std::string missing = folder + "/no-such-model";
  const qwen::Error error = error_of([&] { qwen::Engine engine(missing); });
  CHECK(error.code() == QWEN_ERR_NOT_FOUND);
  CHECK(std::string(error.status_name()) == "QWEN_ERR_NOT_FOUND");
  CHECK(std::string(error.what()).find(missing) != std::string::npos);
  CHECK(error_of([&] { qwen::Model model(missing); }).code() == QWEN_ERR_NOT_FOUND);
  CHECK(error_of([&] { qwen::Tokenizer tokenizer(missing); }).code() == QWEN_ERR_NOT_FOUND);
}

void test_options(const std::string& folder) {
  qwen::Options options;
  CHECK(options.get() == nullptr);
  const std::string key = "max_tokens";
  options.set(key, 8).set("seed", uint64_t{42}).set("top_p", 0.9f).set("temperature", 1).set("ignore_eos", true);
  CHECK(options.get() != nullptr);

  qwen::Options taken = std::move(options);
  CHECK(options.get() == nullptr);  // NOLINT: the state after a move is what is tested
  options = std::move(taken);
  CHECK(options.get() != nullptr && taken.get() == nullptr);

  CHECK(error_of([&] { options.set("no_such_key", 1); }).code() == QWEN_ERR_INVALID_ARGUMENT);
  CHECK(error_of([&] { options.set("max_tokens", "eight"); }).code() == QWEN_ERR_INVALID_ARGUMENT);
  CHECK(error_of([&] { options.set("top_p", 1.5); }).code() == QWEN_ERR_INVALID_ARGUMENT);

  // Each list in each form: what the library has under that name is of that type, or it would say so.
  const std::vector<int32_t> ids{1, 2};
  options.set("stop_token_ids", ids).set("stop_token_ids", {0}).set("stop_token_ids", {1, 2});
  const std::vector<std::pair<int32_t, float>> biases{{1, -1.0f}};
  options.set("logit_bias", biases).set("logit_bias", {{0, -5.0f}, {7, 1.0f}}).set("logit_bias", {{0, 0.0f}});
  const auto takes_texts = [](const qwen::Error& error) {
    return std::string(error.what()).find("not a list of texts") != std::string::npos;
  };
  CHECK(takes_texts(error_of([&] { options.set("seed", {"a"}); })));
  CHECK(takes_texts(error_of([&] { options.set("seed", {"a", "b"}); })));
  CHECK(takes_texts(error_of([&] { options.set("seed", std::vector<std::string>{"a", "b"}); })));

  qwen::Options engine_options;
  engine_options.set("device", "cpu").set("dtype", std::string("f32")).set("threads", 1);
  CHECK(qwen::Engine(folder, engine_options).stats().threads == 1);
}

void test_progress(const std::string& folder) {
  double last = -1;
  bool rising = true;
  qwen::Options options;
  options.set_progress([&](double fraction) {
    rising = rising && fraction >= last;
    last = fraction;
    return true;
  });
  qwen::Engine engine(folder, options);
  CHECK(rising && last == 1.0);
  options.set_progress([](double) { return false; });
  CHECK(error_of([&] { qwen::Model model(folder, options); }).code() == QWEN_ERR_CANCELLED);
  options.set_progress([](double) -> bool { throw std::runtime_error("of the host"); });
  CHECK(error_of([&] { qwen::Model model(folder, options); }).code() == QWEN_ERR_CANCELLED);
}

void test_tokenizer_and_model(const std::string& folder) {
  const std::string text = "What is 348 + 275? \xc3\xa4\xe6\x97\xa5\xf0\x9f\x99\x82<|im_end|>";
  const qwen::Tokenizer tokenizer(folder);
  const std::vector<int32_t> ids = tokenizer.encode(text);
  CHECK(tokenizer.decode(ids) == text);
  CHECK(tokenizer.decode(ids, QWEN_DECODE_SKIP_SPECIAL) == text.substr(0, text.find('<')));
  CHECK(ids.back() == tokenizer.token_id("<|im_end|>").value());
  CHECK(tokenizer.encode(text, QWEN_ENCODE_PLAIN).size() > ids.size());
  CHECK(!tokenizer.token_id("no such token"));
  CHECK(tokenizer.encode("").empty());
  CHECK(tokenizer.decode({}).empty());
  CHECK(tokenizer.size() > 0);
  CHECK(error_of([&] { tokenizer.encode("\xff"); }).code() == QWEN_ERR_INVALID_ARGUMENT);
  CHECK(error_of([&] { tokenizer.decode(std::vector<int32_t>{1 << 30}); }).code() == QWEN_ERR_INVALID_ARGUMENT);

  // A model's tokenizer, an engine and the description of the model outlive the Model they came from.
  auto model = std::make_unique<qwen::Model>(folder);
  const qwen::ModelInfo info = model->info();
  qwen::Tokenizer of_model = model->tokenizer();
  qwen::Engine engine(*model);
  qwen::Engine second(*model);
  CHECK(engine.model().get() == model->get() && second.model().get() == model->get());
  model.reset();
  CHECK(info.architecture == "Qwen3ForCausalLM" && info.path == folder);
  CHECK(info.vocab_size >= tokenizer.size() && info.has_chat_template && info.context_length > 0);
  CHECK(of_model.encode(text) == ids);
  const qwen::Tokenizer moved = std::move(of_model);
  CHECK(moved.encode(text) == ids);
  CHECK(error_of([&] { of_model.encode(text); }).code() == QWEN_ERR_INVALID_ARGUMENT);  // NOLINT
  CHECK(engine.model().tokenizer().encode(text) == ids);
}

void test_prompts(qwen::Engine& engine) {
  const qwen::Model model = engine.model();
  const qwen::Prompt chat = sum(1, 2);
  const std::string rendered = chat.render(model);
  CHECK(rendered.find("<|im_start|>user\nWhat is 1 + 2?<|im_end|>") != std::string::npos);
  CHECK(chat.encode(model) == model.tokenizer().encode(rendered));
  qwen::Options no_thoughts;
  no_thoughts.set("reasoning_mode", 0);
  CHECK(chat.render(model, no_thoughts).size() > rendered.size());

  const std::string text(5000, 'x');  // longer than what render makes room for at first
  CHECK(qwen::Prompt::from_text(text).render(model) == text);
  const std::vector<int32_t> ids(3000, 5);
  CHECK(qwen::Prompt::from_tokens(ids).encode(model) == ids);
  CHECK(qwen::Prompt().text("1 + ").tokens(ids).encode(model).size() > ids.size());

  qwen::Prompt json;
  json.messages_json(R"([{"role": "user", "content": "What is 1 + 2?"}])");
  json.tools(R"([{"type": "function", "function": {"name": "add", "parameters": {}}}])");
  json.variables(R"({"enable_thinking": false})");
  CHECK(json.render(model).find("\"add\"") != std::string::npos);
  CHECK(json.render(model).find("</think>") != std::string::npos);
  CHECK(error_of([&] { json.tools("{"); }).code() == QWEN_ERR_INVALID_ARGUMENT);
  CHECK(error_of([&] { qwen::Prompt::from_text("a").message("user", "b"); }).code() == QWEN_ERR_INVALID_ARGUMENT);
}

void test_results(qwen::Engine& engine) {
  qwen::Options options = greedy();
  options.set("logprobs", true);
  const qwen::Result result = engine.generate(sum(17, 25), options);
  CHECK(result.choices.size() == 1);
  const qwen::Choice& choice = result.choices.at(0);
  CHECK(choice.finish_reason == QWEN_FINISH_STOP);
  CHECK(!choice.text.empty() && result.text() == choice.text);
  CHECK(!choice.token_ids.empty() && choice.logprobs.size() == choice.token_ids.size());
  CHECK(choice.tool_calls.empty() && !choice.stop_text);
  CHECK(result.stats.generated_tokens == static_cast<int64_t>(choice.token_ids.size()));
  CHECK(result.stats.prompt_tokens == static_cast<int64_t>(sum(17, 25).encode(engine.model()).size()));

  // The callback, the stream and the plain call tell the same.
  std::string text, reasoning;
  std::vector<int32_t> ids;
  const auto collect = [&](const qwen::Event& event) {
    (event.is_reasoning() ? reasoning : text) += event.text();
    ids.insert(ids.end(), event.token_ids().begin(), event.token_ids().end());
    CHECK(event.logprobs().size() == event.token_ids().size());
  };
  CHECK(engine.generate(sum(17, 25), options, collect).text() == result.text());
  CHECK(text == choice.text && reasoning == choice.reasoning && ids == choice.token_ids);

  text.clear(), reasoning.clear(), ids.clear();
  qwen::Request request = engine.stream(sum(17, 25), options);
  std::vector<int32_t> types;
  for (const qwen::Event& event : request) {
    collect(event);
    types.push_back(event.type());
    if (event.type() == QWEN_EVENT_FINISHED) CHECK(event.finish_reason() == QWEN_FINISH_STOP);
  }
  CHECK(text == choice.text && reasoning == choice.reasoning && ids == choice.token_ids);
  CHECK(types.size() > 2 && types.back() == QWEN_EVENT_DONE);
  CHECK(request.done() && request.next() == nullptr && request.begin() == request.end());
  CHECK(request.result().text() == result.text());

  CHECK(!engine.chat("What is 2 + 3?", options).empty());
  CHECK(error_of([&] { engine.generate(qwen::Prompt()); }).code() == QWEN_ERR_INVALID_ARGUMENT);
}

struct Unrelated {
  int number;
};

void test_callbacks(qwen::Engine& engine) {
  int calls = 0;
  int number = 0;
  try {
    engine.generate(sum(1, 1), greedy(), [&](const qwen::Event&) {
      ++calls;
      throw Unrelated{7};
    });
  } catch (const Unrelated& thrown) {
    number = thrown.number;
  }
  CHECK(number == 7 && calls == 1);

  const qwen::Error own(12345, "the host's");
  const qwen::Error seen = error_of([&] { engine.generate(sum(1, 1), {}, [&](const qwen::Event&) { throw own; }); });
  CHECK(seen.code() == 12345);

  const auto stop = [](const qwen::Event&) { return qwen::Flow::stop; };
  const qwen::Result stopped = engine.generate(sum(1, 1), greedy(), stop);
  CHECK(stopped.choices.at(0).finish_reason == QWEN_FINISH_STOP && stopped.stats.generated_tokens > 0);
  const std::function<qwen::Flow(const qwen::Event&)> cancel = [](const qwen::Event&) { return qwen::Flow::cancel; };
  CHECK(error_of([&] { engine.generate(sum(1, 1), greedy(), cancel); }).code() == QWEN_ERR_CANCELLED);
}

void test_leaving_a_stream_early(const std::string& endless) {
  qwen::Engine engine(endless);
  const int64_t context = engine.model().info().context_length;
  int64_t taken = 0;
  for (const qwen::Event& event : engine.stream(sum(1, 2))) {
    taken += static_cast<int64_t>(event.token_ids().size());
    if (taken == 3) break;
  }
  CHECK(have_ended(engine, 1));
  try {
    for (const qwen::Event& event : engine.stream(sum(3, 4))) throw Unrelated{event.choice()};
  } catch (const Unrelated&) {
  }
  CHECK(have_ended(engine, 2));
  CHECK(engine.stats().generated_tokens < context);
  CHECK(engine.stats().cache_blocks_used == 0 && !engine.stats().backend.empty());

  // Cancelled by another thread: the loop says so, and what there was stays.
  qwen::Request request = engine.stream(sum(1, 2));
  CHECK(request.next() != nullptr);
  std::thread other([&] { request.cancel(); });
  const qwen::Error error = error_of([&] {
    for (const qwen::Event& event : request) CHECK(!event.done());
  });
  other.join();
  CHECK(error.code() == QWEN_ERR_CANCELLED && request.done());
  CHECK(request.result().choices.at(0).finish_reason == QWEN_FINISH_CANCELLED);
  CHECK(!request.result().choices.at(0).token_ids.empty());

  // A timeout is no end; a request may be moved between events, and outlives its engine.
  auto short_lived = std::make_unique<qwen::Engine>(endless);
  qwen::Request first = short_lived->stream(sum(1, 2));
  while (first.next(std::chrono::milliseconds(0)) != nullptr) {
  }
  CHECK(!first.done());
  qwen::Request second = std::move(first);
  CHECK(second.next() != nullptr);
  CHECK(error_of([&] { first.next(); }).code() == QWEN_ERR_INVALID_ARGUMENT);  // NOLINT
  short_lived.reset();
  const qwen::Error closed = error_of([&] {
    while (second.next() != nullptr) {
    }
  });
  CHECK(closed.code() == QWEN_ERR_CLOSED && second.done());
}

void test_queue(qwen::Engine& engine) {
  constexpr uint64_t kRequests = 5;
  qwen::Queue queue;
  CHECK(queue.next(std::chrono::milliseconds(0)).empty());
  std::vector<qwen::Request> requests;
  std::vector<std::string> texts(kRequests);
  for (uint64_t tag = 0; tag < kRequests; ++tag)
    requests.push_back(engine.submit(queue, tag, sum(static_cast<int>(tag), 10), greedy()));
  size_t done = 0;
  pollfd wait{queue.fd(), POLLIN, 0};
  while (done < kRequests && poll(&wait, 1, 60'000) == 1) {
    for (const qwen::Event& event : queue.next(std::chrono::milliseconds(0))) {
      if (!event.is_reasoning()) texts.at(event.tag()) += event.text();
      CHECK(event.get().request == requests.at(event.tag()).get());
      if (event.done()) CHECK(event.status() == QWEN_OK && event.message().empty());
      done += event.done();
    }
  }
  CHECK(done == kRequests);
  for (size_t i = 0; i < kRequests; ++i) CHECK(requests[i].result().text() == texts[i]);
  CHECK(error_of([&] { requests[0].next(); }).code() == QWEN_ERR_INVALID_ARGUMENT);

  // The events of a request that has gone are nobody's: next goes on waiting for the live one's.
  {
    const qwen::Request gone = engine.submit(queue, 99, sum(2, 2), greedy());
    CHECK(poll(&wait, 1, 60'000) == 1);
  }
  qwen::Request live = engine.submit(queue, 100, sum(1, 1), greedy());
  for (bool over = false; !over;) {
    const auto events = queue.next();
    CHECK(!events.empty());
    for (const qwen::Event& event : events) {
      CHECK(event.tag() == 100);
      over = event.done();
    }
  }
}

void test_forward(qwen::Engine& engine) {
  const qwen::ModelInfo info = engine.model().info();
  const std::vector<std::vector<int32_t>> sequences{{1, 2, 3, 4}, {5, 6}};
  const auto tensors = engine.forward(sequences, QWEN_OUTPUT_LOGITS | QWEN_OUTPUT_HIDDEN_STATES);
  const qwen::Tensor logits = tensors.at(0);
  CHECK(logits.shape().size() == 2 && logits.shape()[0] == 4 && logits.shape()[1] == info.vocab_size);
  CHECK(logits.values().size() == 4 * static_cast<size_t>(info.vocab_size));
  CHECK(std::all_of(logits.values().begin(), logits.values().end(), [](float x) { return std::isfinite(x); }));
  CHECK(logits.row(3).data() == logits.values().data() + 3 * info.vocab_size);
  const std::string last = "hidden." + std::to_string(info.num_hidden_layers);
  CHECK(tensors.at(1, last).shape()[0] == 2 && tensors.at(1, last).shape()[1] == info.hidden_size);
  CHECK(error_of([&] { tensors.at(2); }).code() == QWEN_ERR_NOT_FOUND);

  const auto last_row = engine.forward(sequences, QWEN_OUTPUT_LOGITS, {}, {3, 0});
  const auto row = last_row.at(0).row(0);
  CHECK(last_row.at(0).shape()[0] == 1 && last_row.at(1).shape()[0] == 2);
  CHECK(std::equal(row.begin(), row.end(), logits.row(3).begin()));
  bool out_of_range = false, invalid = false;
  try {
    logits.row(4);
  } catch (const std::out_of_range&) {
    out_of_range = true;
  }
  try {
    engine.forward(sequences, QWEN_OUTPUT_LOGITS, {}, {3});
  } catch (const std::invalid_argument&) {
    invalid = true;
  }
  CHECK(out_of_range && invalid);

  const auto kept = qwen::Engine(engine.model()).forward(sequences);  // outlives its engine
  CHECK(std::equal(logits.values().begin(), logits.values().end(), kept.at(0).values().begin()));
  CHECK(error_of([&] { engine.forward({}); }).code() == QWEN_ERR_INVALID_ARGUMENT);
  const std::string of_nothing = error_of([&] { engine.forward({{}}); }).what();
  CHECK(of_nothing.find("prompt is empty") != std::string::npos);  // not: "token_ids is NULL"
}

void test_retrieval(qwen::Engine& engine) {
  const std::vector<std::string> texts{"17 + 25", "348 + 275", "Hello <|im_end|>"};
  const qwen::Inputs documents(texts);
  const qwen::Tensors embedded = engine.embed(documents);
  const qwen::Tensor embeddings = embedded.at(0, "embeddings");
  const int64_t hidden_size = engine.model().info().hidden_size;
  CHECK(embeddings.shape().size() == 2 && embeddings.shape()[0] == 3 && embeddings.shape()[1] == hidden_size);
  double length = 0;
  for (const float value : embeddings.row(2)) length += double{value} * value;
  CHECK(std::abs(length - 1) < 1e-6);
  CHECK(error_of([&] { embedded.at(1, "embeddings"); }).code() == QWEN_ERR_NOT_FOUND);
  CHECK(error_of([&] { embedded.at(0, "logits"); }).code() == QWEN_ERR_NOT_FOUND);

  size_t tokens = 0;
  for (size_t i = 0; i < texts.size(); ++i) tokens += documents.encode(engine.model(), i).size();
  CHECK(embedded.stats().prompt_tokens == static_cast<int64_t>(tokens));
  CHECK(engine.forward({{1, 2, 3}, {4}}).stats().prompt_tokens == 4);
  CHECK(qwen::Inputs(texts, QWEN_INPUTS_SPECIAL).encode(engine.model(), 2).size() <
        documents.encode(engine.model(), 2).size());
  qwen::Inputs same;
  same.text(texts[0]).tokens(documents.encode(engine.model(), 1));
  CHECK(engine.embed(same, 32).at(0, "embeddings").shape()[1] == 32);
  CHECK(std::equal(embeddings.row(1).begin(), embeddings.row(1).end(), engine.embed(same).at(0, "embeddings").row(1).begin()));
  CHECK(qwen::Inputs({"a"}).instruction().encode(engine.model(), 0).size() >
        qwen::Inputs({"a"}).instruction("b").encode(engine.model(), 0).size());
  CHECK(error_of([&] { qwen::Inputs({"a", ""}); }).code() == QWEN_ERR_INVALID_ARGUMENT);
  CHECK(error_of([&] { engine.embed(documents, 31); }).code() == QWEN_ERR_INVALID_ARGUMENT);

  double last = 0;
  const qwen::Tensors judged = engine.rerank("42", documents, {}, [&](double fraction) {
    last = fraction;
    return true;
  });
  const qwen::Tensor scores = judged.at(0, "scores");
  CHECK(last == 1.0 && scores.shape().size() == 1 && scores.shape()[0] == 3);
  CHECK(std::all_of(scores.values().begin(), scores.values().end(), [](float p) { return p >= 0 && p <= 1; }));
  CHECK(documents.encode(engine.model(), 0, "42").size() > documents.encode(engine.model(), 0).size());
  CHECK(error_of([&] { engine.rerank("42", documents, {}, [](double) { return false; }); }).code() == QWEN_ERR_CANCELLED);
  const auto throws = [](double) -> bool { throw std::runtime_error("of the host"); };
  CHECK(error_of([&] { engine.embed(documents, 0, {}, throws); }).code() == QWEN_ERR_CANCELLED);
  CHECK(error_of([&] { engine.rerank("", documents); }).code() == QWEN_ERR_INVALID_ARGUMENT);
}

void test_trace_and_drain(const std::string& folder) {
  int64_t rows = 0;
  qwen::Options options;
  options.set_trace([&](const qwen_step& step) { rows += step.prompt_rows + step.generate_rows; });
  qwen::Engine engine(folder, options);
  qwen::Options wanted = greedy();
  wanted.set("prompt_logprobs", true);
  const qwen::Result result = engine.generate(sum(1, 2), wanted);
  CHECK(result.prompt_logprobs.size() == static_cast<size_t>(result.stats.prompt_tokens));
  CHECK(engine.generate(sum(1, 2), greedy()).prompt_logprobs.empty());

  const qwen::Request running = engine.stream(sum(1, 2), greedy());
  while (!engine.drain(std::chrono::milliseconds(1))) {
  }
  CHECK(running.result().choices.at(0).finish_reason == QWEN_FINISH_STOP);
  CHECK(error_of([&] { engine.chat("Hello"); }).code() == QWEN_ERR_CLOSED);
  const qwen::EngineStats stats = engine.stats();
  CHECK(rows > 0 && stats.steps > 0 && stats.running + stats.waiting == 0);
}

void test_adapters(const std::string& folder, const std::string& adapter) {
  qwen::Engine engine(folder);
  engine.load_adapter(adapter, "law");
  CHECK(error_of([&] { engine.load_adapter(adapter, "law"); }).code() == QWEN_ERR_INVALID_ARGUMENT);
  engine.load_adapter(adapter, "code");
  qwen_adapter_info info{};
  info.struct_size = sizeof info;
  CHECK(qwen_engine_adapter_info_get(engine.get(), "code", &info, nullptr) == QWEN_OK);
  CHECK(info.name == std::string("law") && info.path == adapter && info.rank == 4 && info.parameters > 0);
  qwen::Options with = greedy();
  with.set("adapter", "law");
  const qwen::Request running = engine.stream(sum(1, 2), with);
  engine.unload_adapter("law");
  CHECK(error_of([&] { engine.generate(sum(1, 2), with); }).code() == QWEN_ERR_INVALID_ARGUMENT);
  CHECK(error_of([&] { engine.unload_adapter("law"); }).code() == QWEN_ERR_INVALID_ARGUMENT);
  with.set("adapter", "code");
  const std::string changed = engine.generate(sum(1, 2), with).text();
  CHECK(changed != engine.generate(sum(1, 2), greedy()).text());
  engine.drain();
  CHECK(running.result().text() == changed);
}

void test_model_from_memory(const std::string& folder) {
  // What qwen.hpp has no twin for is made with qwen.h and handed over.
  std::ifstream file(folder + "/config.json");
  const std::string config(std::istreambuf_iterator<char>(file), {});
  qwen_weights* weights = nullptr;
  CHECK(qwen_weights_new(config.data(), config.size(), nullptr, nullptr, &weights, nullptr) == QWEN_OK);
  qwen_model* raw = nullptr;
  CHECK(qwen_model_from_weights(weights, qwen::Tokenizer(folder).get(), nullptr, &raw, nullptr) != QWEN_OK);
  qwen_weights_free(weights);
  CHECK(qwen_model_open(folder.c_str(), nullptr, &raw, nullptr) == QWEN_OK);
  const qwen::Model model(raw);
  CHECK(model.get() == raw && model.info().path == folder);
}

void test_ranges(qwen::Engine& engine) {
#if __cplusplus >= 202002L
  const auto has_text = [](const qwen::Event& event) { return !event.is_reasoning() && !event.text().empty(); };
  std::string text;
  for (const qwen::Event& event : engine.stream(sum(3, 4), greedy()) | std::views::filter(has_text)) text += event.text();
  CHECK(text == engine.generate(sum(3, 4), greedy()).text());
  CHECK(std::ranges::distance(engine.stream(sum(3, 4), greedy())) > 2);
#else
  static_cast<void>(engine);
#endif
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::string folder = argv[1], endless = argv[2], adapter = argv[3];
  try {
    test_errors(folder);
    test_options(folder);
    test_progress(folder);
    test_tokenizer_and_model(folder);
    qwen::Engine opened(folder);
    qwen::Engine engine = std::move(opened);
    CHECK(error_of([&] { opened.stats(); }).code() == QWEN_ERR_INVALID_ARGUMENT);  // NOLINT
    test_prompts(engine);
    test_results(engine);
    test_callbacks(engine);
    test_leaving_a_stream_early(endless);
    test_queue(engine);
    test_forward(engine);
    test_retrieval(engine);
    test_trace_and_drain(folder);
    test_adapters(folder, adapter);
    test_model_from_memory(folder);
    test_ranges(engine);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "uncaught: %s\n", error.what());
    return 1;
  }
  return failures == 0 ? 0 : 1;
}
