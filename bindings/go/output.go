package qwen

// #include <qwen.h>
import "C"

import "time"

// Output is a whole answer. It has the fields of its first choice, which is the only one unless [WithN] asks for more.
type Output struct {
	Choice
	Choices        []Choice
	Stats          RequestStats
	PromptLogprobs []float32 // with WithPromptLogprobs: one for each token of the prompt, the first is 0
}

// Choice is one of the answers to a prompt.
type Choice struct {
	Text         string
	Reasoning    string // what the model thought first, "" if nothing
	TokenIDs     []int32
	FinishReason FinishReason
	StopText     *string // which of the texts of WithStop ended the answer; nil: none did
	ToolCalls    []ToolCall
	Logprobs     []float32        // with WithLogprobs: natural logarithms, one for each token
	TopLogprobs  [][]TokenLogprob // with WithTopLogprobs: the likeliest tokens at each place, likeliest first
}

// TokenLogprob is a token and the natural logarithm of its probability before temperature.
type TokenLogprob struct {
	TokenID int32
	Logprob float32
}

// RequestStats are the counts and times of one request.
type RequestStats struct {
	PromptTokens    int64
	CachedTokens    int64 // of the prompt, taken from the prefix cache
	GeneratedTokens int64 // all choices
	Queued          time.Duration
	Prompt          time.Duration // first computation to first token
	Generate        time.Duration // first token to last token
	FirstToken      time.Duration // submit to first token
	InterTokenP50   time.Duration // between one token of a choice and its next one: median,
	InterTokenP99   time.Duration // 99th percentile,
	InterTokenMax   time.Duration // and longest
	Seed            uint64        // that was used: given, or drawn
}

// FinishReason says why a choice ended.
type FinishReason int32

// The reasons.
const (
	FinishNone      FinishReason = C.QWEN_FINISH_NONE      // it has not
	FinishStop      FinishReason = C.QWEN_FINISH_STOP      // the model ended its answer, or a stop token or text came
	FinishLength    FinishReason = C.QWEN_FINISH_LENGTH    // WithMaxTokens or the context was reached
	FinishCancelled FinishReason = C.QWEN_FINISH_CANCELLED // by its context, or by leaving the loop
	FinishError     FinishReason = C.QWEN_FINISH_ERROR
)

func (r FinishReason) String() string {
	names := []string{"none", "stop", "length", "cancelled", "error"}
	if r < 0 || int(r) >= len(names) {
		return "unknown"
	}
	return names[r]
}

// readResult copies what the library has of an answer.
func readResult(result *C.qwen_result) (*Output, error) {
	output := &Output{}
	for index := range C.qwen_result_choice_count(result) {
		choice, err := readChoice(result, index)
		if err != nil {
			return nil, err
		}
		output.Choices = append(output.Choices, choice)
	}
	if len(output.Choices) > 0 {
		output.Choice = output.Choices[0]
	}
	stats := C.qwen_stats{struct_size: C.sizeof_qwen_stats}
	if err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_result_stats_get(result, &stats, e) }); err != nil {
		return nil, err
	}
	output.Stats = RequestStats{
		PromptTokens: int64(stats.prompt_tokens), CachedTokens: int64(stats.cached_tokens),
		GeneratedTokens: int64(stats.generated_tokens), Queued: seconds(stats.queued_seconds),
		Prompt: seconds(stats.prompt_seconds), Generate: seconds(stats.generate_seconds),
		FirstToken: seconds(stats.first_token_seconds), InterTokenP50: seconds(stats.inter_token_p50_seconds),
		InterTokenP99: seconds(stats.inter_token_p99_seconds), InterTokenMax: seconds(stats.inter_token_max_seconds),
		Seed: uint64(stats.seed),
	}
	var logprobs *C.float
	var count C.size_t
	err := check(func(e **C.qwen_error) C.int32_t {
		return C.qwen_result_prompt_logprobs_get(result, &logprobs, &count, e)
	})
	output.PromptLogprobs = copied[float32](logprobs, count)
	return output, err
}

func readChoice(result *C.qwen_result, index C.size_t) (Choice, error) {
	raw := C.qwen_choice{struct_size: C.sizeof_qwen_choice}
	if err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_result_choice_get(result, index, &raw, e) }); err != nil {
		return Choice{}, err
	}
	choice := Choice{
		Text: goText(raw.text, raw.text_length), Reasoning: goText(raw.reasoning, raw.reasoning_length),
		TokenIDs: copied[int32](raw.token_ids, raw.token_count), FinishReason: FinishReason(raw.finish_reason),
		Logprobs:    copied[float32](raw.logprobs, raw.token_count),
		TopLogprobs: topLogprobs(raw.top_token_ids, raw.top_logprobs, raw.token_count, raw.top_count),
	}
	if raw.stop_text != nil {
		text := goText(raw.stop_text, raw.stop_text_length)
		choice.StopText = &text
	}
	for i := range raw.tool_call_count {
		call := C.qwen_tool_call{struct_size: C.sizeof_qwen_tool_call}
		if err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_result_tool_call_get(result, index, i, &call, e) }); err != nil {
			return Choice{}, err
		}
		choice.ToolCalls = append(choice.ToolCalls,
			ToolCall{goText(call.name, call.name_length), goText(call.arguments, call.arguments_length)})
	}
	return choice, nil
}

func topLogprobs(tokens *C.int32_t, logprobs *C.float, places, width C.size_t) [][]TokenLogprob {
	if tokens == nil {
		return nil
	}
	flatTokens, flatLogprobs := copied[int32](tokens, places*width), copied[float32](logprobs, places*width)
	rows := make([][]TokenLogprob, places)
	for i, token := range flatTokens {
		rows[i/int(width)] = append(rows[i/int(width)], TokenLogprob{token, flatLogprobs[i]})
	}
	return rows
}
