// The engine: one step-loop thread that computes the requests of any number of host threads together.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/options.h"
#include "base/thread.h"
#include "engine/adapter_table.h"
#include "engine/loaded_model.h"
#include "engine/request.h"
#include "engine/runner.h"
#include "engine/scheduler.h"
#include "engine/step_sampler.h"

namespace qwen {

// What one step was. The fields are those of qwen_step in qwen.h.
struct StepTrace {
  int64_t number = 0, sequences = 0, prompt_rows = 0, generate_rows = 0;
  int64_t running = 0, waiting = 0, preempted = 0, cache_blocks_used = 0;
  double schedule_seconds = 0, forward_seconds = 0, sample_seconds = 0;
};

struct EngineStats {
  int64_t running = 0, waiting = 0, finished = 0, steps = 0, prompt_tokens = 0, generated_tokens = 0,
          cached_tokens = 0;
  int64_t cache_blocks_total = 0, cache_blocks_used = 0, cache_bytes = 0;
};

class Engine {
 public:
  // trace is called after every step, on the step thread. Throws Error: bad options, out_of_memory.
  Engine(std::shared_ptr<const LoadedModel> loaded, const Options& options,
         std::function<void(const StepTrace&)> trace = nullptr);
  // Ends every request with Status::closed and stops the threads.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Checks the input against the model and the limits, and makes the request; submit() hands it to the step loop.
  // Throws Error: invalid_argument (empty or too long prompt, token out of range), busy, closed. Any thread.
  std::shared_ptr<Request> make_request(RequestInput input) const;
  void submit(const std::shared_ptr<Request>& request);
  // Takes no more requests and waits for those in flight. Throws Error(timeout) when some are left.
  void drain(int64_t timeout_ms);

  // What requests may name as their adapter. Any thread.
  void load_adapter(const std::filesystem::path& folder, std::string_view name);
  void unload_adapter(std::string_view name) { adapters_.unload(name); }
  const AdapterTable& adapters() const { return adapters_; }

  // While one lives, the destructor waits for it: for calls that use the engine more than once. What they submit then is
  // refused as closed.
  class Stay {
   public:
    explicit Stay(Engine& engine);
    ~Stay();
    Stay(const Stay&) = delete;
    Stay& operator=(const Stay&) = delete;

   private:
    Engine& engine_;
  };

  const LoadedModel& loaded() const { return *loaded_; }
  int threads() const { return threads_; }
  int64_t context_length() const { return context_length_; }
  int64_t max_batch_tokens() const { return max_batch_tokens_; }
  int64_t max_running() const { return max_running_; }
  const std::string& backend_name() const { return backend_name_; }
  EngineStats stats() const;                       // any thread
  std::vector<KernelCount> kernel_counts() const;  // any thread

 private:
  void step_loop() noexcept;
  // A step between its forward pass and its commit.
  struct Flight {
    ScheduledStep step;  // empty: none
    Rows logits;
    StepTrace trace;
  };
  void step() noexcept;
  void begin(Flight& flight, const std::function<ScheduledStep(ScheduledStep)>& schedule);
  void sample(Flight& flight);
  void commit(const ScheduledStep& step);
  void take_rows(const ScheduledStep& step, size_t index);
  void take_prompt_logprobs(const Sequence& sequence, int64_t rows, std::span<const float> logits) const;
  void publish(StepTrace trace = {}) noexcept;
  int64_t in_flight() const;

  std::shared_ptr<const LoadedModel> loaded_;
  int64_t context_length_ = 0;
  int64_t max_waiting_ = 0, max_batch_tokens_ = 0, max_running_ = 0;
  CacheSizes cache_;
  int threads_ = 0;
  std::string backend_name_;
  AdapterTable adapters_;

  // The step thread's own.
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<Runner> runner_;
  StepSampler sampler_;
  Flight flight_, next_;  // what is not in use keeps its memory
  bool steps_ahead_ = false;
  std::function<void(const StepTrace&)> trace_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable work_;
  Scheduler::Line inbox_;
  EngineStats stats_;
  int64_t waiting_requests_ = 0;  // in the inbox as well
  bool announcing_ = false;       // requests have ended, their last events are not out yet
  bool draining_ = false, closing_ = false;
  int threads_inside_ = 0;  // in drain(), or with a Stay
  std::condition_variable drained_;

  Thread thread_;  // last: starts when everything above is ready
};

}  // namespace qwen
