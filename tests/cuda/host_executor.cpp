#include "host_executor.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "fiber.h"
#include "guarded.h"

namespace qwen::host_cuda {
namespace {

constexpr unsigned kLanes = 32, kMostThreads = 1024;
constexpr size_t kMostShared = 227 << 10;  // of a block, on the GPUs that have most

std::string_view file_name(const std::source_location& place) {
  const std::string_view path = place.file_name();
  return path.substr(path.rfind('/') + 1);  // npos + 1 is 0
}

std::string text(const std::source_location& place) {
  return cat(file_name(place), ":", place.line());
}

std::string text(const Dim3& at) {
  return cat("(", at.x, ", ", at.y, ", ", at.z, ")");
}

bool same(const std::source_location& a, const std::source_location& b) {
  return a.line() == b.line() && std::string_view(a.file_name()) == b.file_name();
}

Dim3 place_in(const Dim3& size, unsigned index) {
  return {index % size.x, index / size.x % size.y, index / size.x / size.y};
}

unsigned volume(const Dim3& size) {
  return size.x * size.y * size.z;
}

// xorshift64*: https://www.jstatsoft.org/article/view/v008i14
class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u | 1) {}
  size_t below(size_t n) {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<size_t>((state_ * 0x2545f4914f6cdd1du >> 32) * n >> 32);
  }
  template <class T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

 private:
  uint64_t state_;
};

struct AsyncCopy {
  void* to;
  const void* from;
};

// Lanes of a warp on their way to a collective.
struct Collective {
  const char* name;
  uint32_t mask, arrived;
  std::source_location place;
  std::array<void*, kLanes> payloads;
  std::array<Fiber*, kLanes> fibers;
};

class Executor {
 public:
  void run(const Launch& launch);
  void set_seed(uint64_t seed) { seed_ = seed; }

  void barrier(const std::source_location& place);
  void collective(const char* name, uint32_t mask, void* payload, void (*combine)(void* const*, uint32_t),
                  const std::source_location& place);
  unsigned current_thread() const { return current_->thread; }
  std::byte* shared_memory() const {
    check_begun("shared_memory");
    return shared_->data();
  }
  void let_dependents_begin() { beginnings_[current_->thread] = Beginning::lets_begin; }
  void await_predecessors() {
    if (beginnings_[current_->thread] == Beginning::none)
      broken(current_->thread, "waits for what came before, but has not let its dependents begin");
    beginnings_[current_->thread] = Beginning::has_waited;
  }
  void check_begun(const char* what) const {
    if (beginnings_[current_->thread] != Beginning::has_waited)
      broken(current_->thread, cat(what, " before begin_kernel()"));
  }
  // Thrown inside of a thread, it ends the launch.
  [[noreturn]] void broken(unsigned thread, const std::string& what) const { throw error(thread, what); }
  void async_copy(void* shared, const void* global);
  void async_commit();
  void async_wait(size_t pending);

  void work();  // what every fiber does

 private:
  void run_block(unsigned block);
  void run_thread();
  void switch_to(Fiber& fiber);
  // Somebody else goes on; returns when somebody switches back.
  void leave();
  void thread_ended();
  Error error(unsigned thread, const std::string& what) const;
  Error deadlock() const;
  Fiber& idle_fiber();
  uint32_t lanes_of(unsigned warp) const {  // that the block has
    const unsigned lanes = threads_ - warp * kLanes;
    return lanes >= kLanes ? ~0u : (1u << lanes) - 1;
  }
  std::string thread_name(unsigned thread) const { return cat("thread ", text(place_in(blockDim, thread))); }

  uint64_t seed_ = 1;
  Dice dice_{1};
  Fiber main_;
  Fiber* current_ = &main_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;

  const Launch* launch_ = nullptr;
  std::unique_ptr<Guarded> shared_;
  // Of the block that runs.
  unsigned threads_ = 0;
  std::vector<unsigned> order_;  // in which threads begin
  size_t begun_ = 0;
  enum class Beginning : uint8_t { none, lets_begin, has_waited };
  std::array<Beginning, kMostThreads> beginnings_;  // [thread]
  std::vector<Fiber*> ready_;
  std::array<uint32_t, kMostThreads / kLanes> ended_;  // [warp] lanes
  unsigned ended_count_ = 0;
  std::vector<Fiber*> at_barrier_;
  std::source_location barrier_place_;
  std::array<std::vector<Collective>, kMostThreads / kLanes> collectives_;
  // [thread] groups of copies, the last one still open.
  std::vector<std::vector<std::vector<AsyncCopy>>> copies_;
  std::exception_ptr error_;
};

thread_local Executor executor;

void Executor::run(const Launch& launch) {
  const auto refuse = [&](const auto&... why) {
    fail(Status::internal, "the launch at ", text(launch.where), " ", why...);
  };
  threads_ = volume(launch.block);
  if (launch.block.x > kMostThreads || launch.block.y > kMostThreads || launch.block.z > 64 ||
      threads_ == 0 || threads_ > kMostThreads)
    refuse("asks for blocks of ", text(launch.block), " threads; at most ", kMostThreads);
  if (launch.shared_bytes > kMostShared)
    refuse("asks for ", launch.shared_bytes, " bytes of shared memory; at most ", kMostShared);
  launch_ = &launch;
  shared_ = std::make_unique<Guarded>(launch.shared_bytes);
  gridDim = launch.grid;
  blockDim = launch.block;
  dice_ = Dice(seed_++);
  std::vector<unsigned> blocks(volume(launch.grid));
  for (unsigned i = 0; i < blocks.size(); ++i) blocks[i] = i;
  dice_.shuffle(blocks);
  for (const unsigned block : blocks) run_block(block);
}

void Executor::run_block(unsigned block) {
  blockIdx = place_in(gridDim, block);
  shared_->poison();
  order_.resize(threads_);
  for (unsigned i = 0; i < threads_; ++i) order_[i] = i;
  dice_.shuffle(order_);
  begun_ = 0;
  beginnings_.fill(Beginning::none);
  ended_.fill(0);
  ended_count_ = 0;
  copies_.resize(threads_);

  Fiber& first = idle_fiber();
  first.thread = order_[begun_++];
  switch_to(first);

  for (auto& groups : copies_) groups.clear();
  if (!error_ && ended_count_ == threads_ && !shared_->intact())
    error_ = std::make_exception_ptr(Error(
        Status::internal, cat("the launch at ", text(launch_->where), ", block ", text(blockIdx),
                              ": wrote outside of its ", launch_->shared_bytes, " bytes of shared memory")));
  if (error_) {  // fibers wait for what never comes
    for (auto& fiber : fibers_) fiber->restart();
    idle_.clear();
    for (auto& fiber : fibers_) idle_.push_back(fiber.get());
    ready_.clear();
    at_barrier_.clear();
    for (auto& pending : collectives_) pending.clear();
    std::rethrow_exception(std::exchange(error_, nullptr));
  }
}

Fiber& Executor::idle_fiber() {
  if (idle_.empty()) {
    fibers_.push_back(std::make_unique<Fiber>([] { executor.work(); }));
    return *fibers_.back();
  }
  Fiber& fiber = *idle_.back();
  idle_.pop_back();
  return fiber;
}

void Executor::switch_to(Fiber& fiber) {
  Fiber& self = *current_;
  current_ = &fiber;
  self.switch_to(fiber);
  if (current_ != &main_) threadIdx = place_in(blockDim, current_->thread);
}

// A fiber runs threads one after the other for as long as none of them waits: such threads cost a call each.
void Executor::work() {
  for (;;) {
    run_thread();
    if (const size_t choices = ready_.size() + order_.size() - begun_;
        choices > 0 && dice_.below(choices) >= ready_.size()) {
      current_->thread = order_[begun_++];
      continue;
    }
    idle_.push_back(current_);
    leave();
  }
}

void Executor::run_thread() {
  threadIdx = place_in(blockDim, current_->thread);
  try {
    launch_->body();
    thread_ended();
  } catch (...) {
    error_ = std::current_exception();
  }
  if (error_) switch_to(main_);  // and never back
}

void Executor::leave() {
  const size_t fresh = order_.size() - begun_, choices = ready_.size() + fresh;
  if (choices == 0) {
    if (ended_count_ < threads_) error_ = std::make_exception_ptr(deadlock());
    return switch_to(main_);
  }
  const size_t choice = dice_.below(choices);
  if (choice >= ready_.size()) {
    Fiber& fiber = idle_fiber();
    fiber.thread = order_[begun_++];
    if (&fiber != current_) switch_to(fiber);
    return;
  }
  Fiber* const next = ready_[choice];
  ready_[choice] = ready_.back();
  ready_.pop_back();
  switch_to(*next);
}

// Threads wait, and nobody is left who could come.
Error Executor::deadlock() const {
  std::string waiting;
  if (!at_barrier_.empty()) waiting = cat(" at __syncthreads in ", text(barrier_place_));
  for (const auto& warp : collectives_)
    for (const Collective& pending : warp)
      waiting += cat(waiting.empty() ? "" : ", others", " at ", pending.name, " in ", text(pending.place));
  unsigned first = 0;
  while (ended_[first / kLanes] >> first % kLanes & 1) ++first;
  return error(first, cat("never goes on: threads wait", waiting));
}

void Executor::thread_ended() {
  const unsigned thread = current_->thread;
  check_begun("ends");
  if (!at_barrier_.empty())
    broken(thread, cat("ends while ", thread_name(at_barrier_.front()->thread), " waits at __syncthreads in ",
                       text(barrier_place_)));
  for (const Collective& pending : collectives_[thread / kLanes])
    if (pending.mask >> thread % kLanes & 1)
      broken(thread, cat("ends while its warp waits for it at ", pending.name, " in ", text(pending.place)));
  ended_[thread / kLanes] |= 1u << thread % kLanes;
  ++ended_count_;
}

Error Executor::error(unsigned thread, const std::string& what) const {
  return {Status::internal, cat("the launch at ", text(launch_->where), ", block ", text(blockIdx), ", ",
                                thread_name(thread), ": ", what)};
}

void Executor::barrier(const std::source_location& place) {
  const unsigned thread = current_->thread;
  check_begun("waits at __syncthreads");
  if (ended_count_ > 0) {
    unsigned gone = 0;
    while ((ended_[gone / kLanes] >> gone % kLanes & 1) == 0) ++gone;
    broken(thread, cat("waits at __syncthreads in ", text(place), ", but ", thread_name(gone), " has ended"));
  }
  if (at_barrier_.empty())
    barrier_place_ = place;
  else if (!same(barrier_place_, place))
    broken(thread, cat("waits at __syncthreads in ", text(place), ", but ",
                       thread_name(at_barrier_.front()->thread), " at the one in ", text(barrier_place_)));
  if (at_barrier_.size() + 1 == threads_) {
    ready_.insert(ready_.end(), at_barrier_.begin(), at_barrier_.end());
    at_barrier_.clear();
    return;
  }
  at_barrier_.push_back(current_);
  leave();
}

void Executor::collective(const char* name, uint32_t mask, void* payload,
                          void (*combine)(void* const*, uint32_t), const std::source_location& place) {
  const unsigned thread = current_->thread, warp = thread / kLanes, own = thread % kLanes;
  const auto here = [&] { return cat(name, " in ", text(place)); };
  check_begun(name);
  if ((mask >> own & 1) == 0) broken(thread, cat("is not in the mask of ", here()));
  if (const uint32_t missing = mask & ~lanes_of(warp))
    broken(thread, cat("waits at ", here(), " for lane ", std::countr_zero(missing),
                       ", which the block does not have"));
  if (const uint32_t gone = mask & ended_[warp])
    broken(thread, cat("waits at ", here(), ", but ", thread_name(warp * kLanes + std::countr_zero(gone)),
                       " has ended"));
  std::vector<Collective>& pending = collectives_[warp];
  size_t index = 0;
  while (index < pending.size() && (pending[index].mask & mask) == 0) ++index;
  if (index == pending.size()) {
    pending.push_back({name, mask, 0, place, {}, {}});
  } else if (pending[index].mask != mask || pending[index].name != name ||
             !same(pending[index].place, place)) {
    broken(thread, cat("is at ", here(), " with mask ", mask, ", but its warp at ", pending[index].name,
                       " in ", text(pending[index].place), " with mask ", pending[index].mask));
  }
  Collective& joined = pending[index];
  joined.arrived |= 1u << own;
  joined.payloads[own] = payload;
  joined.fibers[own] = current_;
  if (joined.arrived != mask) return leave();
  combine(joined.payloads.data(), mask);
  for (unsigned lane = 0; lane < kLanes; ++lane)
    if (lane != own && (mask >> lane & 1)) ready_.push_back(joined.fibers[lane]);
  pending.erase(pending.begin() + static_cast<std::ptrdiff_t>(index));
}

void Executor::async_copy(void* shared, const void* global) {
  check_begun("cp_async16");
  const auto address = static_cast<std::byte*>(shared);
  if (address < shared_->data() || address + 16 > shared_->data() + shared_->size())
    broken(current_->thread, "cp_async16 writes outside of shared memory");
  auto& groups = copies_[current_->thread];
  if (groups.empty()) groups.emplace_back();
  groups.back().push_back({shared, global});
}

void Executor::async_commit() {
  auto& groups = copies_[current_->thread];
  if (groups.empty()) groups.emplace_back();
  groups.emplace_back();
}

void Executor::async_wait(size_t pending) {
  auto& groups = copies_[current_->thread];
  if (groups.size() <= pending + 1) return;
  const auto end = groups.end() - static_cast<std::ptrdiff_t>(pending + 1);
  for (auto group = groups.begin(); group != end; ++group) {
    for (const AsyncCopy& copy : *group) {
      if (copy.from != nullptr)
        std::memcpy(copy.to, copy.from, 16);
      else
        std::memset(copy.to, 0, 16);
    }
  }
  groups.erase(groups.begin(), end);
}

}  // namespace

void run(const Launch& launch) {
  executor.run(launch);
}

void set_seed(uint64_t seed) {
  executor.set_seed(seed);
}

void barrier(const std::source_location& place) {
  executor.barrier(place);
}

void collective(const char* name, uint32_t mask, void* payload, void (*combine)(void* const*, uint32_t),
                const std::source_location& place) {
  executor.collective(name, mask, payload, combine, place);
}

int lane() {
  return static_cast<int>(executor.current_thread() % kLanes);
}

std::byte* shared_memory() {
  return executor.shared_memory();
}

void let_dependents_begin() {
  executor.let_dependents_begin();
}

void await_predecessors() {
  executor.await_predecessors();
}

void check_begun(const char* what) {
  executor.check_begun(what);
}

void check_aligned(const void* address, size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0)
    executor.broken(executor.current_thread(), cat(what, " of an address that is no multiple of ", bytes));
}

void async_copy(void* shared, const void* global) {
  check_aligned(shared, 16, "cp_async16");
  check_aligned(global, 16, "cp_async16");
  executor.async_copy(shared, global);
}

void async_commit() {
  executor.async_commit();
}

void async_wait(int pending) {
  executor.async_wait(static_cast<size_t>(pending));
}

void complain(int lane, const char* what) {
  const unsigned warp = executor.current_thread() / kLanes;
  executor.broken(warp * kLanes + static_cast<unsigned>(lane), what);
}

}  // namespace qwen::host_cuda
