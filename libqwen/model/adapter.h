// A LoRA adapter (https://arxiv.org/abs/2106.09685): for some of a model's matrices W a product of two thin ones, so that rows
// that use it see W + scale B A.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "checkpoint/adapter_checkpoint.h"

namespace qwen {

// Heads of `width` outputs (or inputs) each, from output `first` on, that belong to groups of `per_group`: adapters have all
// of the first group, then all of the second, …; the model has the first of every group, then the second of every group, …
struct TiledHeads {
  int64_t first, groups, per_group, width;
  bool of_inputs = false;
};

// A matrix that adapters may change, by its name inside the text model: "layers.0.self_attn.q_proj".
struct LinearShape {
  std::string name;
  int64_t out, in;
  std::optional<TiledHeads> tiled = std::nullopt;
};

struct LowRank {
  WeightPtr a;  // [rank, in]; null: the adapter leaves this matrix as it is
  WeightPtr b;  // [out, rank]
  int64_t rank = 0;
  float scale = 0;
};

// Immutable once loaded. Whoever uses it holds it.
struct Adapter {
  int32_t id = 0;  // never given twice by an engine: what the cache knows it by. 0: no adapter
  std::string name, path;
  int64_t rank = 0;  // the largest
  int64_t parameters = 0;
  std::vector<LowRank> low_ranks;  // [Linear::index]
  // What the weights may lie in.
  std::shared_ptr<const TensorSource> tensors;
  std::vector<std::vector<std::byte>> reordered;
};

// The rows of a step that use an adapter, ascending.
struct AdapterRows {
  const Adapter* adapter;
  std::vector<int32_t> rows;
};

// Checks that every tensor of the adapter belongs to one of the model's matrices and fits it, and that none is missing, then
// loads them through `backend`. Throws Error naming the file and the tensor or key.
Adapter load_adapter(const AdapterCheckpoint& checkpoint, std::span<const LinearShape> linears,
                     Backend& backend);

}  // namespace qwen
