// Linear attention through the backend: against the gated delta rule position by position in double, and bit equality
// however the rows arrive, whichever states are kept, and from a kept state on.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

#include "gated_delta_fixtures.h"

namespace {

using namespace qwen;
using namespace qwen::test;
using namespace qwen::test::delta;

// A cache of two layers, of which the second is used, with a sequence's table and slot.
class Runner {
 public:
  Runner(const std::string& isa, int threads, const Layer& layer, int64_t states)
      : layer_(layer), cpu_(backend(isa, Precision::bf16, threads)), args_{layer.shape, 0, 1} {
    CacheGroupSpec spec;
    spec.layers = 2;
    spec.gated_delta = layer.shape;
    cache_ = cpu_->create_cache(spec, states);
    kernel_ = cpu_->load(tensor(layer.kernel, {layer.shape.channels(), 1, layer.shape.conv_kernel}),
                         WeightUse::convolution);
    a_log_ = cpu_->load(tensor(layer.a_log, {layer.shape.value_heads}), WeightUse::vector);
    dt_bias_ = cpu_->load(tensor(layer.dt_bias, {layer.shape.value_heads}), WeightUse::vector);
  }

  struct Part {
    const Sequence* sequence;
    int64_t first, rows;
    std::vector<int32_t> table;
    int32_t slot;
  };
  // One step. Returns each part's rows.
  std::vector<Floats> step(const std::vector<Part>& parts) {
    const GatedDeltaShape& s = layer_.shape;
    Batch batch;
    Floats x, beta, decay;
    for (const Part& part : parts) {
      SequenceRows rows{.first_row = static_cast<int32_t>(batch.token_ids.size()),
                        .row_count = static_cast<int32_t>(part.rows),
                        .context_length = static_cast<int32_t>(part.first),
                        .block_tables = {&part.table, 1},
                        .state_slot = part.slot};
      batch.sequences.push_back(std::move(rows));
      batch.token_ids.resize(batch.token_ids.size() + static_cast<size_t>(part.rows));
      const auto append = [&](Floats& to, const Floats& from, int64_t width) {
        to.insert(to.end(), from.begin() + part.first * width,
                  from.begin() + (part.first + part.rows) * width);
      };
      append(x, part.sequence->x, s.channels());
      append(beta, part.sequence->beta, s.value_heads);
      append(decay, part.sequence->decay, s.value_heads);
    }
    Floats qkv(x.size()), out(batch.token_ids.size() * static_cast<size_t>(layer_.values()));
    cpu_->convolution(*cache_, batch, {{s.channels(), s.conv_kernel}, 0, 1}, rows_of(x, s.channels()),
                      *kernel_, rows_of(qkv, s.channels()));
    cpu_->gated_delta(*cache_, batch, args_,
                      {.qkv = rows_of(qkv, s.channels()),
                       .beta = rows_of(beta, s.value_heads),
                       .decay = rows_of(decay, s.value_heads),
                       .a_log = *a_log_,
                       .dt_bias = *dt_bias_},
                      rows_of(out, layer_.values()));
    std::vector<Floats> outs;
    auto from = out.begin();
    for (const Part& part : parts) {
      outs.emplace_back(from, from + part.rows * layer_.values());
      from += part.rows * layer_.values();
    }
    return outs;
  }

 private:
  const Layer& layer_;
  std::unique_ptr<Backend> cpu_;
  GatedDeltaArgs args_;
  std::unique_ptr<CacheStorage> cache_;
  WeightPtr kernel_, a_log_, dt_bias_;
};

// A table that keeps the states at the beginning of these chunks; the others are -1.
std::vector<int32_t> table(int64_t length, const std::vector<int32_t>& kept, int32_t first_block = 0) {
  std::vector<int32_t> blocks(static_cast<size_t>(length / kStateChunk) + 1, -1);
  for (const int32_t chunk : kept)
    if (static_cast<size_t>(chunk) < blocks.size()) blocks[static_cast<size_t>(chunk)] = first_block + chunk;
  return blocks;
}

const std::vector<int32_t> kAll = {1, 2, 3, 4, 5, 6, 7};

// The whole sequence, `chunk` rows per step, with every state kept, in a slot that held NaN before.
Floats run(const std::string& isa, int threads, const Layer& layer, const Sequence& sequence, int64_t chunk) {
  Runner runner(isa, threads, layer, 16);
  Sequence garbage = sequence;
  std::fill(garbage.x.begin(), garbage.x.end(), std::numeric_limits<float>::quiet_NaN());
  runner.step({{&garbage, 0, garbage.length, table(garbage.length, kAll), 3}});
  Floats out;
  for (int64_t first = 0; first < sequence.length; first += chunk) {
    const int64_t rows = std::min(chunk, sequence.length - first);
    const Floats part = runner.step({{&sequence, first, rows, table(first + rows, kAll), 3}})[0];
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

}  // namespace

TEST_CASE("linear attention equals the gated delta rule at every level and shape") {
  Random random(31);
  const GatedDeltaShape shapes[] = {{1, 1, 16, 16, 4}, {2, 4, 16, 24, 4},   {2, 2, 20, 5, 1},
                                    {3, 9, 33, 40, 2}, {1, 2, 128, 128, 4}, {1, 1, 8, 64, 16}};
  for (const GatedDeltaShape& shape : shapes) {
    CAPTURE(shape.key_dim);
    CAPTURE(shape.value_dim);
    const Layer layer(random, shape);
    for (const int64_t length : {int64_t{1}, int64_t{63}, int64_t{64}, int64_t{65}, int64_t{200}}) {
      const Sequence sequence(random, layer, length);
      const Floats want = textbook(layer, sequence);
      for (const std::string& isa : isas()) {
        CAPTURE(isa);
        CAPTURE(length);
        CHECK(distance(run(isa, 2, layer, sequence, length), want, 0.1) < 2e-5);
      }
    }
  }
}

TEST_CASE(
    "linear attention: the same bits for any chunking, batch mix, thread count and choice of kept states") {
  Random random(32);
  for (const GatedDeltaShape& shape : {GatedDeltaShape{2, 4, 16, 24, 4}, GatedDeltaShape{1, 2, 64, 48, 3}}) {
    const Layer layer(random, shape);
    const Sequence a(random, layer, 211), b(random, layer, 170);
    for (const std::string& isa : isas()) {
      CAPTURE(isa);
      const Floats one_by_one = run(isa, 1, layer, a, 1);
      for (const int threads : {1, 3})
        for (const int64_t chunk : {int64_t{2}, int64_t{13}, int64_t{64}, int64_t{100}, a.length}) {
          CAPTURE(chunk);
          CHECK(same_bits(run(isa, threads, layer, a, chunk), one_by_one));
        }
      // Only the last state is kept, or one in between too.
      for (const std::vector<int32_t>& kept : {std::vector<int32_t>{3}, {1, 3}, {2, 3}}) {
        Runner runner(isa, 2, layer, 16);
        CHECK(same_bits(runner.step({{&a, 0, a.length, table(a.length, kept), 0}})[0], one_by_one));
      }
      // Beside another sequence; then a third one goes on from a state that the first one left behind.
      Runner runner(isa, 2, layer, 16);
      const auto whole = runner.step(
          {{&b, 0, b.length, table(b.length, kAll, 8), 1}, {&a, 0, a.length, table(a.length, {2, 3}), 2}});
      CHECK(same_bits(whole[1], one_by_one));
      const auto rest = runner.step({{&a, 128, a.length - 128, table(a.length, {2, 4}), 5}});
      CHECK(same_bits(rest[0], Floats(one_by_one.begin() + 128 * layer.values(), one_by_one.end())));
    }
  }
}
