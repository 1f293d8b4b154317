package qwen

// #include <qwen.h>
import "C"

import (
	"runtime"
	"time"
)

// ModelInfo describes a checkpoint.
type ModelInfo struct {
	Architecture      string // "Qwen3ForCausalLM"
	Path              string
	VocabSize         int
	HiddenSize        int
	NumHiddenLayers   int
	NumAttentionHeads int
	NumKeyValueHeads  int
	HeadDim           int
	HasTokenizer      bool
	HasChatTemplate   bool
	ContextLength     int64 // longest prompt and answer together, tokens
	Parameters        int64
	WeightBytes       int64 // as stored
}

// Info describes the model. It works after Close, too.
func (l *LLM) Info() ModelInfo { return l.info }

func modelInfo(engine *C.qwen_engine) (ModelInfo, error) {
	raw := C.qwen_model_info{struct_size: C.sizeof_qwen_model_info}
	err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_model_info_get(C.qwen_engine_model(engine), &raw, e) })
	if err != nil {
		return ModelInfo{}, err
	}
	return ModelInfo{
		Architecture: C.GoString(raw.architecture), Path: C.GoString(raw.path),
		VocabSize: int(raw.vocab_size), HiddenSize: int(raw.hidden_size), NumHiddenLayers: int(raw.num_hidden_layers),
		NumAttentionHeads: int(raw.num_attention_heads), NumKeyValueHeads: int(raw.num_key_value_heads),
		HeadDim: int(raw.head_dim), HasTokenizer: raw.has_tokenizer != 0, HasChatTemplate: raw.has_chat_template != 0,
		ContextLength: int64(raw.context_length), Parameters: int64(raw.parameters), WeightBytes: int64(raw.weight_bytes),
	}, nil
}

// EngineStats says what an [LLM] is doing and has done. A request has one choice, or as many as [WithN] says.
type EngineStats struct {
	Backend          string // "cpu.avx512"
	Threads          int    // that compute
	Running          int64  // choices being computed
	Waiting          int64  // choices in the queue
	Finished         int64  // choices ended, for whatever reason
	Steps            int64  // forward passes
	PromptTokens     int64  // computed
	CachedTokens     int64  // of prompts, taken from the prefix cache instead
	GeneratedTokens  int64
	CacheBlocksTotal int64
	CacheBlocksUsed  int64
	CacheBlockTokens int64 // in one block
	CacheBytes       int64 // memory of all blocks
}

// Stats says what the LLM is doing and has done.
func (l *LLM) Stats() (EngineStats, error) {
	defer runtime.KeepAlive(l)
	var stats EngineStats
	err := l.handle.use(func(engine *C.qwen_engine) error {
		raw := C.qwen_engine_stats{struct_size: C.sizeof_qwen_engine_stats}
		err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_engine_stats_get(engine, &raw, e) })
		if err != nil {
			return err
		}
		stats = EngineStats{
			Backend: C.GoString(raw.backend), Threads: int(raw.threads), Running: int64(raw.running),
			Waiting: int64(raw.waiting), Finished: int64(raw.finished), Steps: int64(raw.steps),
			PromptTokens: int64(raw.prompt_tokens), CachedTokens: int64(raw.cached_tokens),
			GeneratedTokens: int64(raw.generated_tokens), CacheBlocksTotal: int64(raw.cache_blocks_total),
			CacheBlocksUsed: int64(raw.cache_blocks_used), CacheBlockTokens: int64(raw.cache_block_tokens),
			CacheBytes: int64(raw.cache_bytes),
		}
		return nil
	})
	return stats, err
}

// Counters says how often each kernel has run, such as "linear.bf16.avx512".
func (l *LLM) Counters() (map[string]int64, error) {
	defer runtime.KeepAlive(l)
	counters := map[string]int64{}
	err := l.handle.use(func(engine *C.qwen_engine) error {
		raw := C.qwen_counter{struct_size: C.sizeof_qwen_counter}
		for index := C.size_t(0); C.qwen_engine_counter_get(engine, index, &raw, nil) == C.QWEN_OK; index++ {
			counters[C.GoString(raw.name)] = int64(raw.value)
		}
		return nil
	})
	return counters, err
}

// Step is one forward pass of an engine over rows of many requests; see [WithTrace].
type Step struct {
	Number          int64 // 1, 2, …
	Sequences       int   // choices that had rows in it
	PromptRows      int64 // tokens of prompts, and of answers computed again after a preemption
	GenerateRows    int64 // one for each choice that generates
	Running         int64 // choices, after the step
	Waiting         int64
	Preempted       int64 // choices that gave their cache blocks back before the step
	CacheBlocksUsed int64
	Schedule        time.Duration // deciding what to compute
	Forward         time.Duration // computing it
	Sample          time.Duration // choosing tokens, making text and events
}

func stepOf(raw *C.qwen_step) Step {
	return Step{
		Number: int64(raw.number), Sequences: int(raw.sequences), PromptRows: int64(raw.prompt_rows),
		GenerateRows: int64(raw.generate_rows), Running: int64(raw.running), Waiting: int64(raw.waiting),
		Preempted: int64(raw.preempted), CacheBlocksUsed: int64(raw.cache_blocks_used),
		Schedule: seconds(raw.schedule_seconds), Forward: seconds(raw.forward_seconds), Sample: seconds(raw.sample_seconds),
	}
}

func seconds(value C.double) time.Duration {
	return time.Duration(float64(value) * float64(time.Second))
}
