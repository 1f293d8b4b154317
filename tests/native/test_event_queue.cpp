#include <doctest/doctest.h>
#include <poll.h>

#include <thread>

#include "engine/request.h"

using namespace qwen;

namespace {

std::shared_ptr<Request> request(const std::shared_ptr<EventQueue>& queue) {
  RequestInput input;
  input.prompt = {1};
  input.queue = queue;
  return std::make_shared<Request>(std::move(input), nullptr);
}

bool readable(int fd) {
  pollfd poll_fd{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&poll_fd, 1, 0) == 1;
}

}  // namespace

TEST_CASE("the descriptor polls readable exactly while events wait") {
  const auto queue = std::make_shared<EventQueue>();
  const auto r = request(queue);
  queue->push({.type = EventType::text, .request = r});
  const int fd = queue->descriptor();
  CHECK(readable(fd));
  queue->push({.type = EventType::text, .request = r});
  CHECK(queue->pop(0).has_value());
  CHECK(readable(fd));
  CHECK(queue->pop(0).has_value());
  CHECK(!readable(fd));
  CHECK(!queue->pop(0).has_value());
  queue->push({.type = EventType::done, .request = r});
  CHECK(readable(fd));
  CHECK(queue->pop_all(0).size() == 1);
  CHECK(!readable(fd));
}

TEST_CASE("a waiting thread wakes for an event from another one") {
  const auto queue = std::make_shared<EventQueue>();
  const auto r = request(queue);
  std::thread producer([&] { queue->push({.type = EventType::done, .request = r}); });
  CHECK(queue->pop(-1)->type == EventType::done);
  producer.join();
}

TEST_CASE("events of a request that the host has freed are dropped") {
  const auto queue = std::make_shared<EventQueue>();
  const auto kept = request(queue), freed = request(queue);
  queue->push({.type = EventType::text, .request = kept});
  queue->push({.type = EventType::text, .request = freed});
  freed->detach();
  CHECK(queue->pop_all(0).size() == 1);
}

TEST_CASE("a queue that is let go takes its events along, and its requests do not mind") {
  auto queue = std::make_shared<EventQueue>();
  auto r = request(queue);
  const std::weak_ptr<Request> watched = r;
  r->sequences[0]->append({.id = 1, .logprob = 0, .top = {}});  // an event that nobody takes
  queue.reset();
  r->sequences[0]->finish(FinishReason::stop);
  r->announce_end(*r->sequences[0]);
  r.reset();
  CHECK(watched.expired());
}
