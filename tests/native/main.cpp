#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdlib>

// Tests that want the GPU, which is the executor's here, say so: to "auto" it would be one as good as any.
int main(int argc, char** argv) {
  setenv("QWEN_DEVICE", "cpu", 1);
  return doctest::Context(argc, argv).run();
}
