// The adapters that an engine has loaded, by name. Requests hold theirs: one that is unloaded meanwhile lives until the last of
// them has gone. Any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "model/model.h"

namespace qwen {

class AdapterTable {
 public:
  // Throws Error: invalid_argument for an empty name or one that is in use; what open_adapter() and load_adapter() throw.
  void load(const std::filesystem::path& folder, std::string_view name, const Model& model, Backend& backend);
  // Throws Error(invalid_argument) when there is none.
  void unload(std::string_view name);
  // "": none, which is null. Throws Error(invalid_argument) for a name that is not loaded.
  std::shared_ptr<const Adapter> find(std::string_view name) const;
  // The one behind this name in the order of the names, "": the first; null past the last one.
  std::shared_ptr<const Adapter> next(std::string_view name) const;

 private:
  void check_unused(std::string_view name) const;
  std::string loaded() const;

  mutable std::mutex mutex_;  // guards what follows
  std::map<std::string, std::shared_ptr<const Adapter>, std::less<>> adapters_;
  int32_t last_id_ = 0;
};

}  // namespace qwen
