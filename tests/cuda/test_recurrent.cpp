// The CUDA backend's linear attention: against the gated delta rule position by position in double, and bit equality however the rows
// arrive, whichever states are kept, and from a kept state on.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "backend/cuda/recurrent.h"
#include "device_arrays.h"
#include "gated_delta_fixtures.h"

using namespace qwen;
using namespace qwen::test;
using namespace qwen::test::delta;
using cuda::Memory;

namespace {

struct Part {
  const Sequence* sequence;
  int64_t first, rows;
  std::vector<int32_t> table;
  int32_t slot;
};

// A layer's cache, full of NaN at first, and steps on it.
class Runner {
 public:
  Runner(const Layer& layer, int64_t states)
      : layer_(layer), layout_(layer.shape, layer.shape.channels(), layer.shape.conv_kernel, layer.dilation) {
    blocks_ = arrays_.room<float>(static_cast<size_t>(states * layout_.block));
    slots_ = arrays_.room<float>(static_cast<size_t>(states * layout_.slot));
    Floats by_tap(layer.kernel.size());  // [conv_kernel, channels]
    const int64_t channels = layer.shape.channels(), taps = layer.shape.conv_kernel;
    for (int64_t i = 0; i < channels * taps; ++i)
      by_tap[static_cast<size_t>(i % taps * channels + i / taps)] = layer.kernel[static_cast<size_t>(i)];
    kernel_ = arrays_.put(by_tap);
    a_log_ = arrays_.put(layer.a_log);
    dt_bias_ = arrays_.put(layer.dt_bias);
  }

  // One step. Returns each part's rows.
  std::vector<Floats> step(const std::vector<Part>& parts) {
    const GatedDeltaShape& s = layer_.shape;
    std::vector<cuda::RecurrentSequence> sequences;
    std::vector<int32_t> row_sequence, tables;
    Floats x, beta, decay;
    for (const Part& part : parts) {
      sequences.push_back({static_cast<int32_t>(row_sequence.size()), static_cast<int32_t>(part.rows),
                           static_cast<int32_t>(part.first), static_cast<int32_t>(tables.size()), part.slot});
      row_sequence.insert(row_sequence.end(), static_cast<size_t>(part.rows),
                          static_cast<int32_t>(sequences.size() - 1));
      tables.insert(tables.end(), part.table.begin(), part.table.end());
      const auto append = [&](Floats& to, const Floats& from, int64_t width) {
        to.insert(to.end(), from.begin() + part.first * width,
                  from.begin() + (part.first + part.rows) * width);
      };
      append(x, part.sequence->x, s.channels());
      append(beta, part.sequence->beta, s.value_heads);
      append(decay, part.sequence->decay, s.value_heads);
    }
    const auto rows = static_cast<int64_t>(row_sequence.size()), count = static_cast<int64_t>(parts.size());
    const Memory of_sequences = arrays_.put(sequences), of_rows = arrays_.put(row_sequence),
                 of_tables = arrays_.put(tables), of_x = arrays_.put(x), of_beta = arrays_.put(beta),
                 of_decay = arrays_.put(decay);
    const Memory qkv = arrays_.room<float>(x.size()),
                 out = arrays_.room<float>(static_cast<size_t>(rows * layer_.values()));
    const Memory scratch =
        arrays_.room<float>(static_cast<size_t>(cuda::delta_rule_scratch_floats(s, rows, count)));
    const cuda::RecurrentRows batch = {on<cuda::RecurrentSequence>(of_sequences), count, on<int32_t>(of_rows),
                                       on<int32_t>(of_tables), rows};
    const cuda::RecurrentCacheView cache = {layout_, on<float>(blocks_), on<float>(slots_)};
    cuda::convolve(*arrays_.stream, {.batch = batch,
                                     .cache = cache,
                                     .x = on<float>(of_x),
                                     .weight = on<float>(kernel_),
                                     .out = on<float>(qkv)});
    cuda::delta_rule(*arrays_.stream, {.batch = batch,
                                       .cache = cache,
                                       .qkv = on<float>(qkv),
                                       .beta = on<float>(of_beta),
                                       .decay = on<float>(of_decay),
                                       .a_log = on<float>(a_log_),
                                       .dt_bias = on<float>(dt_bias_),
                                       .scratch = on<float>(scratch),
                                       .out = on<float>(out)});
    const Floats all = arrays_.get<float>(out);
    std::vector<Floats> outs;
    for (const auto& sequence : sequences) {
      const auto from = all.begin() + sequence.first_row * layer_.values();
      outs.emplace_back(from, from + sequence.row_count * layer_.values());
    }
    return outs;
  }

 private:
  const Layer& layer_;
  cuda::RecurrentLayout layout_;
  DeviceArrays arrays_;
  Memory blocks_, slots_, kernel_, a_log_, dt_bias_;
};

// A whole sequence, `rows` at a time. Of the states that steps pass in their middle every `keep`-th is kept; 0: none.
Floats run(Runner& runner, const Sequence& sequence, int64_t rows, int64_t keep, int32_t first_block = 0) {
  std::vector<int32_t> table(static_cast<size_t>(sequence.length / kStateChunk + 2), -1);
  Floats all;
  for (int64_t first = 0; first < sequence.length; first += rows) {
    const int64_t count = std::min(rows, sequence.length - first), end = first + count;
    for (int64_t chunk = first / kStateChunk + 1; chunk <= end / kStateChunk; ++chunk)
      if (chunk == end / kStateChunk || (keep > 0 && chunk % keep == 0))
        table[static_cast<size_t>(chunk)] = first_block + static_cast<int32_t>(chunk);
    const Floats out = runner.step({{&sequence, first, count, table, first_block}})[0];
    all.insert(all.end(), out.begin(), out.end());
  }
  return all;
}

const GatedDeltaShape kShapes[] = {
    {.key_heads = 2, .value_heads = 4, .key_dim = 16, .value_dim = 24, .conv_kernel = 4},
    {.key_heads = 1,
     .value_heads = 1,
     .key_dim = 33,
     .value_dim = 40,
     .conv_kernel = 2,
     .stored_rates = true},
    {.key_heads = 2,
     .value_heads = 4,
     .key_dim = 8,
     .value_dim = 5,
     .conv_kernel = 3,
     .tiled_value_heads = true}};

}  // namespace

TEST_CASE("cuda gated delta rule equals the rule position by position") {
  Random random(61);
  for (const GatedDeltaShape& shape : kShapes) {
    for (const int64_t length : {1, 63, 64, 150}) {
      CAPTURE(shape.key_dim);
      CAPTURE(length);
      GatedDeltaShape own = shape;
      Layer layer(random, own, shape.conv_kernel == 3 ? 3 : 1);
      if (shape.stored_rates)
        for (float& rate : layer.a_log) rate = -std::exp(rate);
      const Sequence sequence(random, layer, length);
      Runner runner(layer, 8);
      CHECK(distance(run(runner, sequence, length, 0), textbook(layer, sequence), 1.0) < 1e-5);
    }
  }
}

TEST_CASE("cuda gated delta rule: the same bits for any chunking, batch mix, kept states and resumption") {
  Random random(62);
  for (const GatedDeltaShape& shape : kShapes) {
    const Layer layer(random, shape, shape.conv_kernel == 3 ? 3 : 1);
    const Sequence a(random, layer, 205), b(random, layer, 90);
    CAPTURE(shape.key_dim);
    Runner whole(layer, 8);
    const Floats all = run(whole, a, a.length, 0);
    const auto rows_of_a = [&](int64_t first, int64_t rows) {
      return Floats(all.begin() + first * layer.values(), all.begin() + (first + rows) * layer.values());
    };
    for (const int64_t rows : {1, 7, 50, 64, 100}) {
      CAPTURE(rows);
      Runner runner(layer, 8);
      CHECK(same_bits(run(runner, a, rows, rows % 2), all));
    }
    // Side by side with others, in slots and blocks of their own.
    Runner mixed(layer, 16);
    const std::vector<int32_t> of_a = {-1, -1, 9, 10}, of_b = {-1, 12};
    mixed.step({{&b, 0, 30, of_b, 0}, {&a, 0, 130, of_a, 5}, {&b, 0, 3, of_b, 1}});
    const auto outs = mixed.step({{&b, 30, 40, of_b, 0}, {&a, 130, 70, of_a, 5}});
    CHECK(same_bits(outs[1], rows_of_a(130, 70)));
    // From a kept state on, in another slot.
    CHECK(same_bits(mixed.step({{&a, 128, 20, of_a, 7}})[0], rows_of_a(128, 20)));
    // Rows that are taken back and computed again.
    CHECK(same_bits(mixed.step({{&a, 196, 9, of_a, 5}})[0], rows_of_a(196, 9)));
  }
}
