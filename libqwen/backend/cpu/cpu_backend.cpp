#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

#include "backend/cpu/cpu_state_cache.h"
#include "base/cores.h"
#include "base/error.h"
#include "base/system_memory.h"

namespace qwen {

std::unique_ptr<Backend> create_cpu_backend(const CpuOptions& options) {
  return std::make_unique<cpu::CpuBackend>(options);
}

namespace cpu {

static_assert(kBlock == kCacheBlock);

int checked_threads(int threads) {
  if (threads < 0 || threads > 4096) {
    fail(Status::invalid_argument, "threads is ", threads, "; valid are 0 (all cores) to 4096");
  }
  return threads == 0 ? usable_cores() : threads;
}

CpuBackend::CpuBackend(const CpuOptions& options)
    : precision_(options.precision),
      isa_(choose_isa(options.isa)),
      kernels_(kernels(isa_)),
      pool_(checked_threads(options.threads)) {}

std::vector<KernelCount> CpuBackend::kernel_counts() const {
  static constexpr const char* kOps[] = {"embed",       "linear",      "attention", "rms_norm",
                                         "rope",        "store_kv",    "silu_mul",  "moe",
                                         "convolution", "gated_delta", "indexer",   "sample"};
  static constexpr const char* kFormatNames[] = {"f32",  "f16",  "bf16", "fp8",  "gptq",   "awq",   "q4_0",
                                                 "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4", "q2_k",
                                                 "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs"};
  static_assert(std::size(kOps) == static_cast<size_t>(Op::count));
  static_assert(std::size(kFormatNames) == kFormats);
  // Weights come in every format, the cache in two, activations in one.
  const auto exists = [](Op op, Format format) {
    if (op == Op::embed || op == Op::linear) return true;
    const bool of_cache = op == Op::attention || op == Op::store_kv;
    return format == Format::f32 || (of_cache && format == Format::bf16);
  };
  std::vector<KernelCount> counts;
  for (size_t i = 0; i < counts_.size(); ++i) {
    if (!exists(static_cast<Op>(i / kFormats), static_cast<Format>(i % kFormats))) continue;
    const int64_t calls = counts_[i].load(std::memory_order_relaxed);
    counts.push_back({cat(kOps[i / kFormats], ".", kFormatNames[i % kFormats], ".", isa_name(isa_)), calls});
  }
  return counts;
}

// The other half is for the mapped weights' pages, and everybody else.
CacheRoom CpuBackend::cache_room(int64_t) const {
  return {.bytes = available_memory() / 2};
}

WeightPtr CpuBackend::load(const TensorView& tensor, WeightUse use) {
  return std::make_shared<CpuWeight>(tensor, use, precision_, kernels_);
}

WeightPtr CpuBackend::load(const QuantizedTensor& tensor) {
  return std::make_shared<CpuWeight>(tensor);
}

std::unique_ptr<Workspace> CpuBackend::create_workspace() {
  return std::make_unique<CpuWorkspace>();
}

size_t CpuBackend::cache_block_bytes(const CacheGroupSpec& spec) const {
  if (spec.recurrent()) return CpuStateCache::block_bytes(spec);
  const size_t heads = static_cast<size_t>(spec.layers * spec.kv_heads);
  const CacheLayout layout = cache_layout();
  return heads * (layout.key_bytes(spec.head_dim) + layout.value_bytes(spec.head_dim)) +
         static_cast<size_t>(spec.layers * CpuCache::index_block_floats(spec)) * sizeof(float);
}

std::unique_ptr<CacheStorage> CpuBackend::create_cache(const CacheGroupSpec& spec, int64_t blocks) {
  if (spec.recurrent()) return std::make_unique<CpuStateCache>(spec, blocks);
  return std::make_unique<CpuCache>(spec, blocks, cache_layout());
}

float* CpuBackend::scratch(int64_t floats_per_worker) {
  if (floats_per_worker > scratch_stride_) {
    constexpr int64_t kLine = kAlignment / sizeof(float);
    const int64_t stride = (floats_per_worker + kLine - 1) / kLine * kLine;
    scratch_stride_ = 0;  // should the allocation fail
    scratch_ = Buffer();
    scratch_ =
        Buffer(static_cast<size_t>(stride * pool_.threads()) * sizeof(float), "the threads' scratch memory");
    scratch_stride_ = stride;
  }
  return reinterpret_cast<float*>(scratch_.data());
}

float* CpuBackend::worker_scratch(int worker) const {
  return reinterpret_cast<float*>(scratch_.data()) + worker * scratch_stride_;
}

void CpuBackend::embed(const Weight& table, std::span<const int32_t> ids, Rows out) {
  const CpuWeight& weight = own(table);
  counted(Op::embed, weight.format);
  for_rows(out.rows, out.width, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const Panel entry = {
          .output = ids[static_cast<size_t>(r)], .outputs = 1, .input = 0, .inputs = out.width};
      weight.widen(kernels_, entry, row(out, r), out.width);
    }
  });
}

void CpuBackend::embed_ngrams(const NgramTable& table, const Batch& batch, Rows out) {
  const int64_t heads = table.numbers.heads, rows = own(*table.shards.front()).outputs;
  std::vector<int64_t> ids;  // [rows, heads]
  ids.reserve(static_cast<size_t>(out.rows * heads));
  for (const SequenceRows& sequence : batch.sequences) {
    for (int32_t r = 0; r < sequence.row_count; ++r) {
      const auto token = [&](int64_t back) {
        if (back <= r) return batch.token_ids[static_cast<size_t>(sequence.first_row + r - back)];
        const int64_t position = sequence.context_length + r - back;
        return position < 0 ? -1 : sequence.tokens[static_cast<size_t>(position)];
      };
      for (int64_t head = 0; head < heads; ++head) ids.push_back(ngram_row(table.numbers, head, token));
    }
  }
  counted(Op::embed, own(*table.shards.front()).format);
  const Rows entries = out.reshaped(out.width / heads);
  for_rows(entries.rows, entries.width, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const int64_t id = ids[static_cast<size_t>(r)];
      const CpuWeight& weight = own(*table.shards[static_cast<size_t>(id / rows)]);
      const Panel entry = {.output = id % rows, .outputs = 1, .input = 0, .inputs = entries.width};
      weight.widen(kernels_, entry, row(entries, r), entries.width);
    }
  });
}

void CpuBackend::rms_norm(Rows x, const Weight& weight, float eps, Rows out) {
  counted(Op::rms_norm, Format::f32);
  const float* const scale = own(weight).floats();
  const int64_t norms = own(weight).outputs / x.width;
  write_rows(out, [&](int64_t r, float* to) {
    kernels_.rms_norm(row(x, r), scale + r % norms * x.width, eps, x.width, to);
  });
}

void CpuBackend::rope_angles(const RopeTable& table, std::span<const std::array<int32_t, 3>> positions,
                             Rows out) {
  const int64_t half = out.width / 2;
  for_rows(out.rows, out.width * 16,
           [&](int64_t first, int64_t last) {  // a cosine costs many multiplications
             for (int64_t r = first; r < last; ++r) {
               float* const angles = row(out, r);
               for (int64_t i = 0; i < half; ++i) {
                 const size_t pair = static_cast<size_t>(i);
                 const int32_t position = positions[static_cast<size_t>(r)][table.axis[pair]];
                 // The angle is rounded to float as in transformers; its cosine and sine are then exact to
                 // the last bit.
                 const double angle = static_cast<float>(position) * table.inverse_frequencies[pair];
                 angles[i] = static_cast<float>(std::cos(angle)) * table.scale;
                 angles[half + i] = static_cast<float>(std::sin(angle)) * table.scale;
               }
             }
           });
}

void CpuBackend::rope(Rows x, int64_t head_dim, Rows angles) {
  counted(Op::rope, Format::f32);
  const int64_t half = angles.width / 2;
  for_rows(x.rows, x.width, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float* const cosines = row(angles, r);
      kernels_.rope(row(x, r), x.width / head_dim, head_dim, cosines, cosines + half, half);
    }
  });
}

void CpuBackend::silu_mul(Rows gate, Rows up, Rows out) {
  counted(Op::silu_mul, Format::f32);
  write_rows(out, [&](int64_t r, float* to) { kernels_.silu_mul(row(gate, r), row(up, r), out.width, to); });
}

void CpuBackend::sigmoid_mul(Rows gate, Rows x, Rows out) {
  write_rows(out,
             [&](int64_t r, float* to) { kernels_.sigmoid_mul(row(gate, r), row(x, r), out.width, to); });
}

void CpuBackend::split(Rows x, int64_t groups, std::span<const SplitPart> parts) {
  for_rows(x.rows, x.width, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float* from = row(x, r);
      for (int64_t group = 0; group < groups; ++group) {
        for (const SplitPart& part : parts) {
          std::memcpy(row(part.out, r) + part.column + group * part.width, from,
                      static_cast<size_t>(part.width) * sizeof(float));
          from += part.width;
        }
      }
    }
  });
}

void CpuBackend::gather(Rows x, std::span<const int32_t> rows, Rows out) {
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(row(out, static_cast<int64_t>(i)), row(x, rows[i]),
                static_cast<size_t>(x.width) * sizeof(float));
  }
}

void CpuBackend::scatter_add(Rows x, std::span<const int32_t> rows, float scale, Rows out) {
  for_rows(x.rows, x.width, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      float* const to = row(out, rows[static_cast<size_t>(i)]);
      const float* const from = row(x, i);
      for (int64_t n = 0; n < x.width; ++n) to[n] += scale * from[n];
    }
  });
}

void CpuBackend::sample(Rows logits, std::span<const SampleArgs> args, std::span<SampledRow> out) {
  for (size_t i = 0; i < args.size(); ++i) {
    counted(Op::sample, Format::f32);
    sampler_.sample({row(logits, args[i].row), static_cast<size_t>(logits.width)}, args[i], out[i]);
  }
}

std::span<float> CpuBackend::host(Rows x, std::vector<float>&) {
  return {static_cast<float*>(x.data), static_cast<size_t>(x.rows * x.width)};
}

}  // namespace cpu
}  // namespace qwen
