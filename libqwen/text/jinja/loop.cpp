#include "text/jinja/loop.h"

namespace qwen::jinja {

// loop.cycle(...) and loop.changed(...)
class LoopMethod : public Object {
 public:
  LoopMethod(std::shared_ptr<LoopItems> loop, bool cycle) : loop_(std::move(loop)), cycle_(cycle) {}
  std::string_view type_name() const override { return "method"; }
  bool callable() const override { return true; }
  Value call(Runtime& runtime, const CallArguments& arguments) override {
    if (loop_->finished_) runtime.error("the loop of this method is over");
    const auto& values = arguments.positional;
    if (cycle_) {
      if (values.empty()) runtime.error("no items for cycling given");
      return values[static_cast<size_t>(loop_->index_) % values.size()];
    }
    bool changed = !loop_->changed_ || loop_->changed_->size() != values.size();
    for (size_t i = 0; !changed && i < values.size(); ++i)
      changed = !equal(runtime, (*loop_->changed_)[i], values[i]);
    if (changed) loop_->changed_ = values;
    return changed;
  }

 private:
  std::shared_ptr<LoopItems> loop_;
  bool cycle_;
};

bool LoopItems::look_ahead() {
  while (!ahead_ && next_ < items_.size()) {
    const Value& item = items_[next_++];
    if (!filter_ || filter_(item)) ahead_ = item;
  }
  return ahead_.has_value();
}

bool LoopItems::advance() {
  if (!look_ahead()) return false;
  previous_ = std::move(current_);
  current_ = std::exchange(ahead_, std::nullopt);
  ++index_;
  return true;
}

int64_t LoopItems::length() {
  if (filter_) {
    // Asked for the whole: filter all that is left now.
    std::vector<Value> rest;
    if (ahead_) rest.push_back(*std::exchange(ahead_, std::nullopt));
    while (look_ahead()) rest.push_back(*std::exchange(ahead_, std::nullopt));
    items_ = std::move(rest);
    next_ = 0;
    filter_ = nullptr;
  }
  return index_ + 1 + static_cast<int64_t>(items_.size() - next_) + (ahead_ ? 1 : 0);
}

void LoopItems::release() {
  finished_ = true;
  items_.clear();
  next_ = 0;
  filter_ = nullptr;
  previous_ = current_ = ahead_ = std::nullopt;
  changed_.reset();
}

std::optional<Value> LoopItems::attribute(Runtime& runtime, std::string_view name) {
  if (finished_) runtime.unsupported("a 'loop' that is over cannot be used");
  if (name == "index") return index_ + 1;
  if (name == "index0") return index_;
  if (name == "first") return index_ == 0;
  if (name == "last") return !look_ahead();
  if (name == "length") return length();
  if (name == "revindex") return length() - index_;
  if (name == "revindex0") return length() - index_ - 1;
  if (name == "depth") return int64_t{1};
  if (name == "depth0") return int64_t{0};
  if (name == "previtem")
    return previous_ ? *previous_ : Value::undefined({Undefined::Reason::hint, "there is no previous item"});
  if (name == "nextitem")
    return look_ahead() ? *ahead_ : Value::undefined({Undefined::Reason::hint, "there is no next item"});
  if (name == "cycle" || name == "changed") {
    // The interpreter owns the loop in a shared_ptr, which this method keeps alive.
    const auto self = shared_from_this();
    return Value(ObjectPtr(std::make_shared<LoopMethod>(self, name == "cycle")));
  }
  return std::nullopt;
}

}  // namespace qwen::jinja
