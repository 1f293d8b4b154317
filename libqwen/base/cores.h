// How much of the machine is this process's.
#pragma once

#include <string>

namespace qwen {

// The cores that this thread, and those it starts, may use: its affinity mask, lowered by the tightest CPU quota of the control
// groups it is in (versions 1 and 2; part of a core counts as one); at least 1. root: before /proc and /sys.
int usable_cores(const std::string& root = "");

}  // namespace qwen
