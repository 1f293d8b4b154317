// The CUDA backend's attention and what fills its cache, against the naive twins; and bit equality however the rows arrive.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "backend/cuda/attention.h"
#include "backend/cuda/rms_norm.h"
#include "backend/cuda/row_math.h"
#include "backend/cuda/store_heads.h"
#include "backend/reference/reference.h"
#include "base/error.h"
#include "device_arrays.h"

using namespace qwen;
using namespace qwen::test;
using cpu::Format;
using cuda::Element;
using cuda::Memory;

namespace {

struct Shape {
  int64_t heads, kv_heads, head_dim, window, length;

  float scale() const { return 1 / std::sqrt(static_cast<float>(head_dim)); }
};

// One sequence's q, k, v for all its positions.
struct Sequence {
  Floats q, k, v;
  Sequence(Random& random, const Shape& shape)
      : q(random.floats(shape.length * shape.heads * shape.head_dim, -2, 2)),
        k(random.floats(shape.length * shape.kv_heads * shape.head_dim, -2, 2)),
        v(random.floats(shape.length * shape.kv_heads * shape.head_dim, -2, 2)) {}
};

Floats as(const Floats& values, Element element) {
  return element == Element::f32 ? values : widened(to_bf16(values));
}

// The naive twin, over a cache laid out as its own.
Floats oracle(const Sequence& sequence, const Shape& s, Element element) {
  const int64_t blocks = (s.length + kCacheBlock - 1) / kCacheBlock, width = cpu::padded_head_dim(s.head_dim);
  const Floats q = as(sequence.q, element), k = as(sequence.k, element), v = as(sequence.v, element);
  std::vector<int32_t> table(static_cast<size_t>(blocks));
  std::iota(table.begin(), table.end(), 0);
  Floats out(q.size());
  for (int64_t head = 0; head < s.kv_heads; ++head) {
    Floats keys(static_cast<size_t>(blocks * s.head_dim * kCacheBlock)),
        values(static_cast<size_t>(blocks * kCacheBlock * width));
    for (int64_t p = 0; p < s.length; ++p) {
      for (int64_t d = 0; d < s.head_dim; ++d) {
        const size_t from = static_cast<size_t>((p * s.kv_heads + head) * s.head_dim + d);
        keys[static_cast<size_t>((p / kCacheBlock * s.head_dim + d) * kCacheBlock + p % kCacheBlock)] =
            k[from];
        values[static_cast<size_t>(p * width + d)] = v[from];
      }
    }
    const int64_t group = s.heads / s.kv_heads;
    reference::attention<double, Format::f32>({.q = q.data() + head * group * s.head_dim,
                                               .out = out.data() + head * group * s.head_dim,
                                               .row_stride = s.heads * s.head_dim,
                                               .rows = s.length,
                                               .query_heads = group,
                                               .head_dim = s.head_dim,
                                               .window = s.window,
                                               .scale = s.scale(),
                                               .keys = reinterpret_cast<const std::byte*>(keys.data()),
                                               .values = reinterpret_cast<const std::byte*>(values.data()),
                                               .key_block_bytes = s.head_dim * kCacheBlock * 4,
                                               .value_block_bytes = width * kCacheBlock * 4,
                                               .block_table = table.data()});
  }
  return out;
}

// Rows of a sequence that a step computes, the positions before them having been stored.
struct Piece {
  const Sequence* sequence;
  int64_t context, rows;
};

enum class Way : uint8_t { walk, split };  // how the launch is persuaded to go

// One step on a cache that is NaN wherever no position of these sequences is. Outs of each piece.
std::vector<Floats> attend(DeviceArrays& arrays, const Shape& s, Element element,
                           const std::vector<Piece>& pieces, Way way, Element out_element = Element::f32,
                           int64_t end = INT32_MAX) {
  const int64_t kv_width = s.kv_heads * s.head_dim, q_width = s.heads * s.head_dim;
  const int64_t blocks_each = (s.length + kCacheBlock - 1) / kCacheBlock;
  const auto count = static_cast<int64_t>(pieces.size());
  const auto elements =
      static_cast<size_t>(count * blocks_each * cuda::cache_block_elements(s.kv_heads, s.head_dim));
  const auto plane = [&] {
    return element == Element::f32 ? arrays.room<float>(elements) : arrays.room<uint16_t>(elements);
  };
  const Memory keys = plane(), values = plane();
  const cuda::PagedCacheView cache = {keys.data(), values.data(), element,
                                      s.kv_heads,  s.head_dim,    cuda::cache_width(s.head_dim)};

  // Scattered blocks, in an order that differs between sequences; -1 where the window has left them.
  std::vector<int32_t> tables;
  for (int64_t p = 0; p < count; ++p)
    for (int64_t b = 0; b < blocks_each; ++b)
      tables.push_back(static_cast<int32_t>((blocks_each - 1 - b) * count + p));

  // The step itself, or (earlier) what was stored before it.
  std::vector<Floats> outs;
  for (const bool earlier : {true, false}) {
    std::vector<cuda::PagedSequence> sequences;
    std::vector<int32_t> row_sequence;
    Floats q, k, v;
    int64_t most = 0;
    for (int64_t p = 0; p < count; ++p) {
      const Piece& piece = pieces[static_cast<size_t>(p)];
      const int64_t first = earlier ? 0 : piece.context, rows = earlier ? piece.context : piece.rows;
      sequences.push_back({static_cast<int32_t>(row_sequence.size()), static_cast<int32_t>(rows),
                           static_cast<int32_t>(first), static_cast<int32_t>(p * blocks_each)});
      row_sequence.insert(row_sequence.end(), static_cast<size_t>(rows), static_cast<int32_t>(p));
      const auto append = [&](Floats& to, const Floats& from, int64_t width) {
        to.insert(to.end(), from.begin() + first * width, from.begin() + (first + rows) * width);
      };
      append(q, piece.sequence->q, q_width);
      append(k, piece.sequence->k, kv_width);
      append(v, piece.sequence->v, kv_width);
      most = std::max(most, first + rows);
      for (int64_t b = 0; !earlier && s.window > 0 && (b + 1) * kCacheBlock <= first - s.window + 1; ++b)
        tables[static_cast<size_t>(p * blocks_each + b)] = -1;
    }
    const Memory of_sequences = arrays.put(sequences), of_rows = arrays.put(row_sequence),
                 of_tables = arrays.put(tables), of_q = arrays.put(q), of_k = arrays.put(k),
                 of_v = arrays.put(v);
    const cuda::PagedRows batch = {on<cuda::PagedSequence>(of_sequences), on<int32_t>(of_rows),
                                   on<int32_t>(of_tables), static_cast<int64_t>(row_sequence.size())};
    cuda::store_heads(*arrays.stream,
                      {.batch = batch, .cache = cache, .k = on<float>(of_k), .v = on<float>(of_v)});
    if (earlier) {
      arrays.stream->synchronize();
      continue;
    }
    std::vector<cuda::AttentionTile> tiles;
    cuda::list_attention_tiles(sequences, s.heads / s.kv_heads, tiles);
    const int64_t scratch = cuda::attention_scratch_floats(batch.rows, s.heads, s.head_dim, most);
    const Memory of_tiles = arrays.put(tiles), of_scratch = arrays.room<float>(static_cast<size_t>(scratch));
    const Memory out =
        out_element == Element::f32 ? arrays.room<float>(q.size()) : arrays.room<uint16_t>(q.size());
    cuda::paged_attention(*arrays.stream, {.batch = batch,
                                           .end = end,
                                           .cache = cache,
                                           .q = on<float>(of_q),
                                           .heads = s.heads,
                                           .window = s.window,
                                           .scale = s.scale(),
                                           .tiles = on<cuda::AttentionTile>(of_tiles),
                                           .tile_count = static_cast<int64_t>(tiles.size()),
                                           .most_positions = most,
                                           .scratch = on<float>(of_scratch),
                                           .scratch_floats = way == Way::split ? scratch : 0,
                                           .out = out.data(),
                                           .out_element = out_element,
                                           .multiprocessors = 1 << 20});
    const Floats all =
        out_element == Element::f32 ? arrays.get<float>(out) : widened(arrays.get<uint16_t>(out));
    for (int64_t p = 0; p < count; ++p) {
      const auto from = all.begin() + sequences[static_cast<size_t>(p)].first_row * q_width;
      outs.emplace_back(from, from + pieces[static_cast<size_t>(p)].rows * q_width);
    }
  }
  return outs;
}

}  // namespace

TEST_CASE("cuda attention equals the naive twin in every shape and window, split or not") {
  DeviceArrays arrays;
  Random random(41);
  const Shape shapes[] = {{2, 1, 16, 0, 5},   {4, 2, 24, 0, 70},   {3, 3, 40, 0, 33},  {14, 2, 64, 50, 70},
                          {8, 1, 72, 0, 64},  {16, 2, 128, 0, 40}, {2, 2, 256, 0, 60}, {2, 1, 64, 7, 300},
                          {2, 1, 80, 32, 97}, {20, 1, 32, 33, 50}, {2, 2, 160, 0, 40}, {2, 1, 192, 130, 270},
                          {2, 1, 219, 0, 35}, {2, 1, 48, 1, 165},  {1, 1, 33, 0, 385}};
  for (const Shape& shape : shapes) {
    CAPTURE(shape.head_dim);
    CAPTURE(shape.window);
    const Sequence sequence(random, shape);
    for (const Element element : {Element::f32, Element::bf16}) {
      const Floats want = oracle(sequence, shape, element);
      for (const Way way : {Way::walk, Way::split}) {
        const Floats got = attend(arrays, shape, element, {{&sequence, 0, shape.length}}, way)[0];
        // Tensor cores take probabilities rounded to bfloat16.
        CHECK(distance(got, want, 1.0) < (element == Element::f32 ? 4e-6 : 4e-3));
      }
    }
  }
}

TEST_CASE("cuda attention leaves rows from a position on alone") {
  DeviceArrays arrays;
  Random random(47);
  for (const Shape& shape : {Shape{14, 2, 64, 0, 150}, Shape{20, 1, 40, 0, 50}}) {
    const Sequence a(random, shape), b(random, shape);
    const std::vector<Piece> pieces = {{&a, 0, shape.length}, {&b, 10, 1}, {&b, 41, 1}, {&a, 33, 9}};
    for (const Element element : {Element::f32, Element::bf16}) {
      for (const Way way : {Way::walk, Way::split}) {
        const std::vector<Floats> all = attend(arrays, shape, element, pieces, way);
        for (const int64_t end : {0, 11, 41}) {
          const std::vector<Floats> some = attend(arrays, shape, element, pieces, way, Element::f32, end);
          for (size_t p = 0; p < pieces.size(); ++p) {
            const int64_t before = std::clamp<int64_t>(end - pieces[p].context, 0, pieces[p].rows);
            const int64_t border = before * shape.heads * shape.head_dim;
            CHECK(same_bits(Floats(some[p].begin(), some[p].begin() + border),
                            Floats(all[p].begin(), all[p].begin() + border)));
            CHECK(
                std::all_of(some[p].begin() + border, some[p].end(), [](float x) { return std::isnan(x); }));
          }
        }
      }
    }
  }
}

TEST_CASE("cuda attention: the same bits for any chunking, batch mix and way to walk") {
  DeviceArrays arrays;
  Random random(42);
  for (const Shape& shape : {Shape{2, 2, 40, 0, 290}, Shape{3, 1, 64, 137, 301}, Shape{2, 1, 128, 0, 160},
                             Shape{2, 1, 256, 40, 140}}) {
    CAPTURE(shape.head_dim);
    const Sequence a(random, shape), b(random, shape);
    const int64_t width = shape.heads * shape.head_dim;
    for (const Element element : {Element::f32, Element::bf16}) {
      const Floats all = attend(arrays, shape, element, {{&a, 0, shape.length}}, Way::walk)[0];
      const auto expect = [&](const Floats& got, int64_t first, int64_t rows) {
        CAPTURE(first);
        CAPTURE(rows);
        CHECK(same_bits(got, Floats(all.begin() + first * width, all.begin() + (first + rows) * width)));
      };
      expect(attend(arrays, shape, element, {{&a, 0, shape.length}}, Way::split)[0], 0, shape.length);
      for (const Way way : {Way::walk, Way::split}) {
        for (const int64_t first : {0, 31, 32, 100, 127, 128, 139})
          expect(attend(arrays, shape, element, {{&a, first, 1}}, way)[0], first, 1);
        const int64_t last = shape.length - 1;
        expect(attend(arrays, shape, element, {{&a, last, 1}}, way)[0], last, 1);
        expect(attend(arrays, shape, element, {{&a, 90, 45}}, way)[0], 90, 45);
        const auto mixed =
            attend(arrays, shape, element, {{&b, 7, 9}, {&a, 121, 13}, {&b, 0, 3}, {&a, last, 1}}, way);
        expect(mixed[1], 121, 13);
        expect(mixed[3], last, 1);
      }
      const Floats operand = attend(arrays, shape, element, {{&a, 60, 70}}, Way::walk, Element::bf16)[0];
      CHECK(
          same_bits(operand, widened(to_bf16(Floats(all.begin() + 60 * width, all.begin() + 130 * width)))));
    }
  }
}

TEST_CASE("cuda attention says which heads are too large") {
  DeviceArrays arrays;
  cuda::PagedAttentionArgs args;
  args.cache.kv_heads = args.heads = args.most_positions = 1;
  args.cache.head_dim = 257;
  try {
    cuda::paged_attention(*arrays.stream, args);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.status() == Status::unsupported);
    CHECK(error.message() == "heads of 257 dimensions; on a GPU they may have at most 256");
  }
}

TEST_CASE("cuda store_heads has the bits of norm and rotation, and writes its positions alone") {
  DeviceArrays arrays;
  Random random(43);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const int64_t head_dim : {16, 48, 128}) {
    for (const int64_t half : {int64_t{0}, head_dim / 4, head_dim / 2}) {
      const int64_t heads = 4, kv_heads = 2, rows = 75, width = cuda::cache_width(head_dim), blocks = 5;
      const Floats q = random.floats(rows * heads * head_dim), k = random.floats(rows * kv_heads * head_dim),
                   v = random.floats(rows * kv_heads * head_dim), angles = random.floats(rows * 2 * half),
                   q_norm = random.floats(head_dim), k_norm = random.floats(head_dim);
      // Two sequences, the second one in the middle of a block; a block is nobody's.
      const std::vector<int32_t> tables = {3, 0, 4, 1};
      const std::vector<cuda::PagedSequence> sequences = {{0, 50, 0, 0}, {50, 25, 20, 2}};
      std::vector<int32_t> row_sequence(50, 0);
      row_sequence.resize(75, 1);
      for (const bool norms : {false, true}) {
        const auto prepared = [&](const Floats& x, const Floats& weight, int64_t row_heads) {
          Floats values = x;
          if (norms) {
            const Memory of_x = arrays.put(x), of_weight = arrays.put(weight),
                         out = arrays.room<float>(x.size());
            cuda::rms_norm(*arrays.stream, {.x = on<float>(of_x),
                                            .weight = on<float>(of_weight),
                                            .rows = rows * row_heads,
                                            .width = head_dim,
                                            .eps = 1e-6f,
                                            .out = out.data()});
            values = arrays.get<float>(out);
          }
          for (int64_t i = 0; i < rows * row_heads; ++i) {
            for (int64_t d = 0; d < half; ++d) {
              float& first = values[static_cast<size_t>(i * head_dim + d)];
              float& second = values[static_cast<size_t>(i * head_dim + d + half)];
              const float* const angle = angles.data() + i / row_heads * 2 * half + d;
              const float2 turned = cuda::rotate(first, second, angle[0], angle[half]);
              first = turned.x;
              second = turned.y;
            }
          }
          return values;
        };
        const Floats want_q = prepared(q, q_norm, heads), want_k = prepared(k, k_norm, kv_heads);
        for (const Element element : {Element::f32, Element::bf16}) {
          const auto elements = static_cast<size_t>(blocks * cuda::cache_block_elements(kv_heads, head_dim));
          const auto plane = [&] {
            return element == Element::f32 ? arrays.room<float>(elements) : arrays.room<uint16_t>(elements);
          };
          const Memory keys = plane(), values = plane(), of_q = arrays.put(q), of_k = arrays.put(k),
                       of_v = arrays.put(v), of_angles = arrays.put(angles), of_q_norm = arrays.put(q_norm),
                       of_k_norm = arrays.put(k_norm), of_sequences = arrays.put(sequences),
                       of_rows = arrays.put(row_sequence), of_tables = arrays.put(tables);
          cuda::store_heads(*arrays.stream,
                            {.batch = {on<cuda::PagedSequence>(of_sequences), on<int32_t>(of_rows),
                                       on<int32_t>(of_tables), rows},
                             .cache = {keys.data(), values.data(), element, kv_heads, head_dim, width},
                             .heads = heads,
                             .q = on<float>(of_q),
                             .k = on<float>(of_k),
                             .v = on<float>(of_v),
                             .q_norm = norms ? on<float>(of_q_norm) : nullptr,
                             .k_norm = norms ? on<float>(of_k_norm) : nullptr,
                             .eps = 1e-6f,
                             .angles = on<float>(of_angles),
                             .half = half});
          CHECK(same_bits(arrays.get<float>(of_q), want_q));

          Floats want_keys(elements, nan), want_values(elements, nan);
          for (int64_t r = 0; r < rows; ++r) {
            const auto& sequence = sequences[static_cast<size_t>(row_sequence[static_cast<size_t>(r)])];
            const int64_t position = sequence.context_length + r - sequence.first_row;
            const int64_t block = tables[static_cast<size_t>(sequence.table + position / kCacheBlock)];
            for (int64_t head = 0; head < kv_heads; ++head) {
              const int64_t at = (block * kv_heads + head) * kCacheBlock * width,
                            slot = position % kCacheBlock;
              for (int64_t d = 0; d < width; ++d) {
                const auto from = static_cast<size_t>((r * kv_heads + head) * head_dim + d);
                want_keys[static_cast<size_t>(at + slot * width + d)] = d < head_dim ? want_k[from] : 0;
                if (d < head_dim) want_values[static_cast<size_t>(at + d * kCacheBlock + slot)] = v[from];
              }
            }
          }
          const auto expect = [&](const Memory& plane_of, const Floats& want) {
            const Floats got = element == Element::f32 ? arrays.get<float>(plane_of)
                                                       : widened(arrays.get<uint16_t>(plane_of));
            const Floats rounded = as(want, element);
            bool same = true;
            for (size_t i = 0; i < got.size(); ++i)
              same = same && (std::isnan(want[i]) ? std::isnan(got[i]) : got[i] == rounded[i]);
            CHECK(same);
          };
          expect(keys, want_keys);
          expect(values, want_values);
        }
      }
    }
  }
}
