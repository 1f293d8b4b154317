#include "backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "backend/cuda/elementwise.h"
#include "backend/cuda/embed.h"
#include "backend/cuda/rms_norm.h"
#include "backend/cuda/self_check.h"
#include "base/error.h"

namespace qwen {

std::unique_ptr<Backend> create_cuda_backend(const CudaOptions& options) {
  // [precision] a bit of each GPU that has passed.
  static std::atomic<uint64_t> checked[2];
  std::atomic<uint64_t>& of_precision = checked[static_cast<size_t>(options.precision)];
  const uint64_t bit = options.device < 64 ? uint64_t{1} << options.device : 0;
  if (options.check && (of_precision & bit) == 0) {
    CudaOptions strict = options;  // bits are asked for
    strict.strict = true;
    cuda::CudaBackend asked(strict);
    cuda::check_answers(asked, asked.gpu_name());
    of_precision |= bit;
  }
  return std::make_unique<cuda::CudaBackend>(options);
}

bool has_cuda_backend() {
  return true;
}

GpuOffer find_gpu() {
  const cuda::Gpus gpus = cuda::find_gpus();
  std::string why_none = gpus.why_none;
  for (int i = 0; i < gpus.count; ++i) {
    try {
      return {i, cuda::Device(i).info().name, LogLevel::info};
    } catch (const Error& error) {
      why_none += cat(i == 0 ? "" : "; ", error.message());
    }
  }
  return {-1, why_none, gpus.level};
}

namespace cuda {
namespace {

float* floats(const Rows& x) {
  return static_cast<float*>(x.data);
}

int64_t size(const Rows& x) {
  return x.rows * x.width;
}

Element element_of(const Rows& x) {
  return x.form == Form::operand ? Element::bf16 : Element::f32;
}

std::string_view element_name(size_t element) {
  return element == static_cast<size_t>(Element::f32) ? "f32" : "bf16";
}

}  // namespace

CudaBackend::CudaBackend(const CudaOptions& options)
    : device_(options.device),
      precision_(options.precision),
      stream_(device_.create_stream(options.dependent_launches)),
      uploader_(device_, precision_, options.threads),
      library_(options.strict || precision_ != Precision::bf16 ? nullptr
                                                               : CublasLt::open(device_, *stream_)) {}

CudaBackend::~CudaBackend() {
  stream_->finish();
}

std::string CudaBackend::gpu_name() const {
  return cat("GPU ", device_.info().ordinal, " (", device_.info().name, ")");
}

std::string CudaBackend::name() const {
  return cat("cuda.sm_", device_.info().major, device_.info().minor);
}

std::vector<KernelCount> CudaBackend::kernel_counts() const {
  static constexpr const char* kOps[] = {"embed",    "linear",   "attention", "rms_norm",    "rope",
                                         "store_kv", "silu_mul", "moe",       "convolution", "gated_delta",
                                         "indexer",  "sample",   "host"};
  static_assert(std::size(kOps) == static_cast<size_t>(Op::count));
  std::vector<KernelCount> counts;
  for (size_t i = 0; i < counts_.size(); ++i)
    counts.push_back({cat(kOps[i / kElements], ".", element_name(i % kElements), ".sm_", device_.info().major,
                          device_.info().minor),
                      counts_[i].load(std::memory_order_relaxed)});
  if (library_) counts.push_back({"linear.cublas_lt", by_library_.load(std::memory_order_relaxed)});
  counts.push_back({"step.captured", captures_.load(std::memory_order_relaxed)});
  counts.push_back({"step.replayed", replays_.load(std::memory_order_relaxed)});
  counts.push_back({"step.ahead", ahead_.load(std::memory_order_relaxed)});
  counts.push_back({"step.dependent_launches", stream_->dependent_launches()});
  return counts;
}

// A sixteenth of the GPU's memory stays for others that use it and for what the driver takes later (code of kernels, their stacks);
// besides a step's activations there is what attention() and the rounding of activations need, and cuBLASLt.
CacheRoom CudaBackend::cache_room(int64_t step_bytes) const {
  constexpr int64_t kScratch = int64_t{96} << 20;
  const auto free = static_cast<int64_t>(device_.free_bytes()),
             others = static_cast<int64_t>(device_.info().total_bytes / 16),
             library = static_cast<int64_t>(library_ ? CublasLt::kBytes : 0);
  return {.bytes = std::max<int64_t>(1, free - others - kScratch - library - step_bytes), .own = true};
}

void CudaBackend::missing(std::string_view what) const {
  fail(Status::unsupported, "this version has no ", what, " on a GPU (", device_.info().name,
       "); option 'device' = 'cpu' has it");
}

WeightPtr CudaBackend::load(const QuantizedTensor&) {
  missing("multiplication by quantised weights");
}

std::unique_ptr<Workspace> CudaBackend::create_workspace() {
  return std::make_unique<CudaWorkspace>(device_, *stream_);
}

size_t CudaBackend::cache_block_bytes(const CacheGroupSpec& spec) const {
  if (spec.recurrent()) return CudaStateCache::block_bytes(spec);
  return CudaCache::block_bytes(spec, cache_element());
}

std::unique_ptr<CacheStorage> CudaBackend::create_cache(const CacheGroupSpec& spec, int64_t blocks) {
  if (spec.recurrent()) return std::make_unique<CudaStateCache>(device_, spec, blocks);
  return std::make_unique<CudaCache>(device_, *stream_, spec, blocks, cache_element());
}

Form CudaBackend::input_form(int64_t, std::span<const Weight* const> weights) const {
  for (const Weight* weight : weights)
    if (!takes_operand(*weight)) return Form::plain;
  return Form::operand;
}

void CudaBackend::embed(const Weight& table, std::span<const int32_t> ids, Rows out) {
  const CudaWeight& weight = own(table);
  counted(Op::embed, weight.element);
  cuda::embed(*stream_, EmbedArgs{.table = weight.memory.data(),
                                  .element = weight.element,
                                  .ids = put(ids_, ids),
                                  .rows = out.rows,
                                  .width = out.width,
                                  .out = floats(out)});
}

void CudaBackend::embed_ngrams(const NgramTable& table, const Batch& batch, Rows out) {
  const CudaWeight& first = own(*table.shards.front());
  counted(Op::embed, first.element);
  NgramNumbers numbers = table.numbers;
  if (const int64_t tail = numbers.tokens() - 1; tail > step_.tail()) {
    step_.list_tails(tail);
    other_.list_tails(tail);
    graphs_are_void_ = true;  // what follows the tails in StepArrays moves
    if (step_.are_of(batch)) put_step(batch);
  }
  NgramArrays& kept = ngrams_[table.shards.data()];
  std::vector<const void*> shards;
  for (const WeightPtr& shard : table.shards) shards.push_back(own(*shard).memory.data());
  std::vector<int64_t> all(numbers.multipliers, numbers.multipliers + numbers.tokens());
  all.insert(all.end(), numbers.vocab_sizes, numbers.vocab_sizes + numbers.heads);
  all.insert(all.end(), numbers.offsets, numbers.offsets + numbers.heads);
  numbers.multipliers = put_once(kept.numbers, std::span<const int64_t>(all));
  numbers.vocab_sizes = numbers.multipliers + numbers.tokens();
  numbers.offsets = numbers.vocab_sizes + numbers.heads;
  const StepArrays& arrays = arrays_of(batch);
  cuda::embed_ngrams(*stream_, {.shards = put_once(kept.shards, std::span<const void* const>(shards)),
                                .shard_entries = first.outputs,
                                .element = first.element,
                                .numbers = numbers,
                                .batch = arrays.paged(0),
                                .ids = static_cast<const int32_t*>(arrays.find(batch.token_ids.data())),
                                .tails = arrays.tails(),
                                .tail = arrays.tail(),
                                .width = out.width / numbers.heads,
                                .out = floats(out)});
}

void CudaBackend::rms_norm(Rows x, const Weight& weight, float eps, Rows out) {
  counted(Op::rms_norm, Element::f32);
  cuda::rms_norm(*stream_, {.x = floats(x),
                            .weight = own(weight).floats(),
                            .norms = own(weight).outputs / x.width,
                            .rows = x.rows,
                            .width = x.width,
                            .eps = eps,
                            .out = out.data,
                            .out_element = element_of(out)});
}

// The rows as tensor cores take them, rounded here if nobody has done it before.
const void* CudaBackend::as_operand(Rows x) {
  if (x.form == Form::operand) return x.data;
  void* const rounded =
      operand_.get(device_, *stream_, static_cast<size_t>(size(x)) * sizeof(uint16_t), "rounded activations");
  to_operand(*stream_, floats(x), size(x), static_cast<uint16_t*>(rounded));
  return rounded;
}

// Precision, weight and `exact` decide how a product is summed: never how many rows there are, where it is strict.
void CudaBackend::linear(Rows x, std::span<const Projection> projections) {
  const auto is = [&](const Projection& p, bool operand, Element element) {
    return (!p.exact && takes_operand(*p.weight)) == operand && own(*p.weight).element == element;
  };
  std::vector<Projection> some;
  for (const auto& [operand, element] :
       {std::pair{true, Element::bf16}, {false, Element::bf16}, {false, Element::f32}}) {
    some.clear();
    for (const Projection& p : projections)
      if (is(p, operand, element)) some.push_back(p);
    if (operand && !some.empty() && lends(x.rows)) {
      const void* const rounded = as_operand(x);
      std::erase_if(some, [&](const Projection& p) {
        return multiply_by_library({.x = rounded,
                                    .weight = own(*p.weight).memory.data(),
                                    .bias = p.bias != nullptr ? own(*p.bias).floats() : nullptr,
                                    .out = floats(p.out),
                                    .rows = x.rows,
                                    .k = x.width,
                                    .outputs = p.out.width,
                                    .accumulate = p.accumulate});
      });
    }
    for (size_t first = 0; first < some.size(); first += kMostProjections)
      multiply(x, std::span(some).subspan(first, std::min<size_t>(kMostProjections, some.size() - first)),
               operand, element);
  }
}

// A step that has one is not captured, even if all its rows are generated: what a library does meanwhile is not ours to keep.
bool CudaBackend::multiply_by_library(const LtProduct& product) {
  if (!library_->multiply(product)) return false;
  repeats_ = false;
  by_library_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

// Both halves for as many rows at a time as there is room for them.
bool CudaBackend::gate_by_library(const GatedLinearArgs& args) {
  float* const gate = library_->room();
  if (gate == nullptr) return false;
  const auto width = args.outputs;
  const int64_t at_once =
      std::max<int64_t>(1, static_cast<int64_t>(CublasLt::kRoomBytes / sizeof(float)) / (2 * width));
  const int64_t pieces = (args.rows + at_once - 1) / at_once, each = (args.rows + pieces - 1) / pieces;
  for (int64_t first = 0; first < args.rows; first += each) {
    const int64_t rows = std::min(each, args.rows - first);
    float* const up = gate + rows * width;
    LtProduct product{.x = static_cast<const uint16_t*>(args.x) + first * args.k,
                      .weight = args.gate,
                      .out = gate,
                      .rows = rows,
                      .k = args.k,
                      .outputs = width};
    if (!multiply_by_library(product)) return false;
    product.weight = args.up;
    product.out = up;
    if (!multiply_by_library(product)) return false;
    cuda::silu_mul(*stream_, gate, up, rows * width,
                   static_cast<std::byte*>(args.out) + first * width * element_bytes(args.out_element),
                   args.out_element);
  }
  return true;
}

void CudaBackend::multiply(Rows x, std::span<const Projection> projections, bool as_operands,
                           Element element) {
  if (!as_operands && x.form == Form::operand)
    fail(Status::internal, "a product that is not rounded was given rounded rows");
  LinearArgs args{.x = as_operands ? as_operand(x) : x.data,
                  .x_element = as_operands ? Element::bf16 : Element::f32,
                  .weight_element = element,
                  .rows = x.rows,
                  .k = x.width,
                  .count = static_cast<int>(projections.size()),
                  .projections = {},
                  .multiprocessors = device_.info().multiprocessors};
  for (size_t i = 0; i < projections.size(); ++i) {
    const Projection& p = projections[i];
    counted(Op::linear, element);
    args.projections[i] = {.weight = own(*p.weight).memory.data(),
                           .bias = p.bias != nullptr ? own(*p.bias).floats() : nullptr,
                           .out = floats(p.out),
                           .outputs = p.out.width,
                           .accumulate = p.accumulate};
  }
  cuda::linear(*stream_, args);
}

void CudaBackend::gated_linear(Rows x, const Weight& gate, const Weight& up, Rows spare, Rows out) {
  const Element element = own(gate).element;
  if (element != own(up).element) {  // an operand as out needs two that take one, so there is a spare
    const Rows gated{out.data, out.rows, out.width};
    linear(x, std::array{Projection{.weight = &gate, .out = gated}, Projection{.weight = &up, .out = spare}});
    return silu_mul(gated, spare, out);
  }
  const bool as_operands = takes_operand(gate);
  const GatedLinearArgs args{.x = as_operands ? as_operand(x) : x.data,
                             .x_element = as_operands ? Element::bf16 : Element::f32,
                             .weight_element = element,
                             .rows = x.rows,
                             .k = x.width,
                             .gate = own(gate).memory.data(),
                             .up = own(up).memory.data(),
                             .outputs = out.width,
                             .out = out.data,
                             .out_element = element_of(out),
                             .multiprocessors = device_.info().multiprocessors};
  if (as_operands && lends(x.rows) && gate_by_library(args)) return;
  counted(Op::linear, element);
  counted(Op::linear, element);
  cuda::gated_linear(*stream_, args);
}

void CudaBackend::rope_angles(const RopeTable& table, std::span<const std::array<int32_t, 3>> positions,
                              Rows out) {
  cuda::rope_angles(*stream_, {.inverse_frequencies =
                                   put_once(frequencies_, std::span<const float>(table.inverse_frequencies)),
                               .axis = put_once(axes_, std::span<const uint8_t>(table.axis)),
                               .positions = reinterpret_cast<const int32_t*>(put(positions_, positions)),
                               .scale = table.scale,
                               .rows = out.rows,
                               .half = out.width / 2,
                               .out = floats(out)});
}

void CudaBackend::rope(Rows x, int64_t head_dim, Rows angles) {
  counted(Op::rope, Element::f32);
  cuda::rope(*stream_, floats(x), x.rows, x.width / head_dim, head_dim, floats(angles), angles.width / 2);
}

void CudaBackend::silu_mul(Rows gate, Rows up, Rows out) {
  counted(Op::silu_mul, Element::f32);
  cuda::silu_mul(*stream_, floats(gate), floats(up), size(out), out.data, element_of(out));
}

void CudaBackend::sigmoid_mul(Rows gate, Rows x, Rows out) {
  cuda::sigmoid_mul(*stream_, floats(gate), floats(x), size(out), out.data, element_of(out));
}

void CudaBackend::split(Rows x, int64_t groups, std::span<const SplitPart> parts) {
  int64_t first = 0;
  for (const SplitPart& part : parts) {
    cuda::split(*stream_, {.x = floats(x),
                           .rows = x.rows,
                           .groups = groups,
                           .group_width = x.width / groups,
                           .first = first,
                           .width = part.width,
                           .out = floats(part.out),
                           .out_width = part.out.width,
                           .column = part.column});
    first += part.width;
  }
}

void CudaBackend::add(Rows x, const Rows* gate, Rows out) {
  cuda::add(*stream_, floats(x), gate != nullptr ? floats(*gate) : nullptr, x.rows, x.width, floats(out));
}

void CudaBackend::silu(Rows x, float factor, Rows out) {
  cuda::silu(*stream_, floats(x), factor, size(x), floats(out));
}

void CudaBackend::mean_of_streams(Rows x, Rows out) {
  cuda::mean_of_streams(*stream_, floats(x), x.rows, x.width / out.width, out.width, floats(out));
}

void CudaBackend::add_to_streams(Rows h, Rows gate, Rows x) {
  cuda::add_to_streams(*stream_, floats(h), floats(gate), x.rows, gate.width, h.width, floats(x));
}

void CudaBackend::gate_streams(Rows key, Rows query, Rows value, Rows out) {
  cuda::gate_streams(*stream_, floats(key), floats(query), floats(value), out.rows, out.width / value.width,
                     value.width, floats(out));
}

void CudaBackend::gather(Rows x, std::span<const int32_t> rows, Rows out) {
  cuda::gather(*stream_, floats(x), put(indices_, rows), static_cast<int64_t>(rows.size()), x.width,
               floats(out));
}

void CudaBackend::scatter_add(Rows x, std::span<const int32_t> rows, float scale, Rows out) {
  cuda::scatter_add(*stream_, floats(x), put(indices_, rows), static_cast<int64_t>(rows.size()), x.width,
                    scale, floats(out));
}

std::span<float> CudaBackend::host(Rows x, std::vector<float>& copy) {
  copy.resize(static_cast<size_t>(size(x)));
  counted(Op::host, Element::f32);
  const std::byte* const read = read_back(x.data, copy.size() * sizeof(float));
  if (!copy.empty()) std::memcpy(copy.data(), read, copy.size() * sizeof(float));
  return copy;
}

const std::byte* CudaBackend::read_back(const void* from, size_t bytes) {
  if (bytes > readback_.size()) {
    readback_ = {};
    readback_ = device_.allocate_pinned(bytes + bytes / 2, "reading results");
  }
  if (bytes > 0) stream_->to_host(readback_.data(), from, bytes);
  stream_->synchronize();  // of a step without results too: what it failed of is its own error
  return readback_.data();
}

}  // namespace cuda
}  // namespace qwen
