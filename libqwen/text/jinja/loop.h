// The items of one {% for %} and the `loop` variable that looks at them.
#pragma once

#include <functional>

#include "text/jinja/operations.h"

namespace qwen::jinja {

// Items are fetched one at a time, because the loop's "if" is asked again before every round and may depend
// on what the rounds before did; only loop.last, nextitem and length look ahead.
class LoopItems : public Object, public std::enable_shared_from_this<LoopItems> {
 public:
  using Filter = std::function<bool(const Value&)>;  // empty: every item
  LoopItems(std::vector<Value> items, Filter filter) : items_(std::move(items)), filter_(std::move(filter)) {}

  bool advance();
  const Value& current() const { return *current_; }
  // The loop is over: what it held is let go, also when a namespace still has the `loop`.
  void release() override;

  std::string_view type_name() const override { return "LoopContext"; }
  std::optional<Value> attribute(Runtime& runtime, std::string_view name) override;
  Value call(Runtime& runtime, const CallArguments&) override {
    runtime.unsupported("a recursive call of 'loop' is not supported");
  }
  bool callable() const override { return true; }

 private:
  friend class LoopMethod;
  bool look_ahead();
  int64_t length();
  std::vector<Value> items_;
  Filter filter_;
  size_t next_ = 0;  // of items_
  std::optional<Value> previous_, current_, ahead_;
  int64_t index_ = -1;
  bool finished_ = false;
  std::optional<std::vector<Value>> changed_;  // what loop.changed() saw last
};

}  // namespace qwen::jinja
