// Where a template's variables live: the root, and one scope for each loop round, macro call, block set and
// with.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "text/jinja/runtime.h"

namespace qwen::jinja {

inline constexpr unsigned kMaxScopes =
    500;  // nested; a chain of macros that make macros could grow it without end

class Scope {
 public:
  // parent: where the scope stands in the template's text, not who called.
  Scope(Runtime& runtime, std::shared_ptr<Scope> parent) : parent_(std::move(parent)) {
    depth_ = parent_ ? parent_->depth_ + 1 : 0;
    if (depth_ > kMaxScopes) runtime.unsupported("the limit of ", kMaxScopes, " nested scopes is reached");
  }

  void set(uint32_t id, Value value) {
    if (Value* found = own(id)) {
      *found = std::move(value);
      return;
    }
    variables_.emplace_back(id, std::move(value));
    // Many variables are found by hash, few by looking.
    if (variables_.size() > kLinear)
      for (size_t i = index_.size(); i < variables_.size(); ++i) index_[variables_[i].first] = i;
  }

  const Value* find(uint32_t id) {
    for (Scope* scope = this; scope; scope = scope->parent_.get())
      if (const Value* found = scope->own(id)) return found;
    return nullptr;
  }

  void clear() {
    variables_.clear();
    index_.clear();
  }

 private:
  static constexpr size_t kLinear = 12;
  Value* own(uint32_t id) {
    if (variables_.size() > kLinear) {
      const auto found = index_.find(id);
      return found == index_.end() ? nullptr : &variables_[found->second].second;
    }
    for (auto& [known, value] : variables_)
      if (known == id) return &value;
    return nullptr;
  }

  std::shared_ptr<Scope> parent_;
  unsigned depth_ = 0;
  std::vector<std::pair<uint32_t, Value>> variables_;
  std::unordered_map<uint32_t, size_t> index_;
};

}  // namespace qwen::jinja
