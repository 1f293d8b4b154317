// device = "auto" on the executor's machine: what it chooses, what it says of it, and that a choice it takes back leaves nothing; what
// an engine's cache takes of a GPU.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "engine/cache_sizes.h"
#include "engine/engine.h"
#include "host_device.h"

using namespace qwen;

namespace {

const std::filesystem::path kCheckpoints = QWEN_TEST_DATA "/../parity/data";

// The machine as a test wants it; what it was, behind the test.
struct MachineScope {
  host_cuda::Machine before = host_cuda::machine();
  ~MachineScope() { host_cuda::machine() = before; }
};

// What is logged while it lives.
struct Log {
  struct Line {
    LogLevel level;
    std::string text;
  };
  std::vector<Line> lines;
  Log() {
    set_log_sink(
        [](int32_t level, const char* message, size_t length, void* user) {
          static_cast<Log*>(user)->lines.push_back({static_cast<LogLevel>(level), {message, length}});
        },
        this, LogLevel::debug);
  }
  ~Log() { set_log_sink(nullptr, nullptr, LogLevel::error); }
  // Of the device, which is said once.
  Line choice() const {
    std::vector<Line> found;
    for (const Line& line : lines)
      if (line.text.starts_with("device 'auto' is ")) found.push_back(line);
    REQUIRE(found.size() == 1);
    return found[0];
  }
};

Options automatic(std::string_view dtype = "bf16") {
  Options options;
  options.set("device", std::string_view("auto"));
  options.set("dtype", dtype);
  return options;
}

std::string message(const auto& act, Status status) {
  try {
    act();
  } catch (const Error& error) {
    CHECK(error.status() == status);
    return error.message();
  }
  return "no error";
}

std::vector<double> progress;
bool cancels = false;
int32_t report(double fraction, void*) {
  progress.push_back(fraction);
  return cancels && fraction > 0.5;
}
void watch(Options& options) {
  progress.clear();
  options.set("progress", HostCallback{reinterpret_cast<void (*)()>(report), nullptr});
}

}  // namespace

TEST_CASE("auto is the first GPU, and the CPU where there is none") {
  const MachineScope scope;
  const auto folder = kCheckpoints / "qwen3_yarn";
  for (const int devices : {2, 0}) {
    host_cuda::machine().devices = devices;
    Log log;
    const auto loaded = open_model(folder, automatic());
    CHECK(loaded->device == (devices > 0 ? "cuda:0" : "cpu"));
    CHECK(log.choice().level == LogLevel::info);
    CHECK(log.choice().text ==
          (devices > 0 ? "device 'auto' is cuda:0, host executor" : "device 'auto' is the CPU: no GPU"));
    Options again = automatic();
    again.set("kv_cache_bytes", int64_t{1} << 20);
    CHECK(Engine(loaded, again).backend_name().starts_with(devices > 0 ? "cuda." : "cpu."));
    Options other;
    other.set("device", std::string_view(devices > 0 ? "cpu" : "cuda"));
    CHECK_THROWS_AS(Engine(loaded, other), Error);
  }
}

TEST_CASE("auto is the CPU where the model cannot be on the GPU, with a warning, and leaves nothing there") {
  const MachineScope scope;
  const size_t before = host_cuda::allocated_bytes();
  const auto warned = [&](const char* name, Options options) {
    const Log log;
    watch(options);
    const auto loaded = open_model(kCheckpoints / name, options);
    CHECK(loaded->device == "cpu");
    CHECK(host_cuda::allocated_bytes() == before);
    CHECK(std::is_sorted(progress.begin(), progress.end()));
    CHECK(progress.back() == 1);
    CHECK(log.choice().level == LogLevel::warning);
    return log.choice().text;
  };
  CHECK(warned("qwen3_gptq_int4_g32", automatic()).find("quantised weights on a GPU (host executor)") !=
        std::string::npos);

  const auto needed =
      static_cast<size_t>(open_model(kCheckpoints / "qwen3_yarn", automatic())->model->weight_bytes());
  host_cuda::machine().bytes = before + needed / 2;  // the check of a GPU has been done
  CHECK(warned("qwen3_yarn", automatic()).find("cannot allocate ") != std::string::npos);
  host_cuda::machine().bytes = before + 2 * needed;
  CHECK(warned("qwen3_yarn", automatic()).find("the CPU: a cache of ") != std::string::npos);
  host_cuda::machine().bytes = before + (size_t{1} << 30);
  Options large = automatic();
  large.set("kv_cache_bytes", int64_t{1} << 30);
  CHECK(warned("qwen3_yarn", large).find("a cache of 1073741824 bytes has no room ") != std::string::npos);
}

TEST_CASE("what is no matter of the device is an error, with auto too") {
  const size_t before = host_cuda::allocated_bytes();
  Options options = automatic();
  watch(options);
  cancels = true;
  CHECK(message([&] { open_model(kCheckpoints / "qwen3_yarn", options); }, Status::cancelled) ==
        "loading was cancelled by the host");
  cancels = false;
  CHECK(progress.back() < 1);  // and was not begun anew
  CHECK(host_cuda::allocated_bytes() == before);
  CHECK_THROWS_AS(open_model(kCheckpoints / "no such folder", options), Error);
}

TEST_CASE("a cache takes of a GPU what is free, but for a step and for others") {
  const MachineScope scope;
  const size_t before = host_cuda::allocated_bytes();
  Options options = automatic();
  options.set("device", std::string_view("cuda"));
  options.set("max_batch_tokens", int64_t{256});
  for (const char* name : {"qwen3_yarn", "qwen2_moe", "qwen3_5", "qwen4_exp"}) {
    CAPTURE(name);
    const auto loaded = open_model(kCheckpoints / name, options);
    const size_t weights = host_cuda::allocated_bytes() - before;
    // Room for some blocks more or less.
    int64_t blocks = 0;
    for (const size_t mebibytes : {120, 140, 160}) {
      host_cuda::machine().bytes = before + weights + (mebibytes << 20);
      Engine engine(loaded, options);
      const int64_t own = engine.stats().cache_bytes;
      CHECK(own < static_cast<int64_t>(mebibytes << 20));
      CHECK(engine.stats().cache_blocks_total >= blocks);
      blocks = engine.stats().cache_blocks_total;
      if (mebibytes > 120) continue;
      // The longest step there can be has room beside it.
      RequestInput input;
      for (int32_t i = 0; i < 300; ++i) input.prompt.push_back(i % 50);
      input.params.max_tokens = 2;
      input.queue = std::make_shared<EventQueue>();
      const auto request = engine.make_request(std::move(input));
      engine.submit(request);
      engine.drain(-1);
      CHECK(request->outcome().status == Status::ok);
    }
    host_cuda::machine().bytes = before + weights + (size_t{90} << 20);
    CHECK(message([&] { Engine(loaded, options); }, Status::out_of_memory)
              .find("beside the weights and the activations of a step") != std::string::npos);
    host_cuda::machine() = scope.before;
  }
}
