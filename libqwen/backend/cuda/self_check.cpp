#include "backend/cuda/self_check.h"

#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/error.h"

namespace qwen::cuda {
namespace {

struct Answer {
  const char* op;
  std::vector<float> values;
  double tolerance;  // |difference| / (1 + |right|)
  bool again =
      false;  // its bits are to be those of the end of the answer before: rows computed in other company
};

class Asked {
 public:
  explicit Asked(Backend& backend) : backend_(backend), workspace_(backend.create_workspace()) {}

  std::vector<Answer> answers() {
    products();
    attention();
    return std::move(answers_);
  }

 private:
  // Sixty-fourths from -1 to 1: bfloat16 holds them, and float32 every sum of their products here, in whatever order.
  WeightPtr matrix(int64_t rows, int64_t width) {
    std::vector<float>& values = kept_.emplace_back(static_cast<size_t>(rows * width));
    for (float& value : values) {
      random_ = random_ * 1664525 + 1013904223;
      value = static_cast<float>(static_cast<int>(random_ >> 16) % 129 - 64) / 64;
    }
    return load(values, {rows, width}, WeightUse::matrix);
  }
  WeightPtr load(const std::vector<float>& values, std::vector<int64_t> shape, WeightUse use) {
    return weights_.emplace_back(backend_.load(
        {"check", DType::f32, std::move(shape), reinterpret_cast<const std::byte*>(values.data()),
         values.size() * sizeof(float), "memory"},
        use));
  }
  Rows room(int64_t rows, int64_t width) { return workspace_->rows(rows, width); }
  Rows rows(int64_t count, int64_t width) {
    const WeightPtr table = matrix(count, width);
    std::vector<int32_t> ids(static_cast<size_t>(count));
    std::iota(ids.begin(), ids.end(), 0);
    const Rows out = room(count, width);
    backend_.embed(*table, ids, out);
    return out;
  }
  void take(const char* op, Rows x, double tolerance, bool again = false) {
    std::vector<float> copy;
    const auto values = backend_.host(x, copy);
    answers_.push_back({op, {values.begin(), values.end()}, tolerance, again});
  }
  static Rows last(Rows x, int64_t rows) {
    return {static_cast<float*>(x.data) + (x.rows - rows) * x.width, rows, x.width};
  }

  // A width that suits no vector load, and one that suits all; few rows and many; the last of them by themselves.
  void products() {
    for (const int64_t width : {333, 256})
      for (const int64_t count : {11, 71}) {
        const WeightPtr weight = matrix(37, width), up = matrix(37, width);
        const Rows x = rows(count, width), out = room(count, 37), gated = room(count, 37);
        take("embed", x, 0);
        backend_.linear(x, std::array{Projection{.weight = weight.get(), .out = out}});
        take("linear", out, 0);
        backend_.linear(x, std::array{Projection{.weight = weight.get(), .out = out, .exact = true}});
        take("an exact linear", out, 0);
        backend_.gated_linear(x, *weight, *up, room(count, 37), gated);
        take("gated_linear", gated, 1e-5);
        std::vector<float>& scales = kept_.emplace_back();
        for (int i = 0; i < width; ++i) scales.push_back(std::ldexp(0.7f, -(i % 20)));
        const WeightPtr norm = load(scales, {width}, WeightUse::vector);
        backend_.rms_norm(x, *norm, 1e-6f, x);
        take("rms_norm", x, 1e-5);
        // Large and small ones, whose sum rounds in every order otherwise: the bits count, of the same rows in other company.
        backend_.linear(x, std::array{Projection{.weight = weight.get(), .out = out}});
        take("linear", out, 0.05);
        for (const int64_t few : {8, 1}) {  // an odd number of places from where they were
          backend_.linear(last(x, few),
                          std::array{Projection{.weight = weight.get(), .out = last(out, few)}});
          take("linear", last(out, few), 0.05, true);
        }
      }
  }

  // A prompt at once; and its last row by itself, behind another sequence's.
  void attention() {
    constexpr int64_t kHeads = 4, kKvHeads = 2, kHeadDim = 64, kPositions = 151, kOthers = 5;
    constexpr int64_t kBlocks = (kPositions + kCacheBlock - 1) / kCacheBlock;
    const AttentionArgs args{.heads = kHeads, .kv_heads = kKvHeads, .head_dim = kHeadDim, .scale = 0.125f};
    const auto cache =
        backend_.create_cache({.layers = 1, .kv_heads = kKvHeads, .head_dim = kHeadDim}, kBlocks + 1);
    using Tables = std::vector<std::vector<int32_t>>;  // of each cache group: there is one
    Tables table = {std::vector<int32_t>(kBlocks)};
    const Tables other = {{kBlocks}};
    std::iota(table[0].rbegin(), table[0].rend(), 0);  // the last block first
    kept_.emplace_back(static_cast<size_t>(kHeadDim), 0.9f);
    const WeightPtr norm = load(kept_.back(), {kHeadDim}, WeightUse::vector);
    const Rows q = rows(kPositions, kHeads * kHeadDim), k = rows(kPositions, kKvHeads * kHeadDim),
               v = rows(kPositions, kKvHeads * kHeadDim), angles = rows(kPositions, kHeadDim / 2);
    const Rows next_q = rows(kOthers + 1, q.width), next_k = rows(kOthers + 1, k.width),
               next_v = rows(kOthers + 1, v.width), next_angles = rows(kOthers + 1, angles.width);
    for (const auto& [to, from] : {std::pair{next_q, q}, {next_k, k}, {next_v, v}, {next_angles, angles}})
      backend_.gather(from, std::array<int32_t, kOthers + 1>{0, 1, 2, 3, 4, kPositions - 1}, to);
    const auto attend = [&](Batch batch, Rows own_q, Rows own_k, Rows own_v, Rows own_angles) {
      batch.token_ids.resize(static_cast<size_t>(own_q.rows));
      backend_.store_heads(*cache, batch, args, {norm.get(), norm.get(), 1e-6f}, own_angles, own_q, own_k,
                           own_v);
      const Rows out = room(own_q.rows, own_q.width);
      backend_.attention(*cache, batch, args, own_q, out);
      return out;
    };
    const auto sequence = [](int64_t first, int64_t count, int64_t context, const Tables& blocks) {
      return SequenceRows{.first_row = static_cast<int32_t>(first),
                          .row_count = static_cast<int32_t>(count),
                          .context_length = static_cast<int32_t>(context),
                          .block_tables = blocks};
    };
    Batch prompt, next;
    prompt.sequences = {sequence(0, kPositions, 0, table)};
    next.sequences = {sequence(0, kOthers, 0, other), sequence(kOthers, 1, kPositions - 1, table)};
    take("attention", attend(prompt, q, k, v, angles), 0.02);
    take("attention", last(attend(next, next_q, next_k, next_v, next_angles), 1), 0.02, true);
  }

  Backend& backend_;
  std::unique_ptr<Workspace> workspace_;
  std::vector<std::vector<float>> kept_;  // what weights may be views of
  std::vector<WeightPtr> weights_;
  std::vector<Answer> answers_;
  uint32_t random_ = 7;
};

}  // namespace

void check_answers(Backend& backend, std::string_view gpu) {
  const auto cpu = create_cpu_backend({.precision = backend.precision(), .threads = 1, .isa = "portable"});
  const std::vector<Answer> right = Asked(*cpu).answers(), given = Asked(backend).answers();
  const auto wrong = [&](const Answer& answer, const auto&... how) {
    fail(Status::internal, gpu, " does not compute what it is told: ", answer.op, " in ",
         backend.precision() == Precision::f32 ? "f32" : "bf16", " ", how...,
         "; option 'device' = 'cpu' does. Please report it");
  };
  for (size_t i = 0; i < given.size(); ++i) {
    const std::vector<float>& values = given[i].values;
    for (size_t j = 0; j < values.size(); ++j)
      if (const float want = right[i].values[j];
          !(std::abs(values[j] - want) <= given[i].tolerance * (1 + std::abs(want))))
        wrong(given[i], "gives ", values[j], " for ", want);
    if (!given[i].again) continue;
    const std::vector<float>& before = given[i - 1].values;
    if (std::memcmp(values.data(), &before[before.size() - values.size()], values.size() * sizeof(float)) !=
        0)
      wrong(given[i], "of a row depends on the rows beside it");
  }
}

}  // namespace qwen::cuda
