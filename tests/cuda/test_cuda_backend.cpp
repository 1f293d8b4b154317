// CudaBackend on the executor, op by op beside the portable CPU backend in float32; and what it does with weights, memory and errors.
#include <doctest/doctest.h>

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/dialect.h"
#include "backend/cuda/self_check.h"
#include "base/error.h"
#include "host_device.h"
#include "host_executor.h"
#include "kernel_fixtures.h"

using namespace qwen;
using namespace qwen::test;

namespace {

// Rows in a backend's memory, from the host and back.
struct Machine {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Workspace> workspace = backend->create_workspace();

  // Any backend can look rows up in a table: so they come to where it has its memory.
  Rows rows(const Floats& values, int64_t width) {
    const auto count = static_cast<int64_t>(values.size()) / width;
    const WeightPtr table = backend->load(tensor(values, {count, width}), WeightUse::matrix);
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < count; ++i) ids.push_back(i);
    const Rows out = workspace->rows(count, width);
    backend->embed(*table, ids, out);
    Floats copy;
    backend->host(out, copy);  // the table may go
    return out;
  }
  Rows room(int64_t count, int64_t width) { return workspace->rows(count, width); }
  Floats read(Rows x) {
    Floats copy;
    const std::span<const float> values = backend->host(x, copy);
    return {values.begin(), values.end()};
  }
};

Machine gpu(Precision precision = Precision::f32) {
  return {create_cuda_backend({.precision = precision, .device = 0})};
}

// What an op leaves in its last rows, on both machines, from the same random rows of these widths.
using Op = std::function<Rows(Machine&, std::span<const Rows>)>;
double difference(int64_t count, std::vector<int64_t> widths, const Op& op) {
  Random random(11);
  std::vector<Floats> values;
  for (const int64_t width : widths) values.push_back(random.floats(count * width, -3, 3));
  const auto run = [&](Machine machine) {
    std::vector<Rows> rows;
    for (size_t i = 0; i < widths.size(); ++i) rows.push_back(machine.rows(values[i], widths[i]));
    return machine.read(op(machine, rows));
  };
  return distance(run(gpu()), run({backend("portable", Precision::f32)}), 1);
}

std::string message(const std::function<void()>& act, Status status) {
  try {
    act();
  } catch (const Error& error) {
    CHECK(error.status() == status);
    return error.message();
  }
  return "no error";
}

}  // namespace

TEST_CASE("element-wise operations on a GPU are those of the CPU") {
  using Given = std::span<const Rows>;
  for (const int64_t n : {1, 3, 7}) {
    CAPTURE(n);
    CHECK(difference(n, {96, 96}, [&](Machine& m, Given x) {
            const Rows out = m.room(n, 96);
            m.backend->silu_mul(x[0], x[1], out);
            return out;
          }) < 1e-6);
    CHECK(difference(n, {97, 97}, [](Machine& m, Given x) {  // in place
            m.backend->sigmoid_mul(x[0], x[1], x[1]);
            return x[1];
          }) < 1e-6);
    CHECK(difference(n, {33}, [&](Machine& m, Given x) {
            m.backend->silu(x[0], 0.3f, x[0]);
            return x[0];
          }) < 1e-6);
    CHECK(difference(n, {40, 40}, [](Machine& m, Given x) {
            m.backend->add(x[0], nullptr, x[1]);
            return x[1];
          }) == 0);
    CHECK(difference(n, {40, 1, 40}, [](Machine& m, Given x) {
            m.backend->add(x[0], &x[1], x[2]);
            return x[2];
          }) < 1e-6);
    for (const bool first : {true, false})
      CHECK(difference(n, {3 * (5 + 8)}, [&](Machine& m, Given x) {
              const Rows a = m.room(n, 15), b = m.room(n, 30);
              const Floats zeros(static_cast<size_t>(n * 6));
              // 6 columns of b are nobody's: they are there already.
              m.backend->split(m.rows(zeros, 6), 1, std::array{SplitPart{.width = 6, .out = b}});
              m.backend->split(
                  x[0], 3,
                  std::array{SplitPart{.width = 5, .out = a}, SplitPart{.width = 8, .out = b, .column = 6}});
              return first ? a : b;
            }) == 0);
    CHECK(difference(n, {24}, [&](Machine& m, Given x) {
            const Rows out = m.room(2, 24);
            m.backend->gather(x[0], std::array{static_cast<int32_t>(n - 1), int32_t{0}}, out);
            return out;
          }) == 0);
    CHECK(difference(n, {24, 24}, [&](Machine& m, Given x) {
            const Rows one{x[0].data, 1, 24};
            m.backend->scatter_add(one, std::array{static_cast<int32_t>(n - 1)}, 0.7f, x[1]);
            return x[1];
          }) < 1e-6);
    CHECK(difference(n, {4 * 18}, [&](Machine& m, Given x) {
            const Rows out = m.room(n, 18);
            m.backend->mean_of_streams(x[0], out);
            return out;
          }) < 1e-6);
    CHECK(difference(n, {18, 4, 4 * 18}, [](Machine& m, Given x) {
            m.backend->add_to_streams(x[0], x[1], x[2]);
            return x[2];
          }) < 1e-6);
    CHECK(difference(n, {3 * 50, 3 * 50, 50}, [&](Machine& m, Given x) {
            const Rows out = m.room(n, 150);
            m.backend->gate_streams(x[0], x[1], x[2], out);
            return out;
          }) < 1e-6);
  }
}

TEST_CASE("rotations on a GPU are those of the CPU, at far positions too") {
  RopeTable table{.inverse_frequencies = {}, .axis = {}, .scale = 1.25f};
  for (int i = 0; i < 12; ++i) {
    table.inverse_frequencies.push_back(static_cast<float>(std::pow(10000.0, -i / 12.0)));
    table.axis.push_back(static_cast<uint8_t>(i % 3));
  }
  const std::vector<std::array<int32_t, 3>> positions = {
      {0, 0, 0}, {1, 2, 3}, {40000, 39999, 7}, {262143, 1, 131072}};
  for (const bool rotate : {false, true}) {
    CAPTURE(rotate);
    CHECK(difference(4, {3 * 32}, [&](Machine& m, std::span<const Rows> x) {
            const Rows angles = m.room(4, 24);
            m.backend->rope_angles(table, positions, angles);
            if (!rotate) return angles;
            m.backend->rope(x[0], 32, angles);
            return x[0];
          }) < 1e-6);
  }
}

TEST_CASE("an operand on a GPU has the bits of plain rows, whoever writes it") {
  Random random(21);
  Machine m = gpu(Precision::bf16);
  const int64_t n = 5, width = 72, outputs = 24;
  const Floats w = random.floats(outputs * width), g = random.floats(width * 40),
               u = random.floats(width * 40);
  const auto load = [&](const Floats& values, int64_t out, int64_t in) {
    return m.backend->load(tensor(values, {out, in}), WeightUse::matrix);
  };
  const WeightPtr reader = load(w, outputs, width), gate = load(g, width, 40), up = load(u, width, 40);
  const WeightPtr norm = m.backend->load(tensor(w, {static_cast<int64_t>(w.size())}), WeightUse::vector);
  REQUIRE(m.backend->input_form(width, std::array{static_cast<const Weight*>(reader.get())}) ==
          Form::operand);
  const Rows a = m.rows(random.floats(n * width, -4, 4), width),
             b = m.rows(random.floats(n * width, -4, 4), width);
  m.backend->silu(a, 1.1f, a);  // what is no bfloat16
  const Rows x = m.rows(random.floats(n * 40), 40), spare = m.room(n, width);
  const auto product = [&](Rows from) {
    const Rows out = m.room(n, outputs);
    m.backend->linear(from, std::array{Projection{.weight = reader.get(), .out = out}});
    return m.read(out);
  };
  const std::vector<std::function<void(Rows)>> writers = {
      [&](Rows to) { m.backend->rms_norm(a, *norm, 1e-6f, to); },
      [&](Rows to) { m.backend->silu_mul(a, b, to); },
      [&](Rows to) { m.backend->sigmoid_mul(a, b, to); },
      [&](Rows to) { m.backend->gated_linear(x, *gate, *up, to.form == Form::plain ? spare : Rows{}, to); },
  };
  for (size_t i = 0; i < writers.size(); ++i) {
    CAPTURE(i);
    const Rows plain = m.room(n, width), operand = m.workspace->rows(n, width, Form::operand);
    writers[i](plain);
    writers[i](operand);
    CHECK(same_bits(product(operand), product(plain)));
  }
  // Where a choice hangs on the result, nothing is rounded; beside others in one call too.
  const Rows exact = m.room(n, outputs), rounded = m.room(n, outputs);
  m.backend->linear(a, std::array{Projection{.weight = reader.get(), .out = rounded},
                                  Projection{.weight = reader.get(), .out = exact, .exact = true}});
  CHECK(same_bits(m.read(rounded), product(a)));
  Machine cpu{backend("portable", Precision::bf16)};
  const Rows expected = cpu.room(n, outputs);
  const WeightPtr same = cpu.backend->load(tensor(w, {outputs, width}), WeightUse::matrix);
  cpu.backend->linear({m.read(a).data(), n, width},
                      std::array{Projection{.weight = same.get(), .out = expected}});
  CHECK(distance(m.read(exact), cpu.read(expected), 1) < 1e-5);
  CHECK(distance(m.read(rounded), cpu.read(expected), 1) > 1e-4);
}

TEST_CASE("weights on a GPU are those of the file, from any offset, type and layout") {
  Random random(31);
  const int64_t rows = 37, width = 19;
  for (const Precision precision : {Precision::f32, Precision::bf16})
    for (const cpu::Format format : {cpu::Format::f32, cpu::Format::f16, cpu::Format::bf16}) {
      const FileBytes file = random_elements(random, format, rows * width);
      const DType dtype = format == cpu::Format::f32   ? DType::f32
                          : format == cpu::Format::f16 ? DType::f16
                                                       : DType::bf16;
      CAPTURE(dtype_name(dtype));
      const auto columns = [&](Backend& of,
                               WeightUse use) {  // 5 columns of the matrix, transposed or as a matrix
        TensorView view = tensor(file.data(), dtype, {rows, width});
        return of.load(
            use == WeightUse::matrix
                ? view
                : stack_columns({"stack", dtype, {1, rows, width}, view.data, view.bytes, "memory"}, 0, 4, 5),
            use);
      };
      const auto values = [&](Machine m, WeightUse use) {
        const bool turned = use == WeightUse::transposed_matrix;
        const WeightPtr weight = columns(*m.backend, use);
        const int64_t count = turned ? 5 : rows, each = turned ? rows : width;
        std::vector<int32_t> ids;
        for (int32_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(count) - 1 - i);
        const Rows out = m.room(count, each);
        m.backend->embed(*weight, ids, out);
        return m.read(out);
      };
      for (const WeightUse use : {WeightUse::matrix, WeightUse::transposed_matrix})
        CHECK(
            distance(values(gpu(precision), use), values({backend("portable", precision)}, use), 1) <=
            (precision == Precision::bf16 && format == cpu::Format::f32 && use == WeightUse::transposed_matrix
                 ? 0.004
                 : 0));
    }
}

TEST_CASE("large weights come to a GPU in pieces, by several threads, one behind the other or together") {
  Random random(32);
  const int64_t rows = 1500, width = 1001;
  std::vector<Floats> values;
  for (int i = 0; i < 3; ++i) values.push_back(random.floats(rows * width));
  for (const Precision precision : {Precision::f32, Precision::bf16})
    for (const bool together : {false, true}) {
      CAPTURE(together);
      Machine m{create_cuda_backend({.precision = precision, .device = 0, .threads = 3})};
      std::vector<WeightPtr> weights;
      const auto loads = [&] {
        for (const Floats& each : values)
          weights.push_back(m.backend->load(tensor(each, {rows, width}), WeightUse::matrix));
      };
      together ? m.backend->load_together(loads) : loads();
      std::vector<int32_t> ids;
      for (int32_t i = 0; i < rows; ++i) ids.push_back(i);
      for (size_t i = 0; i < weights.size(); ++i) {
        const Rows out = m.room(rows, width);
        m.backend->embed(*weights[i], ids, out);
        Floats expected = values[i];
        if (precision == Precision::bf16)
          for (float& value : expected) value = cuda::to_float(cuda::to_bf16(value));
        CHECK(same_bits(m.read(out), expected));
      }
    }
}

TEST_CASE("loading that ends early leaves nothing on a GPU, and no copy without its memory") {
  Random random(33);
  const Floats values = random.floats(3 << 20);
  Machine m = gpu();
  const auto load = [&](int64_t rows) {
    return m.backend->load(tensor(values, {rows, int64_t{3} << 20}), WeightUse::matrix);
  };
  for (const bool too_much : {false, true}) {
    CAPTURE(too_much);
#ifndef QWEN_TEST_ON_GPU  // whose memory is not ours alone
    const size_t before = host_cuda::allocated_bytes();
#endif
    const std::string said = message(
        [&] {
          m.backend->load_together([&] {
            const WeightPtr first = load(1), second = load(1);
            if (too_much)
              m.backend->load({"w", DType::f32, {int64_t{1} << 40}, nullptr, size_t{4} << 40, "memory"},
                              WeightUse::vector);
            fail(Status::cancelled, "enough");
          });
        },
        too_much ? Status::out_of_memory : Status::cancelled);
    CHECK(said.find(too_much ? "cannot allocate 4398046511104 bytes for weights on GPU 0; " : "enough") == 0);
#ifndef QWEN_TEST_ON_GPU
    CHECK(host_cuda::allocated_bytes() == before);
#endif
  }
  const WeightPtr whole = load(1);  // as if nothing had been
  const Rows out = m.room(1, int64_t{3} << 20);
  m.backend->embed(*whole, std::array{0}, out);
  CHECK(same_bits(m.read(out), values));
}

TEST_CASE("norms' weights on a GPU") {
  CHECK(difference(6, {48}, [](Machine& m, std::span<const Rows> x) {
          Random random(5);
          const Floats weights = random.floats(2 * 48);
          const WeightPtr norm = m.backend->load(tensor(weights, {2 * 48}), WeightUse::vector_minus_one);
          const Rows out = m.room(6, 48);
          m.backend->rms_norm(x[0], *norm, 1e-5f, out);
          m.read(out);  // before the weight goes
          return out;
        }) < 1e-6);
}

TEST_CASE("steps that follow each other without waiting keep their arrays apart") {
  Random random(41);
  Machine m = gpu();
  const Floats values = random.floats(50 * 8);
  const Rows x = m.rows(values, 8);
  std::vector<Rows> out;
  for (int32_t i = 0; i < 40; ++i) {
    out.push_back(m.room(i % 7 + 1, 8));
    const std::vector<int32_t> ids(static_cast<size_t>(i % 7 + 1), i);
    m.backend->gather(x, ids, out.back());
  }
  for (int32_t i = 0; i < 40; ++i)
    for (const float value : m.read(Rows{out[static_cast<size_t>(i)].data, 1, 1}))
      REQUIRE(value == values[static_cast<size_t>(i) * 8]);
}

TEST_CASE("what a GPU refuses, and goes on") {
  Machine m = gpu();
  Random random(51);
  const Floats values = random.floats(64);
  const std::string dtype = message(
      [&] {
        m.backend->load({"blk.0.w", DType::q8_0, {2, 32}, nullptr, 68, "m.gguf"}, WeightUse::matrix);
      },
      Status::unsupported);
  CHECK(dtype.find("'blk.0.w' in m.gguf has dtype Q8_0; on a GPU there are F32, F16 and BF16 so far") !=
        std::string::npos);
  CHECK(message(
            [&] {
              m.backend->load(tensor(values, {8, 8}), WeightUse::vector);
            },
            Status::unsupported)
            .find("expected 1 dimension") != std::string::npos);
  TensorView cut = tensor(values, {8, 8});
  cut.bytes -= 4;
  CHECK(message([&] { m.backend->load(cut, WeightUse::matrix); }, Status::invalid_file).find("needs 256") !=
        std::string::npos);
  std::vector<uint16_t> halves(64, 0x3c00);  // ones
  const auto load = [&] {
    return m.backend->load(tensor(reinterpret_cast<const std::byte*>(halves.data()), DType::f16, {8, 8}),
                           WeightUse::matrix);
  };
  const WeightPtr narrow = load();
  halves[63] = 0x3c01;
  const WeightPtr wide = load();
  const std::array experts = {Expert{narrow.get(), narrow.get(), narrow.get()},
                              Expert{narrow.get(), narrow.get(), wide.get()}};
  const std::string mixed =
      message([&] { m.backend->moe(*m.workspace, {}, {.router = nullptr, .experts = experts}, {}); },
              Status::unsupported);
  CHECK(mixed.find("the experts of a layer are partly float16 numbers that bfloat16 can hold") == 0);
  CHECK(message([&] { m.backend->load(QuantizedTensor{}); }, Status::unsupported).find("quantised weights") !=
        std::string::npos);

  const CacheGroupSpec group{.layers = 2, .kv_heads = 2, .head_dim = 16};
  const std::string memory = message([&] { m.backend->create_cache(group, 1 << 20); }, Status::out_of_memory);
  CHECK(memory.find("for a key/value cache of 1048576 blocks (33554432 positions) on GPU 0; ") !=
        std::string::npos);
  const CacheGroupSpec states{
      .layers = 2,
      .gated_delta =
          GatedDeltaShape{.key_heads = 1, .value_heads = 2, .key_dim = 8, .value_dim = 8, .conv_kernel = 4}};
  CHECK(message([&] { m.backend->create_cache(states, 1 << 20); }, Status::out_of_memory)
            .find("for 1048576 recurrent states on GPU 0; ") != std::string::npos);
  CHECK(message([&] { m.room(1 << 20, 1 << 10); }, Status::out_of_memory)
            .find("for the activations of a step") != std::string::npos);
  const Rows x = m.rows(values, 8);
  CHECK(same_bits(m.read(x), values));

  CHECK(message([] { create_cuda_backend({.device = 3}); }, Status::unsupported) ==
        "option 'device' asks for GPU 3; this machine has 1, counted from 0");
}

TEST_CASE("a GPU is asked for answers that are known") {
  for (const Precision precision : {Precision::f32, Precision::bf16})
    CHECK_NOTHROW(cuda::check_answers(*gpu(precision).backend, "GPU 0"));
#ifndef QWEN_TEST_ON_GPU
  using Tiles = host_cuda::Machine::Tiles;
  const auto said = [](Tiles tiles) {
    host_cuda::machine().tiles = tiles;
    const std::string text =
        message([] { cuda::check_answers(*gpu(Precision::bf16).backend, "GPU 0"); }, Status::internal);
    host_cuda::machine().tiles = Tiles::right;
    return text;
  };
  CHECK(said(Tiles::turned).find("GPU 0 does not compute what it is told: linear in bf16 gives ") == 0);
  CHECK(said(Tiles::uneven) ==
        "GPU 0 does not compute what it is told: linear in bf16 of a row depends on the rows beside it; "
        "option 'device' = "
        "'cpu' does. Please report it");
#endif
}

#ifndef QWEN_TEST_ON_GPU  // whose memory is not ours alone
TEST_CASE("a GPU's memory is given back") {
  const size_t before = host_cuda::allocated_bytes();
  {
    Machine m = gpu();
    const auto cache = m.backend->create_cache({.layers = 1, .kv_heads = 1, .head_dim = 8}, 4);
    for (int step = 0; step < 3; ++step) {  // several pieces become one
      m.workspace->reset();
      for (int i = 0; i < 3; ++i) m.room(1, 300'000);
    }
    CHECK(host_cuda::allocated_bytes() > before);
  }
  CHECK(host_cuda::allocated_bytes() == before);
}
#endif
