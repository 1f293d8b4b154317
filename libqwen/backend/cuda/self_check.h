// Whether a GPU computes as these kernels take for granted. No kernel has met every GPU, driver and toolkit there is.
#pragma once

#include "backend/backend.h"

namespace qwen::cuda {

// Asks the backend for answers that the portable CPU backend, which is the naive twins of all kernels, gives too. Throws
// Error(internal) naming `gpu` and the operation where they differ. Milliseconds.
void check_answers(Backend& backend, std::string_view gpu);

}  // namespace qwen::cuda
