#include "model/model.h"

#include "base/error.h"
#include "model/decoder.h"
#include "model/weight_loader.h"

namespace qwen {
namespace {

std::shared_ptr<const Model> make_model(const ModelConfig& config, WeightLoader& loader) {
  for (const char* type : {"qwen2", "qwen3", "qwen2_moe", "qwen3_moe"})
    if (config.model_type == type) return make_decoder(config, loader);
  fail(Status::unsupported, "architecture ", quote(config.architecture), " is not supported by this version");
}

}  // namespace

std::shared_ptr<const Model> load_model(const ModelConfig& config, const TensorSource& tensors,
                                        Backend& backend, const std::function<void(double)>& progress) {
  WeightLoader check(tensors, config.quantization, nullptr);
  make_model(config, check);  // every tensor present with the right shape, before one is touched
  size_t done = 0;
  WeightLoader loader(tensors, config.quantization, &backend, [&](size_t bytes) {
    done += bytes;
    if (progress) progress(static_cast<double>(done) / static_cast<double>(check.bytes()));
  });
  return make_model(config, loader);
}

}  // namespace qwen
