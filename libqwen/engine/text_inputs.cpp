// Sources of the forms: the model cards of Qwen3-Embedding (last_token_pool, get_detailed_instruct) and of Qwen3-Reranker
// (format_instruction, process_inputs, compute_logits), and the tokenizer.json of Qwen3-Embedding, whose post-processor puts
// <|endoftext|> behind every text.
#include "engine/text_inputs.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/utf8.h"

namespace qwen {
namespace {

constexpr std::string_view kInstruction =
    "Given a web search query, retrieve relevant passages that answer the query";
constexpr std::string_view kRerankerHead =
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    "Instruct provided. "
    "Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n";
constexpr std::string_view kRerankerTail = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";

const Tokenizer& tokenizer_of(const LoadedModel& model) {
  if (!model.tokenizer)
    fail(Status::unsupported, "a text needs a tokenizer, and ",
         model.path.empty() ? "the model has none" : cat(model.path, " has no tokenizer.json"),
         "; use token ids");
  return *model.tokenizer;
}

void check_text(std::string_view text, std::string_view what) {
  if (text.empty()) fail(Status::invalid_argument, what, " is empty");
  if (const size_t at = utf8_error(text); at != std::string_view::npos)
    fail(Status::invalid_argument, what, " is not valid UTF-8 at byte ", at);
}

void append(std::vector<int32_t>& ids, const std::vector<int32_t>& more) {
  ids.insert(ids.end(), more.begin(), more.end());
}

}  // namespace

void check_query(std::string_view query) {
  check_text(query, "the query");
}

void TextInputs::add_text(std::string text) {
  check_text(text, cat("input ", inputs_.size()));
  inputs_.emplace_back(std::move(text));
}

void TextInputs::add_tokens(std::vector<int32_t> ids) {
  if (ids.empty()) fail(Status::invalid_argument, "input ", inputs_.size(), " holds no token");
  inputs_.emplace_back(std::move(ids));
}

void TextInputs::set_instruction(std::optional<std::string> instruction) {
  if (instruction) check_text(*instruction, "the instruction");
  instruction_ = instruction ? std::move(instruction) : std::string(kInstruction);
}

std::vector<int32_t> TextInputs::for_embedding(const LoadedModel& model, size_t index) const {
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&inputs_[index])) {
    if (instruction_)
      fail(Status::invalid_argument, "input ", index,
           " is token ids, which go in as they are; an instruction can stand before texts only");
    return *ids;
  }
  const Tokenizer& tokenizer = tokenizer_of(model);
  const std::string& text = std::get<std::string>(inputs_[index]);
  // One text for the tokenizer: it must see across the seam.
  std::vector<int32_t> ids =
      tokenizer.encode(instruction_ ? cat("Instruct: ", *instruction_, "\nQuery:", text) : text, special_);
  const int32_t end = tokenizer.find("<|endoftext|>");
  if (end < 0)
    fail(Status::unsupported,
         "the tokenizer has no token <|endoftext|>, which stands behind every text; use token ids");
  ids.push_back(end);
  return ids;
}

std::vector<int32_t> TextInputs::for_reranking(const LoadedModel& model, size_t index,
                                               std::string_view query) const {
  const auto* text = std::get_if<std::string>(&inputs_[index]);
  if (!text)
    fail(Status::invalid_argument, "input ", index, " is token ids; the documents of a reranker are texts");
  const Tokenizer& tokenizer = tokenizer_of(model);
  // The parts that hold special tokens are ours, and apart from those that may not.
  std::vector<int32_t> ids = tokenizer.encode(kRerankerHead);
  append(ids,
         tokenizer.encode(cat("<Instruct>: ", instruction_ ? std::string_view(*instruction_) : kInstruction,
                              "\n<Query>: ", query, "\n<Document>: ", *text),
                          special_));
  append(ids, tokenizer.encode(kRerankerTail));
  return ids;
}

// The words are single tokens of Qwen's vocabulary. Where they are several, an answer that can only be one of the two is
// decided by their first ones.
AnswerTokens answer_tokens(const LoadedModel& model) {
  const Tokenizer& tokenizer = tokenizer_of(model);
  const AnswerTokens found{tokenizer.encode("yes", false).at(0), tokenizer.encode("no", false).at(0)};
  if (found.yes == found.no)
    fail(Status::unsupported, "\"yes\" and \"no\" begin with the same token in this tokenizer");
  return found;
}

void write_embedding(std::span<const float> hidden, std::span<float> out) {
  double squares = 0;
  for (size_t i = 0; i < out.size(); ++i) squares += static_cast<double>(hidden[i]) * hidden[i];
  const double length = std::max(std::sqrt(squares), 1e-12);  // as torch's normalize: zeros stay zeros
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(hidden[i] / length);
}

float yes_probability(float yes_logit, float no_logit) {
  return static_cast<float>(1 / (1 + std::exp(static_cast<double>(no_logit) - yes_logit)));
}

}  // namespace qwen
