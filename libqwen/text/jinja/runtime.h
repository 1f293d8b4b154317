// What one rendering carries around: where it is (for messages) and what it may still spend. A template comes
// from whoever published the checkpoint, so every loop, copy and recursion is paid for out of these budgets.
#pragma once

#include <span>

#include "text/jinja/value.h"

namespace qwen::jinja {

inline constexpr size_t kMaxTextBytes = size_t{64} << 20;  // of one string or of the output
inline constexpr uint64_t kMaxBuiltBytes = uint64_t{1}
                                           << 30;  // of all strings and lists made by one rendering
inline constexpr uint64_t kMaxSteps = 10'000'000;
inline constexpr unsigned kMaxDepth = 400;     // nested evaluations: expressions, blocks, macro calls
inline constexpr int64_t kMaxRange = 100'000;  // of range(), as jinja2's sandbox has it

struct CallArguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

class Runtime {
 public:
  explicit Runtime(std::string_view template_name) : name_(template_name) {}

  ~Runtime() {
    for (const ObjectPtr& object : mutable_) object->release();
  }
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  uint32_t line = 0;  // of the construct being evaluated

  // The template did what Python would refuse, or called raise_exception.
  template <class... Pieces>
  [[noreturn]] void error(const Pieces&... pieces) const {
    fail(Status::invalid_argument, "chat template ", name_, ", line ", line, ": ", pieces...);
  }
  // jinja2 would do it, this interpreter does not; or a limit was reached.
  template <class... Pieces>
  [[noreturn]] void unsupported(const Pieces&... pieces) const {
    fail(Status::unsupported, "chat template ", name_, ", line ", line, ": ", pieces...);
  }
  [[noreturn]] void undefined_error(const Value& undefined) const { error(undefined.undefined().message()); }

  void step(uint64_t count = 1) {
    if ((steps_ += count) > kMaxSteps)
      unsupported("the limit of ", kMaxSteps, " steps per rendering is reached");
  }
  void build(uint64_t bytes) {
    if ((built_ += bytes) > kMaxBuiltBytes)
      unsupported("the limit of ", kMaxBuiltBytes, " bytes of text and lists made per rendering is reached");
  }
  // Before `out` grows by `bytes`.
  void grow(const std::string& out, size_t bytes) {
    if (bytes > kMaxTextBytes || out.size() + bytes > kMaxTextBytes)
      unsupported("the limit of ", kMaxTextBytes, " bytes of one text is reached");
    build(bytes);
  }
  void append(std::string& out, std::string_view text) {
    grow(out, text.size());
    out.append(text);
  }

  // New values, paid for and checked.
  Value text(std::string text, bool markup = false);
  Value sequence(std::vector<Value> items, SequenceType type = SequenceType::list);
  Value dict(std::shared_ptr<Dict> dict);

  // Namespaces and macros can refer to each other in a circle; those adopted are taken apart at the end.
  void adopt(ObjectPtr object) { mutable_.push_back(std::move(object)); }

  class Nested {
   public:
    explicit Nested(Runtime& runtime) : runtime_(runtime) {
      if (runtime.depth_ >= kMaxDepth)
        runtime.unsupported("the limit of ", kMaxDepth, " nested evaluations is reached");
      ++runtime.depth_;
    }
    ~Nested() { --runtime_.depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;

   private:
    Runtime& runtime_;
  };

 private:
  std::string_view name_;
  std::vector<ObjectPtr> mutable_;
  uint64_t steps_ = 0;
  uint64_t built_ = 0;
  unsigned depth_ = 0;
};

// Arguments by the callee's parameter names, Python's way; a missing one stays nullptr. Errors name `callee`.
std::vector<const Value*> bind(Runtime& runtime, std::string_view callee, const CallArguments& arguments,
                               std::initializer_list<std::string_view> parameters, size_t required = 0);

// Typed reading of a bound argument.
bool flag(const Value* argument, bool otherwise);
int64_t integer(Runtime& runtime, std::string_view callee, const Value* argument, int64_t otherwise);
std::string_view text(Runtime& runtime, std::string_view callee, const Value& argument);

}  // namespace qwen::jinja
