// Qwen4-Exp's integers: which rows of its tables n-grams take, and that the file must agree with them.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/memory_tensors.h"
#include "model/model.h"
#include "model/ngram_hash.h"

using namespace qwen;

namespace {

const std::string kFolder = std::string(QWEN_TEST_DATA) + "/../parity/data/qwen4_exp";
constexpr int32_t kEos = 458;

using Rows64 = std::vector<int64_t>;

Rows64 rows(const NgramHash& hash, const std::vector<int32_t>& tokens) {
  Rows64 to;
  const auto token = [&](int64_t back) {
    return back < std::ssize(tokens) ? tokens[tokens.size() - 1 - static_cast<size_t>(back)] : -1;
  };
  for (int64_t head = 0; head < std::ssize(hash.vocab_sizes); ++head)
    to.push_back(ngram_row(hash.numbers(), head, token));
  return to;
}

// The folder's tensors, of which one has other bytes or a dtype of its own.
struct Changed {
  Checkpoint checkpoint = open_checkpoint(kFolder);
  std::vector<std::byte> bytes;
  MemoryTensors tensors{nullptr};

  template <class Change>
  Changed(const std::string& name, Change&& change, DType dtype = DType::i64) {
    for (const std::string& other : checkpoint.tensors->names()) {
      const TensorView& tensor = *checkpoint.tensors->find(other);
      if (other == name) {
        bytes.assign(tensor.data, tensor.data + tensor.bytes);
        change(bytes);
        tensors.add(other, dtype, tensor.shape, bytes.data(), bytes.size());
      } else {
        tensors.add(other, tensor.dtype, tensor.shape, tensor.data, tensor.bytes);
      }
    }
  }

  std::string error(Status status) const {
    try {
      load_model(checkpoint.config, {}, tensors, *create_cpu_backend({}));
    } catch (const Error& error) {
      CHECK(error.status() == status);
      return error.message();
    }
    return "no error";
  }
};

}  // namespace

TEST_CASE(
    "an n-gram's rows depend on its tokens alone, and none reaches beyond the text's beginning or eos") {
  const ModelConfig config = open_checkpoint(kFolder).config;
  const NgramHash hash(config, 0), other(config, 1);
  // transformers' _build_layer_multipliers and _find_nth_prime_after.
  CHECK(hash.vocab_sizes == Rows64{67, 71, 73, 79, 83, 89, 97, 101});
  CHECK(other.vocab_sizes == Rows64{103, 107, 109, 113, 127, 131, 137, 139});
  CHECK(hash.table_rows == 672);
  CHECK(hash.offsets[7] == 67 + 71 + 73 + 79 + 83 + 89 + 97);

  CHECK(rows(hash, {1, 2, 3, 4}) == rows(hash, {9, 2, 3, 4}));
  CHECK(rows(hash, {2, 3, 4}) == rows(hash, {9, 9, 9, 2, 3, 4}));
  // The first half are of bigrams.
  const Rows64 a = rows(hash, {5, 3, 4}), b = rows(hash, {6, 3, 4});
  CHECK(std::equal(a.begin(), a.begin() + 4, b.begin()));
  CHECK(!std::equal(a.begin() + 4, a.end(), b.begin() + 4));
  for (size_t head = 0; head < a.size(); ++head) {
    CHECK(a[head] >= hash.offsets[head]);
    CHECK(a[head] < hash.offsets[head] + hash.vocab_sizes[head]);
  }
  // Before the text and before an eos everything is eos; an eos at the end hides nothing.
  CHECK(rows(hash, {4}) == rows(hash, {7, 8, kEos, 4}));
  CHECK(rows(hash, {3, 4}) == rows(hash, {7, kEos, 3, 4}));
  CHECK(rows(hash, {7, kEos, 4}) == rows(hash, {4}));
  CHECK(rows(hash, {7, 3, kEos}) != rows(hash, {8, 3, kEos}));
}

TEST_CASE("integers of the file that config.json does not imply are an error that names the tensor") {
  const std::string stem = "model.language_model.layers.2.ple.ple_embedding.";
  for (const char* tail : {"layer_multipliers", "ngram_heads_offsets", "ngram_heads_vocab_sizes"}) {
    const Changed changed(stem + tail, [](auto& bytes) { bytes[8] ^= std::byte{1}; });
    const std::string message = changed.error(Status::invalid_file);
    CAPTURE(message);
    CHECK(message.find("element 1 of tensor '" + stem + tail + "' is ") != std::string::npos);
    CHECK(message.find("; config.json implies ") != std::string::npos);
  }
  const std::string name = stem + "layer_multipliers";
  const Changed other_type(
      name, [](auto&) {}, DType::u64);
  CHECK(other_type.error(Status::unsupported).find("tensor '" + name + "' is U64; it must be I64") !=
        std::string::npos);
  Changed parts(name, [](auto&) {});
  parts.checkpoint.config.qwen4_exp->split_ngram_parts = 5;
  CHECK(parts.error(Status::unsupported).find("split_ngram_parts (5)") != std::string::npos);
}
