#include "backend/cuda/cublas_lt.h"

#include <dlfcn.h>

#include <algorithm>
#include <bit>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace qwen::cuda {
namespace {

using lt::Status;

// CUDA 12's, before which versions were numbered otherwise.
constexpr size_t kOldest = 120000;

// Nothing to destroy, and never closed: what may run while the process ends finds it as it was.
struct Opened {
  bool usable = false;
  lt::Functions functions{};
};

Opened open_library() {
  Opened opened;
  const char* name = nullptr;
  void* library = nullptr;
  // One that the process has already (a wheel's, which torch brought) is found by these names too, wherever it lies.
  for (const char* each : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}) {
    library = dlopen(name = each, RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
  }
  constexpr std::string_view kConsequence = "; libqwen's own kernels multiply";
  if (library == nullptr) {
    log(LogLevel::info, "option 'strict' is 0, but there is no cuBLASLt (libcublasLt.so.13 or .12)",
        kConsequence);
    return opened;
  }
  const char* missing = nullptr;
  const auto find = [&](const char* symbol, auto& function) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, symbol));
    if (function == nullptr && missing == nullptr) missing = symbol;
  };
#define QWEN_LT_FIND(result, function, parameters) find("cublasLt" #function, opened.functions.function);
  QWEN_LT_FUNCTIONS(QWEN_LT_FIND)
#undef QWEN_LT_FIND
  if (missing != nullptr) {
    log(LogLevel::warning, name, " has no function ", missing, kConsequence);
    return opened;
  }
  const size_t version = opened.functions.GetVersion();
  if (version < kOldest) {
    log(LogLevel::warning, name, " is of version ", version, ", older than CUDA 12's", kConsequence);
    return opened;
  }
  log(LogLevel::info, "cuBLASLt ", version / 10000, ".", version / 100 % 100, ".", version % 100, " (", name,
      ") multiplies matrices by ", CublasLt::kLeastRows, " rows and more");
  opened.usable = true;
  return opened;
}

// Of all that it is given, a bias too, which its heuristic does not ask about.
constexpr size_t kAlignment = 16;

bool aligned(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % kAlignment == 0;
}

// Rows of prompts are of every number. An algorithm serves those up to the next quarter of a power of two: chosen for at most a
// quarter more rows than there are.
int64_t most_rows(int64_t rows) {
  const int64_t step =
      std::max<int64_t>(1, static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(rows))) / 4);
  return (rows + step - 1) / step * step;
}

// It had begun: what is in `out` nobody knows.
bool has_failed(Status status) {
  return status == Status::execution_failed || status == Status::internal_error ||
         status == Status::mapping_error;
}

}  // namespace

std::unique_ptr<CublasLt> CublasLt::open(const Device& device, Stream& stream) {
  static const Opened opened = open_library();
  return opened.usable ? std::make_unique<CublasLt>(opened.functions, device, stream) : nullptr;
}

CublasLt::~CublasLt() {
  if (handle_ == nullptr) return;
  try {
    stream_.lend([&](void*) {
      plans_.clear();
      lt_.Destroy(handle_);
    });
  } catch (const Error&) {  // its context is lost, and the handle with it
  }
}

// With the first product: an engine that never has so many rows takes nothing. Once only, however it ends.
bool CublasLt::begin() {
  if (std::exchange(tried_, true)) return handle_ != nullptr;
  try {
    memory_ = device_.allocate(kBytes, "cuBLASLt");
  } catch (const Error& error) {
    if (error.status() != qwen::Status::out_of_memory) throw;
    log(LogLevel::warning, error.message(), "; libqwen's own kernels multiply");
    return false;
  }
  Status status = Status::success;
  stream_.lend([&](void*) { status = lt_.Create(&handle_); });
  if (status == Status::success) return true;
  handle_ = nullptr;
  memory_ = {};
  log(LogLevel::warning, "cuBLASLt cannot begin on GPU ", device_.info().ordinal, " (",
      lt_.GetStatusName(status), "); libqwen's own kernels multiply");
  return false;
}

float* CublasLt::room() {
  return begin() ? reinterpret_cast<float*>(memory_.data() + kWorkspaceBytes) : nullptr;
}

bool CublasLt::multiply(const LtProduct& product) {
  // One alignment, which every algorithm is asked for.
  if (product.k % 8 != 0 || !aligned(product.x) || !aligned(product.weight) || !aligned(product.out) ||
      !aligned(product.bias) || !begin())
    return false;
  Plan& plan = this->plan(product);
  if (plan.refused) return false;
  const Status status = run(product, plan);
  if (status == Status::success) return true;
  plan.refused = true;
  const std::string what = cat("cuBLASLt's product of ", product.rows, " rows with a matrix of ",
                               product.outputs, " x ", product.k, ": ", lt_.GetStatusName(status));
  if (has_failed(status)) {
    stream_.check();  // where the GPU is lost, that is the reason
    fail(qwen::Status::internal, what, "; option 'strict' = 1 does without it");
  }
  log(LogLevel::warning, what, "; libqwen's own kernels multiply such");
  return false;
}

CublasLt::Plan& CublasLt::plan(const LtProduct& product) {
  const int64_t rows = most_rows(product.rows);
  const auto [found, is_new] =
      plans_.try_emplace(Shape{rows, product.outputs, product.k, product.bias != nullptr});
  Plan& plan = found->second;
  if (!is_new) return plan;
  Status status = Status::success;
  stream_.lend([&](void*) { status = choose(product, rows, plan); });
  plan.refused = status != Status::success;
  if (plan.refused)
    log(LogLevel::debug, "cuBLASLt has nothing for ", rows, " rows and a matrix of ", product.outputs, " x ",
        product.k, " (", lt_.GetStatusName(status), "); libqwen's own kernels multiply");
  return plan;
}

// Row-major matrices are column-major ones turned over: out' [outputs, rows] = op(weight' [k, outputs]) x' [k, rows], op transposing.
// Both operands run along k then, as tensor cores like it; a bias is one number for each row of out', as the epilogue wants it.
Status CublasLt::choose(const LtProduct& product, int64_t rows, Plan& plan) {
  Owned<lt::Preference> preference;
  Status status = Status::success;
  const auto call = [&](const auto& function, auto... arguments) {
    if (status == Status::success) status = function(arguments...);
  };
  const auto make = [&](auto& owned, const auto& destroy, const auto& create, auto... arguments) {
    call(create, &owned.made, arguments...);
    if (status == Status::success)
      owned.destroy = destroy;
    else
      owned.made = nullptr;
  };
  const auto set = [&](const auto& function, const auto& of, auto which, const auto& value) {
    if (status == Status::success) status = function(of, which, &value, sizeof(value));
  };
  const auto outputs = static_cast<uint64_t>(product.outputs), k = static_cast<uint64_t>(product.k),
             most = static_cast<uint64_t>(rows);
  make(plan.operation, lt_.MatmulDescDestroy, lt_.MatmulDescCreate, lt::ComputeType::f32,
       lt::DataType::r_32f);
  set(lt_.MatmulDescSetAttribute, plan.operation.made, lt::OperationAttribute::transpose_a,
      lt::Operation::transpose);
  if (product.bias != nullptr) {
    set(lt_.MatmulDescSetAttribute, plan.operation.made, lt::OperationAttribute::epilogue,
        lt::Epilogue::bias);
    set(lt_.MatmulDescSetAttribute, plan.operation.made, lt::OperationAttribute::bias, product.bias);
  }
  make(plan.weight, lt_.MatrixLayoutDestroy, lt_.MatrixLayoutCreate, lt::DataType::r_16bf, k, outputs,
       product.k);
  make(plan.x, lt_.MatrixLayoutDestroy, lt_.MatrixLayoutCreate, lt::DataType::r_16bf, k, most, product.k);
  make(plan.out, lt_.MatrixLayoutDestroy, lt_.MatrixLayoutCreate, lt::DataType::r_32f, outputs, most,
       product.outputs);
  plan.rows = rows;

  make(preference, lt_.MatmulPreferenceDestroy, lt_.MatmulPreferenceCreate);
  set(lt_.MatmulPreferenceSetAttribute, preference.made, lt::PreferenceAttribute::workspace_bytes,
      uint64_t{kWorkspaceBytes});
  for (const auto which : {lt::PreferenceAttribute::alignment_a, lt::PreferenceAttribute::alignment_b,
                           lt::PreferenceAttribute::alignment_c, lt::PreferenceAttribute::alignment_d})
    set(lt_.MatmulPreferenceSetAttribute, preference.made, which, uint32_t{kAlignment});
  lt::Found found = {};
  int count = 0;
  call(lt_.MatmulAlgoGetHeuristic, handle_, plan.operation.made, plan.weight.made, plan.x.made, plan.out.made,
       plan.out.made, preference.made, 1, &found, &count);
  if (status != Status::success) return status;
  if (count == 0) return Status::not_supported;
  plan.algorithm = found.algorithm;
  return found.state;
}

Status CublasLt::set_rows(Plan& plan, int64_t rows) {
  if (rows == plan.rows) return Status::success;
  plan.rows = -1;  // until both have them
  const auto columns = static_cast<uint64_t>(rows);
  for (const lt::Layout layout : {plan.x.made, plan.out.made})
    if (const Status status =
            lt_.MatrixLayoutSetAttribute(layout, lt::LayoutAttribute::columns, &columns, sizeof(columns));
        status != Status::success)
      return status;
  plan.rows = rows;
  return Status::success;
}

Status CublasLt::run(const LtProduct& product, Plan& plan) {
  Status status = set_rows(plan, product.rows);
  if (status == Status::success && product.bias != nullptr)  // of another layer than the last one's
    status = lt_.MatmulDescSetAttribute(plan.operation.made, lt::OperationAttribute::bias, &product.bias,
                                        sizeof(product.bias));
  if (status != Status::success) return status;
  const float alpha = 1, beta = product.accumulate ? 1 : 0;
  stream_.lend([&](void* stream) {
    status = lt_.Matmul(handle_, plan.operation.made, &alpha, product.weight, plan.weight.made, product.x,
                        plan.x.made, &beta, product.out, plan.out.made, product.out, plan.out.made,
                        &plan.algorithm, memory_.data(), kWorkspaceBytes, stream);
  });
  return status;
}

}  // namespace qwen::cuda
