#include "engine/event_queue.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <iterator>
#include <utility>

#include "engine/request.h"

namespace qwen {
namespace {

// Not 0, 1 or 2, even where the host has closed them: what is printed somewhere must not end up in here.
int new_descriptor() {
  int made = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (made >= 0 && made <= STDERR_FILENO) {
    const int low = std::exchange(made, ::fcntl(made, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
    const int error = errno;
    ::close(low);
    errno = error;
  }
  if (made < 0) fail(Status::io, "cannot create an eventfd: ", system_reason(errno));
  return made;
}

}  // namespace

EventQueue::~EventQueue() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void EventQueue::push(Event event) {
  Events one;
  one.push_back(std::move(event));
  push_first_of(one);
}

void EventQueue::push_first_of(Events& events) noexcept {
  {
    const std::lock_guard lock(mutex_);
    events_.splice(events_.end(), events, events.begin());
    if (events_.size() == 1) signal(true);
  }
  arrived_.notify_one();
}

std::optional<Event> EventQueue::pop(int64_t timeout_ms) {
  std::unique_lock lock(mutex_);
  if (!wait(lock, timeout_ms)) return std::nullopt;
  Event event = std::move(events_.front());
  events_.pop_front();
  if (events_.empty()) signal(false);
  return event;
}

std::vector<Event> EventQueue::pop_all(int64_t timeout_ms) {
  std::unique_lock lock(mutex_);
  std::vector<Event> taken;
  if (!wait(lock, timeout_ms)) return taken;
  taken.reserve(events_.size());  // the only thing that can throw: no event is lost
  std::copy_if(std::make_move_iterator(events_.begin()), std::make_move_iterator(events_.end()),
               std::back_inserter(taken), [](const Event& event) { return !event.request->detached(); });
  events_.clear();
  signal(false);
  return taken;
}

int EventQueue::descriptor() {
  const std::lock_guard lock(mutex_);
  if (descriptor_ < 0) {
    descriptor_ = new_descriptor();
    if (!events_.empty()) signal(true);
  }
  return descriptor_;
}

bool EventQueue::wait(std::unique_lock<std::mutex>& lock, int64_t timeout_ms) {
  const auto ready = [this] {
    // Events of requests that the host has freed meanwhile are nobody's any more: they are nothing to wake up for.
    if (events_.empty()) return false;
    while (!events_.empty() && events_.front().request->detached()) events_.pop_front();
    if (events_.empty()) signal(false);
    return !events_.empty();
  };
  if (timeout_ms < 0) {
    arrived_.wait(lock, ready);
    return true;
  }
  constexpr int64_t kYear = int64_t{1000} * 3600 * 24 * 365;  // keeps the deadline from overflowing
  return arrived_.wait_for(lock, std::chrono::milliseconds(std::min(timeout_ms, kYear)), ready);
}

// Keeps the descriptor readable exactly while events wait. Called with the lock held.
void EventQueue::signal(bool readable) noexcept {
  if (descriptor_ < 0) return;
  uint64_t value = 1;
  [[maybe_unused]] const auto ignored =
      readable ? ::write(descriptor_, &value, sizeof value) : ::read(descriptor_, &value, sizeof value);
}

}  // namespace qwen
