// Of NVIDIA's cuBLASLt what is used here, as its manual has it (https://docs.nvidia.com/cuda/cublas/, "Using the cuBLASLt API"): neither its
// headers nor the library are there when this is built. The values are those of 12.x and 13.x; compared with the headers of 13.10.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qwen::cuda::lt {

enum class Status : int {  // cublasStatus_t
  success = 0,
  not_initialized = 1,
  alloc_failed = 3,
  invalid_value = 7,
  arch_mismatch = 8,
  mapping_error = 11,
  execution_failed = 13,
  internal_error = 14,
  not_supported = 15,
};

enum class DataType : int { r_32f = 0, r_16bf = 14 };  // cudaDataType_t
enum class ComputeType : int { f32 = 68 };             // cublasComputeType_t: products and sums in float32
enum class Operation : int32_t { none = 0, transpose = 1 };  // cublasOperation_t
enum class Epilogue : uint32_t { none = 1, bias = 4 };       // cublasLtEpilogue_t
enum class LayoutAttribute : int { columns = 3 };            // cublasLtMatrixLayoutAttribute_t: uint64_t
enum class OperationAttribute : int {                        // cublasLtMatmulDescAttributes_t
  transpose_a = 3,                                           // Operation
  epilogue = 7,                                              // Epilogue
  bias = 8,                                                  // const void*
};
enum class PreferenceAttribute : int {  // cublasLtMatmulPreferenceAttributes_t
  workspace_bytes = 1,                  // uint64_t, at most
  alignment_a = 5,                      // uint32_t, bytes at least; so the next three
  alignment_b = 6,
  alignment_c = 7,
  alignment_d = 8,
};

using Handle = struct OpaqueHandle*;
using Layout = struct OpaqueLayout*;
using Operator = struct OpaqueOperator*;  // cublasLtMatmulDesc_t
using Preference = struct OpaquePreference*;

struct Algorithm {  // cublasLtMatmulAlgo_t: may be copied
  uint64_t data[8];
};
struct Found {  // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

// The functions, by what follows cublasLt in their names. Matrices are column-major: d = alpha * op(a) * op(b) + beta * c.
#define QWEN_LT_FUNCTIONS(X)                                                                           \
  X(size_t, GetVersion, ())                                                                            \
  X(const char*, GetStatusName, (Status status))                                                       \
  X(Status, Create, (Handle * handle))                                                                 \
  X(Status, Destroy, (Handle handle))                                                                  \
  X(Status, MatrixLayoutCreate,                                                                        \
    (Layout * layout, DataType type, uint64_t rows, uint64_t columns, int64_t ld))                     \
  X(Status, MatrixLayoutDestroy, (Layout layout))                                                      \
  X(Status, MatrixLayoutSetAttribute,                                                                  \
    (Layout layout, LayoutAttribute which, const void* value, size_t bytes))                           \
  X(Status, MatmulDescCreate, (Operator * operation, ComputeType compute, DataType scale))             \
  X(Status, MatmulDescDestroy, (Operator operation))                                                   \
  X(Status, MatmulDescSetAttribute,                                                                    \
    (Operator operation, OperationAttribute which, const void* value, size_t bytes))                   \
  X(Status, MatmulPreferenceCreate, (Preference * preference))                                         \
  X(Status, MatmulPreferenceDestroy, (Preference preference))                                          \
  X(Status, MatmulPreferenceSetAttribute,                                                              \
    (Preference preference, PreferenceAttribute which, const void* value, size_t bytes))               \
  X(Status, MatmulAlgoGetHeuristic,                                                                    \
    (Handle handle, Operator operation, Layout a, Layout b, Layout c, Layout d, Preference preference, \
     int wanted, Found* found, int* count))                                                            \
  X(Status, Matmul,                                                                                    \
    (Handle handle, Operator operation, const void* alpha, const void* a, Layout of_a, const void* b,  \
     Layout of_b, const void* beta, const void* c, Layout of_c, void* d, Layout of_d,                  \
     const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void* stream))

struct Functions {
#define QWEN_LT_MEMBER(result, name, parameters) result(*name) parameters;
  QWEN_LT_FUNCTIONS(QWEN_LT_MEMBER)
#undef QWEN_LT_MEMBER
};

}  // namespace qwen::cuda::lt
