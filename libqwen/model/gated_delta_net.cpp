#include "model/gated_delta_net.h"

#include <array>

#include "base/error.h"
#include "model/weight_loader.h"

namespace qwen {

void GatedDeltaNet::declare(WeightLoader& loader, const ModelConfig& config, std::string_view prefix) {
  const GatedDeltaShape& shape = *config.gated_delta;
  const int64_t hidden = config.hidden_size, values = shape.value_heads * shape.value_dim;
  const auto name = [&](std::string_view tail) { return cat(prefix, "linear_attn.", tail); };
  // Value heads of `width` outputs from `first` on, as the file has them.
  const auto heads = [&](int64_t first, int64_t width, bool of_inputs = false) {
    std::optional<TiledHeads> tiled;
    if (shape.tiled_value_heads)
      tiled = {first, shape.key_heads, shape.value_heads / shape.key_heads, width, of_inputs};
    return tiled;
  };
  if (config.grouped_projections && !loader.has(name("in_proj_qkv.weight"))) {
    qkvz_proj = loader.linear(name("in_proj_qkvz"), shape.channels() + values, hidden);
  } else {
    qkv_proj = loader.linear(name("in_proj_qkv"), shape.channels(), hidden,
                             heads(shape.channels() - values, shape.value_dim));
    z_proj = loader.linear(name("in_proj_z"), values, hidden, heads(0, shape.value_dim));
  }
  if (config.grouped_projections) {
    ba_proj = loader.linear(name("in_proj_ba"), 2 * shape.value_heads, hidden);
  } else {
    b_proj = loader.linear(name("in_proj_b"), shape.value_heads, hidden, heads(0, 1));
    a_proj = loader.linear(name("in_proj_a"), shape.value_heads, hidden, heads(0, 1));
  }
  convolution = loader.convolution(name("conv1d.weight"), shape.channels(), shape.conv_kernel);
  a_log = loader.vector(name("A_log"), shape.value_heads);
  dt_bias = loader.vector(name("dt_bias"), shape.value_heads);
  norm = loader.vector(name("norm.weight"), shape.value_dim);
  out_proj = loader.linear(name("out_proj"), hidden, values, heads(0, shape.value_dim, true));
}

Rows GatedDeltaNet::input(const Step& step, const ModelConfig& config, int64_t rows) const {
  if (!config.grouped_projections)
    return input_rows(step, rows, config.hidden_size, {&qkv_proj, &z_proj, &b_proj, &a_proj});
  if (qkvz_proj) return input_rows(step, rows, config.hidden_size, {&qkvz_proj, &ba_proj});
  return input_rows(step, rows, config.hidden_size, {&qkv_proj, &z_proj, &ba_proj});
}

GatedDeltaNet::Inputs GatedDeltaNet::inputs(const Step& step, const ModelConfig& config, Rows h) const {
  const GatedDeltaShape& shape = *config.gated_delta;
  const auto rows = [&](int64_t width) { return step.workspace.rows(h.rows, width); };
  const Inputs to = {.qkv = rows(shape.channels()),
                     .z = rows(shape.value_heads * shape.value_dim),
                     .beta = rows(shape.value_heads),
                     .decay = rows(shape.value_heads)};
  if (!config.grouped_projections) {
    project(step, h, {{qkv_proj, to.qkv}, {z_proj, to.z}, {b_proj, to.beta}, {a_proj, to.decay}});
    return to;
  }
  const Rows ba = rows(2 * shape.value_heads);
  const Rows qkvz = qkvz_proj ? rows(to.qkv.width + to.z.width) : Rows{};
  if (qkvz_proj) {
    project(step, h, {{qkvz_proj, qkvz}, {ba_proj, ba}});
  } else {
    project(step, h, {{qkv_proj, to.qkv}, {z_proj, to.z}, {ba_proj, ba}});
  }
  const int64_t keys = shape.key_heads * shape.key_dim, heads = shape.value_heads / shape.key_heads;
  if (qkvz_proj)
    step.backend.split(
        qkvz, shape.key_heads,
        std::array{SplitPart{.width = shape.key_dim, .out = to.qkv},
                   SplitPart{.width = shape.key_dim, .out = to.qkv, .column = keys},
                   SplitPart{.width = heads * shape.value_dim, .out = to.qkv, .column = 2 * keys},
                   SplitPart{.width = heads * shape.value_dim, .out = to.z}});
  step.backend.split(
      ba, shape.key_heads,
      std::array{SplitPart{.width = heads, .out = to.beta}, SplitPart{.width = heads, .out = to.decay}});
  return to;
}

void GatedDeltaNet::forward(const Step& step, const ModelConfig& config, Rows h, Rows x,
                            bool accumulate) const {
  const auto& [backend, workspace, batch, caches, adapters, capture_hidden] = step;
  const GatedDeltaArgs args{.shape = *config.gated_delta, .group = group, .layer = index_in_group};
  CacheStorage& cache = *caches[static_cast<size_t>(group)];
  const Inputs in = inputs(step, config, h);
  const Rows qkv = workspace.rows(h.rows, args.shape.channels());
  const ConvolutionArgs window{.shape = {.channels = args.shape.channels(), .kernel = args.shape.conv_kernel},
                               .group = group,
                               .layer = index_in_group};
  backend.convolution(cache, batch, window, in.qkv, *convolution, qkv);
  const Rows mixed = workspace.rows(h.rows, in.z.width);
  backend.gated_delta(cache, batch, args,
                      {.qkv = qkv, .beta = in.beta, .decay = in.decay, .a_log = *a_log, .dt_bias = *dt_bias},
                      mixed);
  const Rows heads = mixed.reshaped(args.shape.value_dim);
  backend.rms_norm(heads, *norm, static_cast<float>(config.rms_norm_eps), heads);
  const Rows gated = input_rows(step, h.rows, mixed.width, {&out_proj});
  if (config.sigmoid_output_gate) {
    backend.sigmoid_mul(in.z, mixed, gated);
  } else {
    backend.silu_mul(in.z, mixed, gated);
  }
  project(step, gated, {{.linear = out_proj, .out = x, .accumulate = accumulate}});
}

}  // namespace qwen
