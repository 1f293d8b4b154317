// How a model gets its parameters: by published name, each checked for presence and shape before it is touched.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "backend/backend.h"
#include "checkpoint/quantized_tensor.h"
#include "checkpoint/tensor.h"
#include "model/linear.h"

namespace qwen {

// What stands before the names of a text model's tensors: nothing in a bare decoder, more in multimodal models.
inline constexpr std::string_view kTextPrefixes[] = {"", "model.", "model.language_model.",
                                                     "language_model.model.", "thinker.model."};

class WeightLoader {
 public:
  // backend nullptr: check only. A model's declaration is run twice, first to check every tensor, then to load them, so
  // that nothing is touched before everything is known to be right.
  // progress(bytes) is called after each tensor; it throws Error(cancelled) to stop.
  // quantization: how the matrices are kept that are not ordinary tensors; the models never see which.
  WeightLoader(const TensorSource& source, const std::optional<QuantizationConfig>& quantization,
               Backend* backend, std::function<void(size_t)> progress = nullptr);

  // name without the prefix: "layers.0.mlp.up_proj.weight". Files put "model.", "model.language_model.", … in front, or nothing.
  // Throws Error(invalid_file) naming the tensor: absent, wrong shape; (unsupported) dtype. A matrix may be
  // quantised: its parts ("….up_proj.qweight", "….scales", …) are found and checked instead.
  WeightPtr matrix(std::string_view name, int64_t out, int64_t in);
  WeightPtr vector(std::string_view name, int64_t size);
  // A matrix that adapters may change, in the decoder. name without ".weight": "layers.0.mlp.up_proj".
  Linear linear(std::string_view name, int64_t out, int64_t in,
                std::optional<TiledHeads> tiled = std::nullopt);
  // A norm's weight; zero_centred: the file holds it minus one.
  WeightPtr norm(std::string_view name, int64_t size, bool zero_centred);
  // [channels, 1, kernel], depthwise.
  WeightPtr convolution(std::string_view name, int64_t channels, int64_t kernel);
  // Rows [first, first + out) of matrix `index` in a stack [count, rows, in]; transposed: [count, in, rows].
  struct StackPart {
    int64_t count, rows, in;
    int64_t index, first, out;
    bool transposed;
  };
  WeightPtr stacked(std::string_view name, const StackPart& part);
  bool has(std::string_view name) const;
  // Throws Error(unsupported) if there is such a tensor, saying that it makes the model `what`.
  void refuse(std::string_view name, std::string_view what) const;
  // A list of integers (I64) that the configuration implies as a whole: what the file holds must be equal to it.
  void expect_integers(std::string_view name, std::span<const int64_t> values);
  // While one lives, names are of a part that stands beside the decoder: "mtp.".
  class Beside {
   public:
    Beside(WeightLoader& loader, std::string prefix) : loader_(loader), decoder_(loader.prefix_) {
      loader_.prefix_ = std::move(prefix);
      loader_.beside_ = true;
    }
    ~Beside() {
      loader_.prefix_ = decoder_;
      loader_.beside_ = false;
    }
    Beside(const Beside&) = delete;
    Beside& operator=(const Beside&) = delete;

   private:
    WeightLoader& loader_;
    std::string decoder_;
  };
  // lm_head.weight, which stands beside the decoder.
  WeightPtr head(int64_t out, int64_t in);
  bool has_head() const { return source_.find(head_name()) != nullptr; }
  // Not a bare decoder, as embedding models are.
  bool has_prefix() const { return !prefix_.empty(); }

  // [Linear::index]
  const std::vector<LinearShape>& linears() const { return linears_; }
  // Of the matrices as the model uses them, not of the words that they may be packed in.
  int64_t parameters() const { return parameters_; }
  // As stored.
  size_t bytes() const { return bytes_; }
  // Of those, what computing a token takes; nothing that stands beside the decoder but its head.
  ActiveWeights active(const ModelConfig& config) const;

 private:
  WeightPtr load_matrix(const std::string& name, int64_t out, int64_t in);
  const TensorView& find_shape(const std::string& name, const std::vector<int64_t>& shape) const;
  const TensorView& find(const std::string& name, const std::vector<int64_t>& shape, WeightUse use) const;
  WeightPtr load(const std::string& name, std::vector<int64_t> shape, WeightUse use);
  WeightPtr load(std::string_view name, const TensorView& tensor, WeightUse use);
  std::string head_name() const;
  std::string missing_hint(const std::string& name) const;
  void count(std::string_view name, int64_t parameters, size_t bytes);

  const TensorSource& source_;
  std::optional<QuantizationConfig> quantization_;
  Backend* backend_;
  std::function<void(size_t)> progress_;
  std::string prefix_;  // of the text model's names
  bool beside_ = false;
  std::vector<LinearShape> linears_;
  int64_t parameters_ = 0;
  size_t bytes_ = 0;
  // Parts of these that not every token is multiplied with.
  struct Part {
    int64_t parameters = 0, bytes = 0;
  };
  Part embeddings_, other_tables_, experts_, outside_;
};

}  // namespace qwen
