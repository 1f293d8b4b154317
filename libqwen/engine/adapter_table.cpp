#include "engine/adapter_table.h"

#include "base/error.h"
#include "base/log.h"

namespace qwen {

void AdapterTable::load(const std::filesystem::path& folder, std::string_view name, const Model& model,
                        Backend& backend) {
  if (name.empty()) fail(Status::invalid_argument, "name is empty; an adapter needs one");
  {
    const std::lock_guard lock(mutex_);
    check_unused(name);  // before the work, too
  }
  const auto adapter = std::make_shared<Adapter>();
  backend.load_together([&] { *adapter = load_adapter(open_adapter(folder), model.linears(), backend); });
  adapter->name = name;
  {
    const std::lock_guard lock(mutex_);
    check_unused(name);
    adapter->id = last_id_ + 1;
    adapters_.emplace(name, adapter);
    ++last_id_;
  }
  log(LogLevel::info, "loaded the adapter ", quote(name), " from ", adapter->path, ": rank ", adapter->rank,
      ", ", adapter->parameters, " parameters");
}

void AdapterTable::unload(std::string_view name) {
  std::shared_ptr<const Adapter> last;  // freed without the lock
  const std::lock_guard lock(mutex_);
  const auto found = adapters_.find(name);
  if (found == adapters_.end())
    fail(Status::invalid_argument, "there is no adapter ", quote(name), "; ", loaded());
  last = std::move(found->second);
  adapters_.erase(found);
}

std::shared_ptr<const Adapter> AdapterTable::find(std::string_view name) const {
  if (name.empty()) return nullptr;
  const std::lock_guard lock(mutex_);
  const auto found = adapters_.find(name);
  if (found == adapters_.end())
    fail(Status::invalid_argument, "option 'adapter' is ", quote(name), "; ", loaded());
  return found->second;
}

std::shared_ptr<const Adapter> AdapterTable::next(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  const auto found = adapters_.upper_bound(name);
  return found == adapters_.end() ? nullptr : found->second;
}

void AdapterTable::check_unused(std::string_view name) const {
  const auto found = adapters_.find(name);
  if (found != adapters_.end())
    fail(Status::invalid_argument, "an adapter ", quote(name), " is loaded already, from ",
         found->second->path, "; unload it first, or give this one another name");
}

std::string AdapterTable::loaded() const {
  if (adapters_.empty()) return "no adapter is loaded";
  std::string names;
  for (const auto& [name, adapter] : adapters_) names += cat(names.empty() ? "" : ", ", quote(name));
  return cat("loaded are ", names);
}

}  // namespace qwen
