#include "base/task.h"

#include <doctest/doctest.h>

#include <atomic>
#include <string>

using namespace qwen;

TEST_CASE("a task gives what its work gave, or throws what it threw") {
  Task<std::string> good("test", [] { return std::string("done"); });
  CHECK(good.get() == "done");
  CHECK(!good.under_way());
  Task<int> bad("test", []() -> int { fail(Status::invalid_file, "broken"); });
  CHECK_THROWS_WITH_AS(bad.get(), "broken", Error);
}

TEST_CASE("a task that nobody asks has ended when it is destroyed") {
  std::atomic<bool> finish{false}, ended{false};
  {
    Task<int> task("test", [&] {
      finish.wait(false);
      ended = true;
      return 0;
    });
    CHECK(task.under_way());
    finish = true;
    finish.notify_all();
  }
  CHECK(ended);
}
