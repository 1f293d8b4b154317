#include "model/model.h"

#include "base/error.h"
#include "model/decoder.h"
#include "model/qwen4_exp.h"
#include "model/weight_loader.h"

namespace qwen {

Rows Model::forward_mtp(const Step&, std::span<const int32_t>, Rows) const {
  fail(Status::internal, "this model has no multi-token-prediction head");
}

namespace {

std::shared_ptr<const Model> make_model(const ModelConfig& config, const ModelParts& parts,
                                        WeightLoader& loader) {
  return config.qwen4_exp ? make_qwen4_exp(config, parts, loader) : make_decoder(config, parts, loader);
}

}  // namespace

std::shared_ptr<const Model> load_model(const ModelConfig& config, const ModelParts& parts,
                                        const TensorSource& tensors, Backend& backend,
                                        const std::function<void(double)>& progress,
                                        const std::function<void()>& before_reading) {
  WeightLoader check(tensors, config.quantization, nullptr);
  make_model(config, parts, check);  // every tensor present with the right shape, before one is touched
  if (before_reading) before_reading();
  size_t done = 0;
  WeightLoader loader(tensors, config.quantization, &backend, [&](size_t bytes) {
    done += bytes;
    if (progress) progress(static_cast<double>(done) / static_cast<double>(check.bytes()));
  });
  std::shared_ptr<const Model> model;
  backend.load_together([&] { model = make_model(config, parts, loader); });
  return model;
}

}  // namespace qwen
