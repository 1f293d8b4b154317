// Any number of requests through one engine on the host's thread, a bounded number of them at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "engine/engine.h"

namespace qwen {

struct RequestStream {
  size_t count = 0;
  std::function<RequestInput(size_t index)> make;  // called in order, shortly before the request is submitted
  std::function<void(size_t index, const Request& request)> take;  // each that has ended well, in any order
  // How much is done, 0…1; called after each request and at least every 50 ms. False cancels. May be empty.
  std::function<bool(double fraction)> go_on;
  std::optional<int64_t> timeout_ms;  // for all together
};

// Blocks until all are done. In flight are as many as fill two steps, so that the engine never waits for the host, and those
// who share it wait for two steps at most; when its queue is full, this waits for room. Throws Error, and what make, take and
// go_on throw: the others are then cancelled. A failure of one request names its index.
void run(Engine& engine, const RequestStream& stream);

}  // namespace qwen
