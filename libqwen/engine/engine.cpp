#include "engine/engine.h"

#include <algorithm>
#include <utility>

#include "backend/logits.h"
#include "base/cores.h"
#include "base/error.h"
#include "base/log.h"
#include "engine/cache_sizes.h"

namespace qwen {
namespace {

double seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// The memory for the wanted tensors is had before anything is computed, and on the host's thread: too much of it is
// that request's error, and nobody else's.
void allocate_tensors(Request& request, const ModelConfig& config) {
  const WantedTensors& wanted = request.input().tensors;
  if (!wanted.any()) return;
  const int64_t rows = static_cast<int64_t>(request.input().prompt.size()) - wanted.first_row;
  const int64_t width =
      wanted.logits_of.empty() ? config.vocab_size : static_cast<int64_t>(wanted.logits_of.size());
  const int64_t logits = wanted.logits ? rows * width : 0;
  const int64_t mtp_logits = wanted.mtp_logits ? (rows - 1) * config.vocab_size : 0;
  const int64_t states = wanted.hidden_states ? config.num_hidden_layers + 1 : 0;
  int64_t hidden = 0;  // of a row, in all states
  for (int64_t i = 0; i < states; ++i) hidden += config.hidden_width(i);
  try {
    request.logits.resize(static_cast<size_t>(logits));
    request.mtp_logits.resize(static_cast<size_t>(mtp_logits));
    request.hidden_states.resize(static_cast<size_t>(states));
    for (int64_t i = 0; i < states; ++i)
      request.hidden_states[static_cast<size_t>(i)].resize(
          static_cast<size_t>(rows * config.hidden_width(i)));
    if (wanted.last_hidden) request.last_hidden.resize(static_cast<size_t>(config.hidden_size));
  } catch (const std::bad_alloc&) {
    fail(Status::out_of_memory, "the tensors of ", rows, " rows take ",
         static_cast<int64_t>(sizeof(float)) * (logits + mtp_logits + rows * hidden),
         " bytes, which this process cannot have; ask for fewer rows (first_rows)");
  }
}

}  // namespace

Engine::Engine(std::shared_ptr<const LoadedModel> loaded, const Options& options,
               std::function<void(const StepTrace&)> trace)
    : loaded_(std::move(loaded)), trace_(std::move(trace)) {
  const Model& model = *loaded_->model;
  CpuOptions cpu = resolve_cpu_options(options);
  if (options.str("dtype") && cpu.precision != loaded_->precision)
    fail(Status::invalid_argument, "option 'dtype' is '", *options.str("dtype"),
         "', but the model was opened as '", loaded_->precision == Precision::f32 ? "f32" : "bf16", "'");
  cpu.precision = loaded_->precision;
  const std::string device = resolve_device(options);
  if (options.str("device") && device != "auto" && device != loaded_->device)
    fail(Status::invalid_argument, "option 'device' is '", *options.str("device"),
         "', but the model was opened on '", loaded_->device, "'");
  if (cpu.threads == 0) cpu.threads = usable_cores();
  threads_ = cpu.threads;
  auto backend = create_backend(cpu, options, loaded_->device);
  backend_name_ = backend->name();

  const int64_t model_context = model.config().context_length();
  const int64_t wanted_context = options.i64_or_default("context_length");
  if (wanted_context > model_context)
    fail(Status::invalid_argument, "option 'context_length' is ", wanted_context, "; the model allows up to ",
         model_context);
  context_length_ = wanted_context > 0 ? wanted_context : model_context;
  max_waiting_ = options.i64_or_default("max_waiting");

  cache_ = cache_sizes(options, model, context_length_, *backend);
  stats_.cache_bytes = cache_bytes(model, *backend, cache_);
  steps_ahead_ =
      backend->works_behind() && !model.reads_tokens() && options.i64_or_default("cuda_step_ahead") != 0;
  runner_ = std::make_unique<Runner>(loaded_->model, std::move(backend), cache_,
                                     options.i64_or_default("cuda_graphs") != 0);
  SchedulerLimits limits{.max_batch_tokens = options.i64_or_default("max_batch_tokens"),
                         .max_running = options.i64_or_default("max_running"),
                         .prefix_cache = options.i64_or_default("prefix_cache") != 0};
  if (cache_.states > 0) limits.max_running = std::min(limits.max_running, cache_.states / 2);
  max_batch_tokens_ = limits.max_batch_tokens;
  max_running_ = limits.max_running;
  scheduler_ = std::make_unique<Scheduler>(model.cache_groups(), cache_, limits);
  stats_.cache_blocks_total = scheduler_->blocks_total();
  thread_ = Thread("qwen-step", [this] { step_loop(); });
}

Engine::~Engine() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  work_.notify_one();
  thread_.join();
  std::unique_lock lock(mutex_);
  drained_.wait(lock, [this] { return threads_inside_ == 0; });
}

Engine::Stay::Stay(Engine& engine) : engine_(engine) {
  const std::lock_guard lock(engine_.mutex_);
  if (engine_.closing_) fail(Status::closed, "the engine is being destroyed");
  ++engine_.threads_inside_;
}

Engine::Stay::~Stay() {
  const std::lock_guard lock(engine_.mutex_);
  --engine_.threads_inside_;
  engine_.drained_.notify_all();  // with the lock: behind it the engine may be gone
}

std::shared_ptr<Request> Engine::make_request(RequestInput input) const {
  const Model& model = *loaded_->model;
  const int64_t vocab_size = model.config().vocab_size;
  const auto size = static_cast<int64_t>(input.prompt.size());
  if (size == 0) fail(Status::invalid_argument, "the prompt is empty; it must hold at least one token");
  for (size_t i = 0; i < input.prompt.size(); ++i) {
    if (input.prompt[i] < 0 || input.prompt[i] >= vocab_size)
      fail(Status::invalid_argument, "token ", i, " of the prompt is ", input.prompt[i],
           "; the model's vocabulary is 0 to ", vocab_size - 1);
  }
  const bool generates = !input.tensors.any();
  if ((generates || input.tensors.logits) && !model.has_head())
    fail(Status::unsupported,
         "this checkpoint has no lm_head.weight: it is an embedding model, it gives hidden states but "
         "neither logits nor text");
  if (input.tensors.mtp_logits && !model.has_mtp_head())
    fail(Status::unsupported,
         "no multi-token-prediction head is loaded: create the engine with option 'mtp' = 1");
  if (input.tensors.mtp_logits && size - input.tensors.first_row < 2)
    fail(
        Status::invalid_argument,
        "multi-token-prediction logits of the last token need the token behind it: give at least two tokens");
  const int64_t room = std::min(context_length_, cache_.blocks * kCacheBlock);
  const auto limit = room < context_length_ ? cat(room, " tokens, what kv_cache_bytes has room for")
                                            : cat(room, " tokens, the context length");
  if (size + (generates ? 1 : 0) > room)
    fail(Status::invalid_argument, "the prompt has ", size,
         " tokens; prompt and answer together are limited to ", limit);
  const auto& max_tokens = input.params.max_tokens;
  if (generates && max_tokens && *max_tokens > room - size)
    fail(Status::invalid_argument, "the prompt has ", size, " tokens and max_tokens is ", *max_tokens,
         "; together they are limited to ", limit);
  const int64_t by_default = std::min(room - size, input.params.default_max_tokens.value_or(room));
  const int64_t resolved = generates ? max_tokens.value_or(by_default) : 0;
  auto request = std::make_shared<Request>(std::move(input), loaded_->tokenizer);
  request->max_tokens = resolved;
  allocate_tensors(*request, model.config());
  return request;
}

void Engine::load_adapter(const std::filesystem::path& folder, std::string_view name) {
  adapters_.load(folder, name, *loaded_->model, runner_->backend());
}

void Engine::submit(const std::shared_ptr<Request>& request) {
  Scheduler::Line choices = Scheduler::choices_of(request);
  {
    const std::lock_guard lock(mutex_);
    if (closing_) fail(Status::closed, "the engine is being destroyed");
    if (draining_) fail(Status::closed, "the engine is being drained: it takes no more requests");
    if (waiting_requests_ >= max_waiting_)
      fail(Status::busy, "the engine's queue is full: max_waiting is ", max_waiting_,
           " requests; try again later");
    inbox_.merge(choices);
    ++waiting_requests_;
  }
  work_.notify_one();
}

void Engine::drain(int64_t timeout_ms) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  ++threads_inside_;
  const auto idle = [this] { return in_flight() == 0 && !announcing_; };
  bool done = true;
  if (timeout_ms < 0) {
    drained_.wait(lock, idle);
  } else {
    done = drained_.wait_for(lock, std::chrono::milliseconds(timeout_ms), idle);
  }
  --threads_inside_;
  drained_.notify_all();
  if (!done) fail(Status::timeout, in_flight(), " choices are still in flight after ", timeout_ms, " ms");
}

// Choices. With the lock held.
int64_t Engine::in_flight() const {
  return stats_.running + stats_.waiting + static_cast<int64_t>(inbox_.size());
}

EngineStats Engine::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.waiting = in_flight() - stats.running;
  return stats;
}

std::vector<KernelCount> Engine::kernel_counts() const {
  return runner_->backend().kernel_counts();
}

void Engine::step_loop() noexcept {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      work_.wait(lock, [this] {
        return closing_ || !inbox_.empty() || !scheduler_->idle() || !flight_.step.empty();
      });
      scheduler_->add(std::exchange(inbox_, {}));
      stats_.running = scheduler_->running();
      stats_.waiting = scheduler_->waiting();
      waiting_requests_ = scheduler_->waiting_requests();
      if (closing_) break;
    }
    step();
  }
  flight_.step.clear();
  scheduler_->finish_all(Status::closed, "the engine was destroyed");
  publish();
}

// The life of a token, steps 2 to 5: schedule, run, sample, commit. A backend that works behind our back is given the next forward
// pass before anybody knows the tokens that it begins with, and computes it while they are read, become text, and say how the next
// ones are sampled.
void Engine::step() noexcept {
  scheduler_->sweep();
  StepTrace trace;
  try {
    if (flight_.step.empty()) {
      begin(flight_, [&](ScheduledStep spare) { return scheduler_->schedule(std::move(spare)); });
      sample(flight_);
    }
    if (!flight_.step.empty()) {
      if (steps_ahead_ && sampler_.only_samples())
        begin(next_, [&](ScheduledStep spare) {
          return scheduler_->schedule_ahead(flight_.step, std::move(spare));
        });
      const auto waiting = Clock::now();
      sampler_.finish();
      commit(flight_.step);
      trace = flight_.trace;
      trace.sample_seconds += seconds(waiting, Clock::now());
      flight_.step.clear();
      std::swap(flight_, next_);
      sample(flight_);
    }
  } catch (...) {
    // Whatever went wrong belongs to the requests of these steps; the engine goes on with the others.
    const Error failure = current_error();
    scheduler_->abandon(flight_.step, failure);
    if (!next_.step.empty()) scheduler_->abandon(next_.step, failure);
    log(LogLevel::error, "step failed: ", failure.message());
    flight_.step.clear();
    next_.step.clear();
  }
  publish(trace);
}

void Engine::begin(Flight& flight, const std::function<ScheduledStep(ScheduledStep)>& schedule) {
  const auto start = Clock::now();
  flight.step = schedule(std::move(flight.step));
  if (flight.step.empty()) return;
  const auto scheduled = Clock::now();
  flight.logits = runner_->forward(flight.step);
  flight.trace = {.sequences = static_cast<int64_t>(flight.step.sequences.size()),
                  .prompt_rows = flight.step.batch.rows() - flight.step.generate_rows,
                  .generate_rows = flight.step.generate_rows,
                  .schedule_seconds = seconds(start, scheduled),
                  .forward_seconds = seconds(scheduled, Clock::now())};
}

void Engine::sample(Flight& flight) {
  if (flight.step.empty()) return;
  const auto start = Clock::now();
  sampler_.sample(flight.step, flight.logits, runner_->backend());
  flight.trace.sample_seconds = seconds(start, Clock::now());
}

void Engine::commit(const ScheduledStep& step) {
  int64_t prompt_tokens = 0, generated_tokens = 0;
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    Sequence& sequence = *step.sequences[i];
    if (sequence.is_finished()) continue;  // since this step was given: its row was computed in vain
    const int64_t rows = step.batch.sequences[i].row_count;
    const auto prompt_size = static_cast<int64_t>(sequence.request().input().prompt.size());
    const int64_t size = sequence.size();
    prompt_tokens += std::clamp<int64_t>(prompt_size - sequence.computed, 0, rows);
    sequence.computed += rows;
    try {
      take_rows(step, i);
    } catch (...) {  // one request's trouble is not its neighbours'; it ends with the next sweep
      const Error failure = current_error();
      sequence.request().fail(failure.status(), failure.message());
    }
    generated_tokens += sequence.size() - size;
  }
  scheduler_->commit(step);
  const std::lock_guard lock(mutex_);
  ++stats_.steps;
  stats_.prompt_tokens += prompt_tokens;
  stats_.generated_tokens += generated_tokens;
}

// What a sequence makes of its rows in the step.
void Engine::take_rows(const ScheduledStep& step, size_t index) {
  Sequence& sequence = *step.sequences[index];
  Request& request = sequence.request();
  const int64_t rows = step.batch.sequences[index].row_count;
  const WantedTensors& wanted = request.input().tensors;
  if (wanted.any()) {
    if (wanted.logits) {
      std::span<const float> logits = sampler_.rows_of(index);
      // Placed by position: a sequence that was preempted computes its rows again.
      const int64_t first = std::max(sequence.computed - rows, wanted.first_row) - wanted.first_row;
      const auto vocab_size = static_cast<size_t>(loaded_->model->config().vocab_size);
      const size_t width = wanted.logits_of.empty() ? vocab_size : wanted.logits_of.size();
      auto out = request.logits.begin() + first * static_cast<int64_t>(width);
      if (wanted.logits_of.empty()) {
        std::copy(logits.begin(), logits.end(), out);
      } else {
        for (; !logits.empty(); logits = logits.subspan(vocab_size))
          for (const int32_t token : wanted.logits_of) *out++ = logits[static_cast<size_t>(token)];
      }
    }
    if (sequence.computed == sequence.size()) sequence.finish(FinishReason::stop);
    return;
  }
  if (sequence.wants_prompt_logprobs()) take_prompt_logprobs(sequence, rows, sampler_.rows_of(index));
  const SampledRow* const sampled = sampler_.token_of(index);
  if (sampled == nullptr || request.cancel_wanted() || request.stop_wanted())
    return;  // who is cancelled ends with the next sweep, without this token
  sequence.append(sampled_token(*sampled));
}

// The logits of a prompt row are about the token behind it; those of the last one are the sampler's alone.
void Engine::take_prompt_logprobs(const Sequence& sequence, int64_t rows,
                                  std::span<const float> logits) const {
  Request& request = sequence.request();
  const auto vocab_size = static_cast<size_t>(loaded_->model->config().vocab_size);
  const auto prompt = std::span(request.input().prompt);
  const int64_t end = std::min(sequence.computed, static_cast<int64_t>(prompt.size()) - 1);
  for (int64_t row = sequence.computed - rows; row < end; ++row, logits = logits.subspan(vocab_size)) {
    const int32_t next = prompt[static_cast<size_t>(row) + 1];
    const double logprob = logits[static_cast<size_t>(next)] - log_sum_exp(logits.first(vocab_size));
    request.record_prompt_logprob(row + 1, static_cast<float>(logprob));
  }
}

// In this order, so that a host that has seen a request end finds it gone from the stats.
void Engine::publish(StepTrace trace) noexcept {
  const Scheduler::Line ended = scheduler_->take_ended();
  {
    const std::lock_guard lock(mutex_);
    stats_.running = scheduler_->running();
    stats_.waiting = scheduler_->waiting();
    waiting_requests_ = scheduler_->waiting_requests();
    for (const auto& sequence : inbox_) waiting_requests_ += sequence->choice() == 0;
    announcing_ = !ended.empty();
    stats_.finished = scheduler_->finished();
    stats_.cached_tokens = scheduler_->cached_tokens();
    stats_.cache_blocks_used = scheduler_->blocks_used();
    trace.number = stats_.steps;
    trace.running = stats_.running;
    trace.waiting = stats_.waiting;
    trace.cache_blocks_used = stats_.cache_blocks_used;
  }
  for (const auto& sequence : ended) sequence->request().announce_end(*sequence);
  if (!ended.empty()) {
    const std::lock_guard lock(mutex_);
    announcing_ = false;
  }
  trace.preempted = scheduler_->take_preempted();
  if (trace_ && trace.sequences > 0) trace_(trace);
  drained_.notify_all();
}

}  // namespace qwen
