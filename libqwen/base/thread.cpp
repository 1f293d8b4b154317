#include "base/thread.h"

#include <signal.h>

#include <cstring>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/float_environment.h"

namespace qwen {
namespace {

struct Start {
  std::string name;
  std::function<void()> body;
};

void* run(void* given) noexcept {
  const std::unique_ptr<Start> start(static_cast<Start*>(given));
  set_default_float_environment();
  pthread_setname_np(pthread_self(), start->name.c_str());
  start->body();
  return nullptr;
}

// Created with the mask that the thread is to have: it must not even begin with another one.
int create(pthread_t* thread, Start* start) {
  sigset_t sent, before;
  sigfillset(&sent);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) sigdelset(&sent, fault);
  pthread_attr_t attributes;
  if (const int error = pthread_attr_init(&attributes)) return error;
  pthread_attr_setstacksize(&attributes, Thread::kStackBytes);
  pthread_sigmask(SIG_SETMASK, &sent, &before);
  const int error = pthread_create(thread, &attributes, run, start);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return error;
}

}  // namespace

#if defined(__x86_64__)
// The C++ runtime keeps, for each thread, which exceptions it is handling. In a library that was loaded with dlopen that memory
// is had at a thread's first throw, and where there is none glibc ends the process. One access in the dialect of TLS descriptors
// (never run; its relocation is what counts) makes dlopen put the library's few bytes beside those of the program, where every
// thread has them from the beginning, if there is room. Elsewhere this dialect is the compilers' own.
[[gnu::used]] static thread_local char thread_local_place asm("qwen_thread_local_place");
[[gnu::used]] static void ask_for_static_tls() {
  asm volatile(
      "leaq qwen_thread_local_place@TLSDESC(%%rip), %%rax\n\t"
      "call *qwen_thread_local_place@TLSCALL(%%rax)" ::
          : "rax");
}
#endif

Thread::Thread(const char* name, std::function<void()> body) {
  auto start = std::make_unique<Start>(Start{name, std::move(body)});
  if (const int error = create(&thread_, start.get()))
    fail(Status::out_of_memory, "cannot start the thread ", name, ": ", system_reason(error));
  start.release();
  joinable_ = true;
}

void Thread::join() noexcept {
  if (std::exchange(joinable_, false)) pthread_join(thread_, nullptr);
}

}  // namespace qwen
