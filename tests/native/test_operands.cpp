// Rows in the form that linear() multiplies: written by whatever comes before it, read with the bits of plain rows.
#include <doctest/doctest.h>

#include <array>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernel_fixtures.h"

namespace {

using namespace qwen;
using namespace qwen::test;

constexpr int64_t kWidth = 96, kOutputs = 40;
constexpr int64_t kRowCounts[] = {1, 3, 15, 16, 17, 40, 64, 65, 100, 131};

struct Matrix {
  FileBytes bytes;
  WeightPtr weight;
  Matrix(Random& random, Backend& cpu, int64_t outputs, int64_t inputs)
      : bytes(random_elements(random, cpu::Format::bf16, outputs * inputs)),
        weight(cpu.load(tensor(bytes.data(), DType::bf16, {outputs, inputs}), WeightUse::matrix)) {}
};

Floats product(Backend& cpu, Rows x, const Weight& weight) {
  Floats out(static_cast<size_t>(x.rows * kOutputs));
  cpu.linear(x, std::array{Projection{.weight = &weight, .out = {out.data(), x.rows, kOutputs}}});
  return out;
}

// What `write` writes gives the same products as plain rows and as an operand, if the level has any.
template <class Write>
void check_operand(Backend& cpu, const Weight& reader, int64_t rows, Write&& write) {
  const auto workspace = cpu.create_workspace();
  const Rows plain = workspace->rows(rows, kWidth);
  const Rows likes = workspace->rows(rows, kWidth, cpu.input_form(kWidth, std::array{&reader}));
  write(plain);
  write(likes);
  CHECK(same_bits(product(cpu, likes, reader), product(cpu, plain, reader)));
}

}  // namespace

TEST_CASE("an operand has the bits of plain rows, whoever writes it, at any row count") {
  Random random(71);
  for (const std::string& isa : isas()) {
    CAPTURE(isa);
    for (const int threads : {1, 3}) {
      const auto cpu = backend(isa, Precision::bf16, threads);
      const Matrix reader(random, *cpu, kOutputs, kWidth), gate(random, *cpu, kWidth, 72),
          up(random, *cpu, kWidth, 72);
      const Floats scale = random.floats(kWidth);
      const WeightPtr norm = cpu->load(tensor(scale, {kWidth}), WeightUse::vector);
      for (const int64_t rows : kRowCounts) {
        CAPTURE(rows);
        Floats a = random.floats(rows * kWidth, -4, 4), b = random.floats(rows * kWidth, -4, 4),
               x = random.floats(rows * 72);
        const Rows a_rows{a.data(), rows, kWidth}, b_rows{b.data(), rows, kWidth}, x_rows{x.data(), rows, 72};
        check_operand(*cpu, *reader.weight, rows, [&](Rows to) { cpu->rms_norm(a_rows, *norm, 1e-6f, to); });
        check_operand(*cpu, *reader.weight, rows, [&](Rows to) { cpu->silu_mul(a_rows, b_rows, to); });
        check_operand(*cpu, *reader.weight, rows, [&](Rows to) { cpu->sigmoid_mul(a_rows, b_rows, to); });
        Floats spare(a.size());
        check_operand(*cpu, *reader.weight, rows, [&](Rows to) {
          const Rows none = to.form == Form::operand ? Rows{} : Rows{spare.data(), rows, kWidth};
          cpu->gated_linear(x_rows, *gate.weight, *up.weight, none, to);
        });
      }
    }
  }
}

TEST_CASE("attention writes operands: any head width, group of heads and place among other sequences") {
  Random random(72);
  for (const std::string& isa : isas()) {
    CAPTURE(isa);
    const auto cpu = backend(isa, Precision::bf16, 2);
    const Matrix reader(random, *cpu, kOutputs, kWidth);
    for (const auto& [heads, kv_heads] : {std::array<int64_t, 2>{6, 2}, {4, 4}, {16, 1}, {3, 1}, {48, 12}}) {
      CAPTURE(heads);
      const int64_t head_dim = kWidth / heads, kv_width = kv_heads * head_dim;
      const AttentionArgs args{heads, kv_heads, head_dim, 0, 0.3f, 0, 0};
      const auto cache = cpu->create_cache({1, kv_heads, head_dim, 0}, 6);
      const std::vector<int32_t> tables[] = {{0, 3, 5}, {1, 4, 2}};
      for (const int64_t first_rows : {1, 5, 16, 70}) {
        const int64_t rows = first_rows + 21;
        Batch batch;
        batch.token_ids.resize(static_cast<size_t>(rows));
        batch.sequences.push_back({0, static_cast<int32_t>(first_rows), 0, {&tables[0], 1}});
        batch.sequences.push_back({static_cast<int32_t>(first_rows), 21, 0, {&tables[1], 1}});
        Floats q = random.floats(rows * kWidth), k = random.floats(rows * kv_width),
               v = random.floats(rows * kv_width);
        store_kv(*cpu, *cache, batch, args, {k.data(), rows, kv_width}, {v.data(), rows, kv_width});
        check_operand(*cpu, *reader.weight, rows, [&](Rows to) {
          cpu->attention(*cache, batch, args, {q.data(), rows, kWidth}, to);
        });
      }
    }
  }
}

TEST_CASE("only matrices that tiles read whole like operands; others say so") {
  Random random(73);
  for (const std::string& isa : isas()) {
    const auto cpu = backend(isa, Precision::bf16, 1);
    const Matrix whole(random, *cpu, kOutputs, kWidth), odd(random, *cpu, kOutputs, 40);
    const Floats floats = random.floats(kOutputs * kWidth);
    const WeightPtr single = cpu->load(tensor(floats, {kOutputs, kWidth}), WeightUse::matrix);
    const auto form = [&](int64_t width, const WeightPtr& weight) {
      return cpu->input_form(width, std::array<const Weight*, 1>{weight.get()});
    };
    CHECK(form(kWidth, whole.weight) == (isa == "amx" ? Form::operand : Form::plain));
    CHECK(form(40, odd.weight) == Form::plain);
    CHECK(backend(isa, Precision::f32, 1)
              ->input_form(kWidth, std::array<const Weight*, 1>{whole.weight.get()}) == Form::plain);
    if (isa != "amx") continue;
    // A model that asked for one weight and multiplies by another is told.
    const auto workspace = cpu->create_workspace();
    const Rows x = workspace->rows(2, kWidth, Form::operand);
    Floats out(2 * kOutputs);
    const Projection exact{.weight = whole.weight.get(), .out = {out.data(), 2, kOutputs}, .exact = true};
    CHECK_THROWS_AS(cpu->linear(x, std::array{exact}), Error);
  }
}
