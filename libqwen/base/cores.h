// How much of the machine is this process's.
#pragma once

#include <filesystem>

namespace qwen {

// The cores that this thread, and those it starts, may use: its affinity mask, lowered by the tightest CPU quota of the control
// groups it is in (versions 1 and 2; part of a core counts as one); at least 1. root: where /proc and /sys are.
int usable_cores(const std::filesystem::path& root = "/");

}  // namespace qwen
