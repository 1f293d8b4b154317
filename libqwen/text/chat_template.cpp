#include "text/chat_template.h"
namespace qwen {
std::shared_ptr<const ChatTemplate> load_chat_template(const std::filesystem::path&){return nullptr;}
std::string ChatTemplate::render(std::string_view,std::string_view,std::string_view,bool) const {return "";}
}
