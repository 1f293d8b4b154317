// The safetensors format (https://github.com/huggingface/safetensors): 8 bytes of little-endian header
// length, a JSON header {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, …}, then
// the bytes of all tensors, back to back. Inside checkpoint/ only; the rest of the library sees TensorSource.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "checkpoint/tensor.h"

namespace qwen {

// The format's own limit on a header. A 235B model's tensors need about 5 MB.
constexpr size_t kMaxHeaderBytes = 100'000'000;

// Every tensor of one file, sorted by name, after the complete header has been validated. The views borrow
// `file`.
std::vector<TensorView> read_safetensors_header(const MappedFile& file);

// Takes the files and their tensors (sorted by name, each name once).
std::shared_ptr<const TensorSource> make_file_tensor_source(std::vector<MappedFile> files,
                                                            std::vector<TensorView> tensors,
                                                            std::string description);

}  // namespace qwen
