// What a request was asked to do; never changes after submit.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/sampling_params.h"

namespace qwen {

class EventQueue;
struct Adapter;

// What qwen_forward, qwen_embed and qwen_rerank ask for instead of generated tokens.
struct WantedTensors {
  bool logits = false;
  bool hidden_states = false;
  bool mtp_logits = false;
  int64_t first_row = 0;                // of the prompt's tokens, the first one whose rows are wanted
  std::vector<int32_t> logits_of = {};  // of each row of logits, only these tokens'; empty: the whole row
  bool last_hidden = false;             // the last token's row behind the final norm
  bool any() const { return logits || hidden_states || mtp_logits || last_hidden; }
};

struct RequestInput {
  std::vector<int32_t> prompt;
  SamplingParams params;
  WantedTensors tensors;         // when any: one forward pass, nothing is generated
  bool split_reasoning = false;  // what stands between <think> and </think> has a channel of its own
  std::string tools;             // a JSON array; not "": tool calls are parsed out of the answer
  std::shared_ptr<const Adapter> adapter = nullptr;  // null: the model as it is
  int64_t priority = 0;
  std::optional<int64_t> timeout_ms;  // after submit
  uint64_t tag = 0;
  std::weak_ptr<EventQueue> queue;  // the host's: events hold the request, so the request must not hold it
};

}  // namespace qwen
