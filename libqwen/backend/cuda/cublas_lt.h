// Products of many rows by NVIDIA's cuBLASLt, where option 'strict' is 0: it knows a GPU's tensor cores best, and sums in an order of
// its own for every number of rows. It is opened when first asked for, never linked, and nobody need have it: what it does not
// multiply, the kernels of linear.h do.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "backend/cuda/cublas_lt_api.h"
#include "backend/cuda/device.h"

namespace qwen::cuda {

// out = x weight' + bias, or out += of it. Rows are dense and row-major, all of it is device memory.
struct LtProduct {
  const void* x = nullptr;       // bf16 [rows, k]
  const void* weight = nullptr;  // bf16 [outputs, k]
  const float* bias = nullptr;   // [outputs], null: none
  float* out = nullptr;          // [rows, outputs]
  int64_t rows = 0;
  int64_t k = 0;
  int64_t outputs = 0;
  bool accumulate = false;
};

// One engine's, on its stream. Threads as Stream.
class CublasLt {
 public:
  // From how many rows on its kernels are worth it. To be measured: nobody has yet (tests/benchmarks/gpu.md).
  static constexpr int64_t kLeastRows = 64;
  // Of the GPU's memory, taken with the first product: a workspace for sums that are cut along k, and room for both halves of
  // gated_linear().
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20, kRoomBytes = size_t{64} << 20;
  static constexpr size_t kBytes = kWorkspaceBytes + kRoomBytes;

  // Null where the machine has none; the log says which, once in a process.
  static std::unique_ptr<CublasLt> open(const Device& device, Stream& stream);
  CublasLt(const lt::Functions& functions, const Device& device, Stream& stream)
      : lt_(functions), device_(device), stream_(stream) {}
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // False: it is none of its products, or none that it can do or has the memory for; nothing was written. Throws Error(internal)
  // where the product was begun and failed.
  bool multiply(const LtProduct& product);
  // kRoomBytes for its caller, once multiply() has been true; nullptr: there is no memory for it.
  float* room();

 private:
  template <class T>
  struct Owned {  // what one of its functions makes, and another destroys
    T made = nullptr;
    lt::Status (*destroy)(T) = nullptr;
    Owned() = default;
    Owned(const Owned&) = delete;
    Owned& operator=(const Owned&) = delete;
    ~Owned() {
      if (made != nullptr) destroy(made);
    }
  };
  // What an algorithm is chosen by: rows up to a number, [outputs, k], whether there is a bias.
  using Shape = std::array<int64_t, 4>;
  struct Plan {
    bool refused = true;
    Owned<lt::Operator> operation;
    Owned<lt::Layout> weight, x, out;
    lt::Algorithm algorithm = {};
    int64_t rows = 0;  // that x and out have now
  };

  bool begin();
  Plan& plan(const LtProduct& product);
  lt::Status choose(const LtProduct& product, int64_t rows, Plan& plan);
  lt::Status set_rows(Plan& plan, int64_t rows);
  lt::Status run(const LtProduct& product, Plan& plan);

  const lt::Functions& lt_;
  const Device& device_;
  Stream& stream_;
  bool tried_ = false;
  lt::Handle handle_ = nullptr;
  Memory memory_;
  std::map<Shape, Plan> plans_;
};

}  // namespace qwen::cuda
