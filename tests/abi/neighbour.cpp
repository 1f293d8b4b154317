// A C++ library as plugins bring them along: with operator new and delete of its own that everything in the process may bind
// to, another terminate and new handler, another global locale, and exceptions that fly while others use theirs.
#include <atomic>
#include <cstdlib>
#include <exception>
#include <locale>
#include <new>
#include <string>
#include <thread>

namespace {

std::atomic<long> allocations{0};
std::atomic<bool> stop{false};
std::atomic<long> caught{0};

// What is allocated here and freed by another's delete, or the reverse, is not the start of a block of malloc.
constexpr size_t kAhead = 64;

struct Comma : std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

std::thread thrower;

}  // namespace

void* operator new(size_t size) {
  allocations += 1;
  char* block = static_cast<char*>(std::malloc(size + kAhead));
  if (!block) throw std::bad_alloc();
  return block + kAhead;
}
void* operator new[](size_t size) { return operator new(size); }
void operator delete(void* block) noexcept {
  if (block) std::free(static_cast<char*>(block) - kAhead);
}
void operator delete[](void* block) noexcept { operator delete(block); }
void operator delete(void* block, size_t) noexcept { operator delete(block); }
void operator delete[](void* block, size_t) noexcept { operator delete(block); }

extern "C" void neighbour_start() {
  std::set_terminate([] { std::_Exit(3); });
  std::set_new_handler([] { std::_Exit(4); });
  std::locale::global(std::locale(std::locale(), new Comma));
  thrower = std::thread([] {
    while (!stop) {
      try {
        throw std::bad_alloc();
      } catch (const std::exception&) {
        caught += 1;
      }
    }
  });
}
extern "C" void neighbour_stop() {
  stop = true;
  thrower.join();
}
extern "C" long neighbour_allocations() { return allocations; }
extern "C" long neighbour_exceptions() { return caught; }
