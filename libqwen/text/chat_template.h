#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
namespace qwen {
class ChatTemplate {
 public:
  static std::shared_ptr<const ChatTemplate> parse(std::string source, std::string name);
  std::string render(std::string_view messages_json, std::string_view tools_json, std::string_view variables_json, bool add_generation_prompt) const;
};
std::shared_ptr<const ChatTemplate> load_chat_template(const std::filesystem::path& folder);
}
