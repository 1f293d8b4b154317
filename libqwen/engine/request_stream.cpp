#include "engine/request_stream.h"

#include <algorithm>
#include <chrono>
#include <map>

#include "base/error.h"

namespace qwen {
namespace {

constexpr int64_t kTurnMs = 50;  // how long go_on() may have to wait
constexpr int64_t kBusyMs = 5;   // when other callers fill the queue

class Run {
 public:
  Run(Engine& engine, const RequestStream& stream)
      : stay_(engine), engine_(engine), stream_(stream), begin_(Clock::now()) {}

  ~Run() {
    for (const auto& [index, flight] : in_flight_) flight.request->cancel();
    if (ready_) ready_->cancel();  // the engine may have taken it, but there was no memory to remember that
  }

  void run() {
    while (done_ < stream_.count) {
      submit_more();
      const bool queue_is_full = in_flight_.empty();
      const auto event = queue_->pop(queue_is_full ? kBusyMs : kTurnMs);
      if (event && event->type != EventType::done) continue;
      if (event) take(*event);
      const double fraction = static_cast<double>(done_) / static_cast<double>(stream_.count);
      if (stream_.go_on && !stream_.go_on(fraction)) fail(Status::cancelled, "the call was cancelled");
      if (done_ < stream_.count && time_left() <= 0) fail_late();
    }
  }

 private:
  void submit_more() {
    for (; next_ < stream_.count && (in_flight_.size() < 2 || has_room()); ++next_) {
      if (!ready_) ready_ = make(next_);
      try {
        engine_.submit(ready_);
      } catch (const Error& error) {
        if (error.status() != Status::busy || next_ == 0) throw;  // nothing begun yet: the host may try later
        return;
      }
      const int64_t rows = std::max<int64_t>(1, size(*ready_) - cached_);
      in_flight_.emplace(next_, Flight{ready_, rows});
      rows_in_flight_ += rows;
      ready_ = nullptr;
    }
  }

  bool has_room() const {
    return rows_in_flight_ < 2 * engine_.max_batch_tokens() &&
           static_cast<int64_t>(in_flight_.size()) < 2 * engine_.max_running();
  }

  std::shared_ptr<Request> make(size_t index) const {
    try {
      RequestInput input = stream_.make(index);
      input.tag = index;
      input.queue = queue_;
      if (stream_.timeout_ms) input.timeout_ms = std::max<int64_t>(1, time_left());
      return engine_.make_request(std::move(input));
    } catch (const Error& error) {
      throw_of(index, error.status(), error.message());
    }
  }

  void take(const Event& event) {
    const size_t index = event.request->input().tag;
    const auto flight = in_flight_.extract(index);
    rows_in_flight_ -= flight.mapped().rows;
    cached_ = event.request->outcome().stats.cached_tokens;
    if (event.status == Status::timeout) fail_late();
    if (event.status == Status::closed) throw Error(event.status, event.request->message());
    if (event.status != Status::ok) throw_of(index, event.status, event.request->message());
    stream_.take(index, *event.request);
    ++done_;
  }

  [[noreturn]] static void throw_of(size_t index, Status status, const std::string& message) {
    const std::string name = cat("input ", index);
    throw Error(status, message.starts_with(name) ? message : cat(name, ": ", message));
  }
  [[noreturn]] void fail_late() const {
    fail(Status::timeout, done_, " of ", stream_.count, " inputs are done after the timeout_ms of ",
         *stream_.timeout_ms);
  }

  int64_t time_left() const {
    if (!stream_.timeout_ms) return 1;
    const auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin_);
    return *stream_.timeout_ms - passed.count();
  }
  static int64_t size(const Request& request) { return static_cast<int64_t>(request.input().prompt.size()); }

  struct Flight {
    std::shared_ptr<Request> request;
    int64_t rows;  // that it will take, as far as one can tell
  };

  const Engine::Stay stay_;
  Engine& engine_;
  const RequestStream& stream_;
  const Clock::time_point begin_;
  const std::shared_ptr<EventQueue> queue_ = std::make_shared<EventQueue>();
  std::map<size_t, Flight> in_flight_;  // by index
  std::shared_ptr<Request> ready_;      // made, but the engine has no room for it yet
  size_t next_ = 0, done_ = 0;
  int64_t rows_in_flight_ = 0;
  int64_t cached_ = 0;  // tokens of the last one that came back: the next ones are likely to begin as it did
};

}  // namespace

void run(Engine& engine, const RequestStream& stream) {
  Run(engine, stream).run();
}

}  // namespace qwen
