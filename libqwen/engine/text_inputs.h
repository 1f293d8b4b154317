// Texts to embed or to judge, and the token ids that Qwen's embedding models and rerankers were trained to see of them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/loaded_model.h"

namespace qwen {

class TextInputs {
 public:
  // special: "<|im_end|>" in an input, a query or an instruction is the special token, as Hugging Face has it; otherwise it
  // is text like any other, and what somebody wrote into a document cannot end the document.
  explicit TextInputs(bool special) : special_(special) {}

  // Throw Error(invalid_argument) naming the input: empty, invalid UTF-8.
  void add_text(std::string text);
  void add_tokens(std::vector<int32_t> ids);  // go in as they are
  // What a search is for, in one sentence; nullopt: the one of the model cards.
  void set_instruction(std::optional<std::string> instruction);

  size_t size() const { return inputs_.size(); }

  // What the model is given of one input. Throw Error: invalid_argument, unsupported (no tokenizer, a token is not in it).
  std::vector<int32_t> for_embedding(const LoadedModel& model, size_t index) const;
  std::vector<int32_t> for_reranking(const LoadedModel& model, size_t index, std::string_view query) const;

 private:
  bool special_;
  std::optional<std::string> instruction_;  // nullopt: not set; embeddings are then those of documents
  std::vector<std::variant<std::string, std::vector<int32_t>>> inputs_;
};

// Throws Error(invalid_argument): empty or invalid UTF-8.
void check_query(std::string_view query);

// The tokens a reranker answers with. Throws Error(unsupported).
struct AnswerTokens {
  int32_t yes = 0, no = 0;
};
AnswerTokens answer_tokens(const LoadedModel& model);

// The first out.size() values of a hidden state, scaled to length 1 (Matryoshka: https://arxiv.org/abs/2205.13147).
void write_embedding(std::span<const float> hidden, std::span<float> out);
// Of an answer that is one of the two, the probability of "yes": softmax([yes, no])[0].
float yes_probability(float yes_logit, float no_logit);

}  // namespace qwen
