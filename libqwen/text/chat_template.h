// A checkpoint's own chat template: conversation in, prompt text out, byte for byte what Hugging Face
// transformers' render_jinja_template makes of the same template.
//
// Templates are Jinja programs. The interpreter here (jinja_*.h, in the order value, runtime, lexer, parser,
// operations, builtins, interpreter) runs them as jinja2's ImmutableSandboxedEnvironment(trim_blocks,
// lstrip_blocks, loopcontrols) does, within limits: source 4 MiB, output 64 MiB, 10 million steps, 1 GiB of
// intermediate text, bounded nesting. Reaching a limit, or a construct outside the subset, is
// Error(unsupported) naming it, the template and the line: tags when parsing, filters, tests and functions
// when a rendering reaches them.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace qwen {

namespace jinja {
struct Template;
}

class ChatTemplate {
 public:
  // `name` is for messages (a file, say). Throws Error: invalid_file (a syntax error, its line), unsupported.
  static std::shared_ptr<const ChatTemplate> parse(std::string source, std::string name);
  // The same with variables that every rendering starts from: an object's text, bos_token and the like.
  static std::shared_ptr<const ChatTemplate> parse(std::string source, std::string name,
                                                   std::string_view default_variables_json);

  // messages_json: an array of objects. tools_json: an array, or empty for none. variables_json: an object of
  // further template variables (enable_thinking, documents, ...), which win over everything else; may be
  // empty. As transformers does, a message's reasoning, given as reasoning_content, thinking or reasoning, is
  // offered under the first two names. A null member stays null (transformers' apply_chat_template drops it:
  // so should a host that wants the same). Throws Error: invalid_argument (JSON that is broken or of the
  // wrong kind; what the template itself refuses with raise_exception, or Python would), unsupported.
  // Thread-safe: const, nothing shared is written.
  std::string render(std::string_view messages_json, std::string_view tools_json,
                     std::string_view variables_json, bool add_generation_prompt) const;

  // The template's text as it was given.
  const std::string& source() const { return source_; }

 private:
  ChatTemplate(std::string source, std::shared_ptr<const jinja::Template> parsed, jinja::Value defaults)
      : source_(std::move(source)), parsed_(std::move(parsed)), defaults_(std::move(defaults)) {}
  std::string source_;
  std::shared_ptr<const jinja::Template> parsed_;
  jinja::Value defaults_;  // a dict
};

// The template of a model folder: chat_template.jinja if there is one, else tokenizer_config.json's
// "chat_template" (a text, or a list of {name, template} of which "default" is taken), else
// chat_template.json's. bos_token, eos_token, unk_token, sep_token, pad_token, cls_token and mask_token of
// tokenizer_config.json become variables. nullptr: the folder has no template. Throws Error: not_found (no
// such folder), io, invalid_file, unsupported.
std::shared_ptr<const ChatTemplate> load_chat_template(const std::filesystem::path& folder);

}  // namespace qwen
