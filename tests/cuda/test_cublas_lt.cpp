// Option 'strict' = 0: products of many rows by cuBLASLt, or by its stand-in (fake_cublas_lt.c), which looks at all that it is given.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/cuda/cublas_lt.h"
#include "base/error.h"
#include "base/log.h"
#include "cublas_lt_fixture.h"
#include "engine_fixtures.h"
#include "reference_fixture.h"

using namespace qwen;
using namespace qwen::test;
using cuda::CublasLt;

namespace {

// One backend, with the same weights and rows as another one with the same random numbers.
struct Machine {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Workspace> workspace = backend->create_workspace();
  std::vector<WeightPtr> weights = {};
  std::vector<Floats> values = {};  // of what the weights were made of

  const Weight* load(Floats floats, std::vector<int64_t> shape) {
    const WeightUse use = shape.size() == 1 ? WeightUse::vector : WeightUse::matrix;
    values.push_back(std::move(floats));
    weights.push_back(backend->load(tensor(values.back(), std::move(shape)), use));
    return weights.back().get();
  }
  Rows room(int64_t rows, int64_t width, Form form = Form::plain) {
    return workspace->rows(rows, width, form);
  }
  Rows rows(const Floats& floats, int64_t width) {
    const auto count = static_cast<int64_t>(floats.size()) / width;
    std::vector<int32_t> ids(static_cast<size_t>(count));
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
    const Rows out = room(count, width);
    backend->embed(*load(floats, {count, width}), ids, out);
    read(out);  // the weights may go
    return out;
  }
  // The same rounded by whoever writes them for products: sigmoid(0) = 1/2.
  Rows operand(const Floats& floats, int64_t width) {
    Floats twice = floats;
    for (float& value : twice) value *= 2;
    const Rows x = rows(twice, width), zeros = rows(Floats(floats.size()), width),
               out = room(x.rows, width, Form::operand);
    backend->sigmoid_mul(zeros, x, out);
    return out;
  }
  Floats read(Rows x) {
    Floats copy;
    const std::span<const float> found = backend->host(x, copy);
    return {found.begin(), found.end()};
  }
};

Machine machine(bool strict) {
  return {create_cuda_backend({.precision = Precision::bf16, .check = false, .strict = strict})};
}

// What `act` leaves, by libqwen's own kernels and by the library.
struct Both {
  Floats own, by_library;
  int64_t products;  // of the library's
  bool close() const { return distance(by_library, own, 1) < 1e-5; }
};
Both both(const std::function<Rows(Machine&, Random&)>& act) {
  const auto run = [&](Machine of, int64_t& products) {
    Random random(7);
    const Floats found = of.read(act(of, random));
    products = by_library(*of.backend);
    return found;
  };
  int64_t none = 0, some = 0;
  Both found;
  found.own = run(machine(true), none);
  found.by_library = run(machine(false), some);
  CHECK(none == -1);
  found.products = some;
  return found;
}

}  // namespace

TEST_CASE("where it is not strict products of many rows are cuBLASLt's, in every shape") {
  if (!has_cublas_lt()) return;
  Random shapes(3);
  for (int round = 0; round < 24; ++round) {
    // Numbers of rows that share an algorithm, and that do not; a matrix that suits vectors, outputs that do not.
    const int64_t rows = std::array<int64_t, 6>{64, 65, 79, 100, 131, 300}[static_cast<size_t>(round % 6)],
                  k = 8 * shapes.integer(1, 20), outputs = shapes.integer(1, 70);
    const bool bias = round % 3 == 1, accumulate = round % 4 == 2, operand = round % 2 == 1;
    CAPTURE(round);
    const Both found = both([&](Machine& m, Random& random) {
      const Weight* const weight = m.load(random.floats(outputs * k), {outputs, k});
      const Weight* const vector = m.load(random.floats(outputs), {outputs});
      const Floats x = random.floats(rows * k);
      const Rows out = m.rows(random.floats(rows * outputs), outputs);
      m.backend->linear(
          operand ? m.operand(x, k) : m.rows(x, k),
          std::array{Projection{
              .weight = weight, .bias = bias ? vector : nullptr, .out = out, .accumulate = accumulate}});
      return out;
    });
    CHECK(found.products == 1);
    CHECK(found.close());
#ifndef QWEN_TEST_ON_GPU  // whose sums may come out alike
    if (k > 64 && outputs > 8) CHECK(!same_bits(found.own, found.by_library));
#endif
  }
}

TEST_CASE("few rows, exact products, those of float32 and odd widths are never cuBLASLt's") {
  if (!has_cublas_lt()) return;
  const auto product = [](int64_t rows, int64_t k, bool exact) {
    return both([&](Machine& m, Random& random) {
      const Weight* const weight = m.load(random.floats(24 * k), {24, k});
      const Rows x = m.rows(random.floats(rows * k), k), out = m.room(rows, 24);
      m.backend->linear(x, std::array{Projection{.weight = weight, .out = out, .exact = exact}});
      return out;
    });
  };
  for (const auto& [rows, k, exact] : {std::tuple{CublasLt::kLeastRows - 1, int64_t{64}, false},
                                       {int64_t{1}, int64_t{64}, false},
                                       {int64_t{100}, int64_t{64}, true},
                                       {int64_t{100}, int64_t{67}, false}}) {
    CAPTURE(rows);
    CAPTURE(k);
    const Both found = product(rows, k, exact);
    CHECK(found.products == 0);
    CHECK(same_bits(found.own, found.by_library));
  }
  // Of several with one input each goes its own way.
  const Both mixed = both([](Machine& m, Random& random) {
    const Weight* const weight = m.load(random.floats(24 * 32), {24, 32});
    const Rows x = m.rows(random.floats(70 * 32), 32), first = m.room(70, 24), second = m.room(70, 24),
               exact = m.room(70, 24), all = m.room(70, 72);
    m.backend->linear(x, std::array{Projection{.weight = weight, .out = first},
                                    Projection{.weight = weight, .out = exact, .exact = true},
                                    Projection{.weight = weight, .out = second}});
    for (int64_t i = 0; const Rows part : {first, exact, second})
      m.backend->split(part, 1, std::array{SplitPart{.width = 24, .out = all, .column = 24 * i++}});
    return all;
  });
  CHECK(mixed.products == 2);
  CHECK(mixed.close());
  // In float32 there is none.
  CHECK(by_library(*create_cuda_backend({.precision = Precision::f32, .check = false, .strict = false})) ==
        -1);
}

TEST_CASE("gated_linear by cuBLASLt, as one piece and as several, plain and as an operand") {
  if (!has_cublas_lt()) return;
  const auto gated = [](int64_t rows, int64_t k, int64_t width, bool operand) {
    return both([&](Machine& m, Random& random) {
      const Weight* const gate = m.load(random.floats(width * k), {width, k});
      const Weight* const up = m.load(random.floats(width * k), {width, k});
      const Weight* const down = m.load(random.floats(8 * width), {8, width});
      const Rows x = m.rows(random.floats(rows * k), k);
      const Rows out = m.room(rows, width, operand ? Form::operand : Form::plain);
      m.backend->gated_linear(x, *gate, *up, m.room(rows, width), out);
      if (!operand) return out;
      const Rows read = m.room(rows, 8);
      m.backend->linear(out, std::array{Projection{.weight = down, .out = read, .exact = false}});
      return read;
    });
  };
  const Both plain = gated(90, 64, 40, false);
  CHECK(plain.products == 2);
  CHECK(plain.close());
  const Both operand = gated(90, 64, 40, true);
  CHECK(operand.products == 3);
  CHECK(distance(operand.by_library, operand.own, 1) <
        0.02);  // what stands between two values is rounded to either
  // More than there is room for at once; seen where the pieces meet.
  const int64_t width = 57 << 10, rows = 150;
  REQUIRE(static_cast<int64_t>(CublasLt::kRoomBytes) < rows * width * 8);
  Random random(9);
  const Floats x = random.floats(rows * 8), gates = random.floats(width * 8), ups = random.floats(width * 8);
  const auto some = [&](bool strict, const std::vector<int64_t>& which) {
    Machine m = machine(strict);
    Floats given;
    for (const int64_t row : which) given.insert(given.end(), x.begin() + row * 8, x.begin() + (row + 1) * 8);
    const Rows out = m.room(static_cast<int64_t>(which.size()), width);
    m.backend->gated_linear(m.rows(given, 8), *m.load(gates, {width, 8}), *m.load(ups, {width, 8}),
                            m.room(out.rows, width), out);
    CHECK(by_library(*m.backend) == (strict ? -1 : 4));
    return m.read(out);
  };
  std::vector<int64_t> all(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) all[static_cast<size_t>(i)] = i;
  const std::vector<int64_t> looked_at = {0, rows / 2 - 1, rows / 2, rows - 1};
  const Floats found = some(false, all), expected = some(true, looked_at);
  for (size_t i = 0; i < looked_at.size(); ++i) {
    const auto row = [&](const Floats& of, int64_t at) {
      return Floats(of.begin() + at * width, of.begin() + (at + 1) * width);
    };
    CHECK(distance(row(found, looked_at[i]), row(expected, static_cast<int64_t>(i)), 1) < 1e-5);
  }
}

TEST_CASE("engines that are not strict meet the tolerances, and are strict where they are told to be") {
  if (!has_cublas_lt()) return;
#ifdef __SANITIZE_ADDRESS__
  constexpr const char* kNames[] = {"qwen3_5"};
#else
  constexpr const char* kNames[] = {"qwen2_sliding", "qwen2_moe", "qwen3_yarn", "qwen3_5", "qwen3_next"};
#endif
  for (const char* name : kNames) {
    CAPTURE(name);
    const auto folder = kCommitted / name;
    Options loose = options("bf16");
    loose.set("strict", int64_t{0});
    check_bf16(folder, loose);

    const auto loaded = open_model(folder, loose);
    const auto text = Expected(folder / "expected.safetensors").values<int32_t>("long_input_ids");
    Engine by_lt(loaded, loose), own(loaded, options("bf16"));
    const Floats theirs = logits(by_lt, text), ours = logits(own, text);
    CHECK(by_library(by_lt) > 0);
    CHECK(by_library(own) == -1);
#ifndef QWEN_TEST_ON_GPU
    CHECK(!same_bits(theirs, ours));
#endif
    // A prompt of few rows has the bits that it has where it is strict.
    const std::vector<int32_t> few(text.begin(), text.begin() + 20);
    CHECK(same_bits(logits(by_lt, few), logits(own, few)));
  }
}

TEST_CASE("steps with cuBLASLt are not captured; those of fewer rows are, as ever") {
  if (!has_cublas_lt()) return;
  Options loose = options("bf16");
  loose.set("strict", int64_t{0});
  loose.set("max_running", int64_t{70});
  const auto loaded = open_model(kCommitted / "qwen3_yarn", loose);
  const auto replayed = [](const Engine& engine) {
    for (const KernelCount& count : engine.kernel_counts())
      if (count.name == "step.replayed") return count.calls;
    return int64_t{-1};
  };
  Engine engine(loaded, loose);
  const auto generate = [&](int32_t sequences) {  // together from the second step on
    RequestInput input;
    input.prompt = {1};
    input.params.n = sequences;
    input.params.max_tokens = 6;
    input.params.ignore_eos = true;
    answer(engine, {input});
  };
  generate(20);
  const int64_t before = replayed(engine);
  CHECK(before > 0);
  CHECK(by_library(engine) == 0);
  generate(70);
  CHECK(by_library(engine) > 0);
  CHECK(replayed(engine) == before);
}

#ifndef QWEN_TEST_ON_GPU

namespace {

constexpr int kNotInitialized = 1, kAllocFailed = 3, kInvalidValue = 7, kExecutionFailed = 13,
              kNotSupported = 15;

// The same 90 rows, or the first of them, times the same matrix.
struct Products {
  Machine m;
  Random random{5};
  const Weight* weight = m.load(random.floats(24 * 32), {24, 32});
  Rows x = m.rows(random.floats(90 * 32), 32);

  Floats product(int64_t rows) {
    const Rows out = m.room(rows, 24);
    m.backend->linear({x.data, rows, 32}, std::array{Projection{.weight = weight, .out = out}});
    return m.read(out);
  }
};

struct Log {
  Log() { set_log_sink(&Log::take, this, LogLevel::debug); }
  ~Log() { set_log_sink(nullptr, nullptr, LogLevel::error); }
  static void take(int32_t level, const char* message, size_t length, void* user) {
    static_cast<Log*>(user)->lines.push_back(cat(level, " ", std::string_view(message, length)));
  }
  std::vector<std::string> lines;
};

}  // namespace

TEST_CASE("what cuBLASLt refuses libqwen multiplies, and does not ask again") {
  REQUIRE(has_cublas_lt());
  FakeCublasLt& fake = fake_cublas_lt();
  Products strict{machine(true)};
  const Floats all = strict.product(90), some = strict.product(70);
  struct Refusal {
    const char* name;
    int status;
    const char* said;
  };
  constexpr const char *kNothing =
                           "4 cuBLASLt has nothing for 80 rows and a matrix of 24 x 32 (CUBLAS_STATUS_",
                       *kProduct = "2 cuBLASLt's product of 70 rows with a matrix of 24 x 32: CUBLAS_STATUS_";
  for (const Refusal& refusal : {
           Refusal{"found", -1, kNothing},
           {"found", kNotSupported, kNothing},
           {"MatmulAlgoGetHeuristic", kNotSupported, kNothing},
           {"MatmulDescCreate", kAllocFailed, kNothing},
           {"MatmulDescSetAttribute", kInvalidValue, kNothing},
           {"MatrixLayoutCreate", kAllocFailed, kNothing},
           {"MatmulPreferenceCreate", kAllocFailed, kNothing},
           {"MatmulPreferenceSetAttribute", kInvalidValue, kNothing},
           {"MatrixLayoutSetAttribute", kInvalidValue, kProduct},
           {"Matmul", kNotSupported, kProduct},
           {"Matmul", kAllocFailed, kProduct},
           {"Create", kNotInitialized, "2 cuBLASLt cannot begin on GPU 0 (CUBLAS_STATUS_NOT_INITIALIZED)"},
       }) {
    CAPTURE(refusal.name);
    CAPTURE(refusal.status);
    const FakeLtCounts before = fake.counts();
    {
      const Log log;
      Products products{machine(false)};
      fake.fail(refusal.name, refusal.status);
      for (int again = 0; again < 2; ++again) CHECK(same_bits(products.product(70), some));
      CHECK(same_bits(products.product(68), Floats(all.begin(), all.begin() + 68 * 24)));  // its algorithm
      CHECK(fake.products() == before.products);
      CHECK(by_library(*products.m.backend) == 0);
      REQUIRE(log.lines.size() == 1);
      CHECK(log.lines[0].starts_with(refusal.said));
      CHECK(log.lines[0].find("; libqwen's own kernels multiply") != std::string::npos);
      // Where it was one algorithm that could not be had, another one can.
      CHECK(distance(products.product(90), all, 1) < 1e-5);
      CHECK(by_library(*products.m.backend) == (std::string_view(refusal.name) == "Create" ? 0 : 1));
    }
    const FakeLtCounts after = fake.counts();
    CHECK(after.handles == before.handles);
    CHECK(after.layouts == before.layouts);
    CHECK(after.operations == before.operations);
    CHECK(after.preferences == before.preferences);
  }
}

TEST_CASE("a product of cuBLASLt's that was begun and failed is an error, once") {
  REQUIRE(has_cublas_lt());
  Products products{machine(false)};
  fake_cublas_lt().fail("Matmul", kExecutionFailed);
  CHECK_THROWS_WITH_AS(
      products.product(70),
      "cuBLASLt's product of 70 rows with a matrix of 24 x 32: CUBLAS_STATUS_EXECUTION_FAILED; "
      "option 'strict' = 1 does without it",
      Error);
  Products strict{machine(true)};
  CHECK(same_bits(products.product(70), strict.product(70)));
  // In an engine it is that of the requests of the step, and the engine goes on.
  Options loose = options("bf16");
  loose.set("strict", int64_t{0});
  const auto loaded = open_model(kCommitted / "qwen3_yarn", loose);
  Engine engine(loaded, loose);
  const auto text =
      Expected(kCommitted / "qwen3_yarn" / "expected.safetensors").values<int32_t>("long_input_ids");
  fake_cublas_lt().fail("Matmul", kExecutionFailed);
  RequestInput input = wanting_logits(text);
  const auto queue = std::make_shared<EventQueue>();
  input.queue = queue;
  const auto request = engine.make_request(std::move(input));
  engine.submit(request);
  for (bool done = false; !done;)
    for (const Event& event : queue->pop_all(-1)) done = done || event.type == EventType::done;
  CHECK(request->outcome().status == Status::internal);
  CHECK(request->outcome().message.find("CUBLAS_STATUS_EXECUTION_FAILED") != std::string::npos);
  CHECK(logits(engine, text).size() > 0);
}

TEST_CASE(
    "an algorithm is asked for once for all numbers of rows that share it, and nothing of an engine's "
    "stays") {
  REQUIRE(has_cublas_lt());
  FakeCublasLt& fake = fake_cublas_lt();
  const FakeLtCounts before = fake.counts();
  {
    Products a{machine(false)}, b{machine(false)};
    for (const int64_t rows : {70, 80, 66, 70, 64, 90, 85}) a.product(rows);
    CHECK(fake.counts().heuristics - before.heuristics == 3);  // up to 64, 80, 96
    CHECK(fake.counts().handles - before.handles == 1);
    b.product(70);
    CHECK(fake.counts().heuristics - before.heuristics == 4);
    CHECK(fake.counts().handles - before.handles == 2);
    CHECK(fake.products() - before.products == 8);
  }
  const FakeLtCounts after = fake.counts();
  CHECK(after.handles == before.handles);
  CHECK(after.layouts == before.layouts);
  CHECK(after.operations == before.operations);
  CHECK(after.preferences == before.preferences);
}

TEST_CASE(
    "cuBLASLt's memory is the engine's: a cache leaves it free, it is taken once, and it may not be there") {
  REQUIRE(has_cublas_lt());
  const size_t before = host_cuda::allocated_bytes();
  {
    Products strict{machine(true)}, loose{machine(false)};
    CHECK(strict.m.backend->cache_room(0).bytes - loose.m.backend->cache_room(0).bytes ==
          static_cast<int64_t>(CublasLt::kBytes));
    loose.product(63);
    CHECK(host_cuda::allocated_bytes() - before < CublasLt::kBytes);
    loose.product(70);
    loose.product(90);
    const size_t now = host_cuda::allocated_bytes() - before;
    CHECK(now > CublasLt::kBytes);
    CHECK(now < 2 * CublasLt::kBytes);
  }
  CHECK(host_cuda::allocated_bytes() == before);

  Products strict{machine(true)};
  const Floats expected = strict.product(90);
  const host_cuda::Machine whole = host_cuda::machine();
  host_cuda::machine().bytes = host_cuda::allocated_bytes() + CublasLt::kBytes / 2;
  const Log log;
  Products loose{machine(false)};
  for (int again = 0; again < 2; ++again) CHECK(same_bits(loose.product(90), expected));
  host_cuda::machine() = whole;
  CHECK(by_library(*loose.m.backend) == 0);
  REQUIRE(log.lines.size() == 1);
  CHECK(log.lines[0].starts_with(
      cat("2 cannot allocate ", CublasLt::kBytes, " bytes for cuBLASLt on GPU 0; ")));
}

#endif
