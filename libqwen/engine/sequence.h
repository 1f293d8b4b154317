// One choice of a request: what the scheduler schedules and the sampler extends. The step thread's own; what a host may
// read meanwhile is the request's outcome.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/block_pool.h"
#include "engine/sampler.h"
#include "engine/text_stream.h"
#include "engine/token_history.h"

namespace qwen {

class Request;

class Sequence {
 public:
  Sequence(Request& request, uint32_t choice, std::shared_ptr<const Tokenizer> tokenizer);
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  Request& request() const { return request_; }
  uint32_t choice() const { return choice_; }

  std::vector<int32_t> tokens;                     // prompt, then what was generated
  int64_t computed = 0;                            // of `tokens`, how many are in the cache
  std::vector<std::vector<int32_t>> block_tables;  // [cache group]; -1: not needed any more
  int32_t state_slot = -1;   // where the rows of its current chunk of linear attention are
  int64_t state_chunk = 0;   // of its states, those of earlier chunks are given back
  int64_t named_blocks = 0;  // of `computed`, how many full blocks the cache can find again

  uint64_t arrival = 0;  // the scheduler's number
  TokenHistory history;  // the sampler's, of `tokens`

  // The first choice computes the whole prompt with all its logits.
  bool wants_prompt_logprobs() const;
  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  std::span<const int32_t> generated() const;
  // What its block `index` holds, all before it, and the adapter: the blocks' names in the prefix cache.
  const BlockKey& key(int64_t index);
  // The same for the block behind the named ones, of which `rows` tokens are there.
  BlockKey key_of_part(int64_t rows);

  // A thought that has used up its budget is ended, token by token, and no other one may begin.
  TokenRule rule() const;
  // Takes one generated token: stores it, emits its text, and ends the choice when the token, the text or max_tokens says
  // so.
  void append(const SampledToken& token);
  // What is left of its text goes out first; where there is no memory for that, the request has failed.
  void finish(FinishReason reason) noexcept;
  bool is_finished() const { return finished_; }

 private:
  BlockKey first_key() const;
  void emit(std::vector<TextPiece> pieces, const SampledToken* token, Channel channel);

  Request& request_;
  const uint32_t choice_;
  TextStream text_;
  std::vector<BlockKey> keys_;
  int64_t reasoning_tokens_ = 0;
  size_t forced_ = 0;  // of params.reasoning_end_ids, how many have been forced
  bool finished_ = false;
};

}  // namespace qwen
