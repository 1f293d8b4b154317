// How a model gets its parameters: by published name, each checked for presence and shape before it is
// touched.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "backend/backend.h"
#include "checkpoint/tensor.h"

namespace qwen {

class WeightLoader {
 public:
  // backend nullptr: check only. A model's declaration is run twice, first to check every tensor, then to
  // load them, so that nothing is touched before everything is known to be right. progress(bytes) is called
  // after each tensor; it throws Error(cancelled) to stop.
  WeightLoader(const TensorSource& source, Backend* backend, std::function<void(size_t)> progress = nullptr);

  // name without the prefix: "layers.0.mlp.up_proj.weight". Most files put "model." in front, some do not.
  // Throws Error(invalid_file) naming the tensor: absent, wrong shape; (unsupported) dtype.
  WeightPtr matrix(std::string_view name, int64_t out, int64_t in);
  WeightPtr vector(std::string_view name, int64_t size);
  // lm_head.weight, which never carries the prefix.
  WeightPtr head(int64_t out, int64_t in);
  bool has_head() const { return source_.find("lm_head.weight") != nullptr; }
  bool has_prefix() const { return !prefix_.empty(); }

  int64_t parameters() const { return parameters_; }
  size_t bytes() const { return bytes_; }

 private:
  WeightPtr load(const std::string& name, std::vector<int64_t> shape, WeightUse use);

  const TensorSource& source_;
  Backend* backend_;
  std::function<void(size_t)> progress_;
  std::string prefix_;
  int64_t parameters_ = 0;
  size_t bytes_ = 0;
};

}  // namespace qwen
