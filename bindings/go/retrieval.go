package qwen

/*
#include <qwen.h>
#include <stdlib.h>

extern int32_t qwenGoProgress(double fraction, void *user);
*/
import "C"

import (
	"context"
	"runtime"
	"unsafe"
)

// RetrievalOption is an option of [LLM.Embed] and [LLM.Rerank]. Of the sampling options WithAdapter, WithPriority (under 0:
// behind everybody else's requests) and WithTimeout (for the whole call) matter.
type RetrievalOption interface{ retrieve(*retrieval) }

// retrieval is what is asked of Embed and Rerank.
type retrieval struct {
	options     []Option
	dimensions  int
	instruction *string
	flags       C.uint32_t
	report      func(fraction float64) bool
}

type retrievalOption func(*retrieval)

func (o retrievalOption) retrieve(asked *retrieval) { o(asked) }

// WithDimensions keeps the first so many values of each embedding, at least 32, and scales them to length 1. 0: all.
func WithDimensions(dimensions int) RetrievalOption {
	return retrievalOption(func(asked *retrieval) { asked.dimensions = dimensions })
}

// WithInstruction says what the search is for, in one sentence, best in English. To [LLM.Embed] texts with an instruction are
// queries and those without one documents. "" is the sentence that the models were trained with, which [LLM.Rerank] takes
// anyway: "Given a web search query, retrieve relevant passages that answer the query".
func WithInstruction(text string) RetrievalOption {
	return retrievalOption(func(asked *retrieval) { asked.instruction = &text })
}

// WithSpecialTokens recognises special tokens such as <|im_end|> in the texts. Without it they are ordinary text, so that
// what somebody wrote into a document cannot end it.
func WithSpecialTokens() RetrievalOption {
	return retrievalOption(func(asked *retrieval) { asked.flags |= C.QWEN_INPUTS_SPECIAL })
}

// Embed returns a vector of length 1 for every text: the dot product of two is their cosine. It needs a model such as
// Qwen3-Embedding, and takes any number of texts, each computed as a request of its own beside all the others. It returns
// when all are done, at the first failure, which names the text by its place, or when the context ends.
func (l *LLM) Embed(ctx context.Context, texts []string, options ...RetrievalOption) ([][]float32, error) {
	return l.embed(ctx, len(texts), func(inputs *C.qwen_inputs) error { return addTexts(inputs, texts) }, options)
}

// EmbedTokens is [LLM.Embed] for token ids, which are computed as they are.
func (l *LLM) EmbedTokens(ctx context.Context, inputs [][]int32, options ...RetrievalOption) ([][]float32, error) {
	add := func(made *C.qwen_inputs) error {
		for _, input := range inputs {
			tokens, count := ids(input)
			err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_inputs_add_tokens(made, tokens, count, e) })
			if err != nil {
				return err
			}
		}
		return nil
	}
	return l.embed(ctx, len(inputs), add, options)
}

// Rerank judges every document by how well it answers the query: the probability that a model such as Qwen3-Reranker says
// yes. The rest is as in [LLM.Embed].
func (l *LLM) Rerank(ctx context.Context, query string, documents []string, options ...RetrievalOption) ([]float32, error) {
	add := func(inputs *C.qwen_inputs) error { return addTexts(inputs, documents) }
	return l.retrieve(ctx, "scores", add, options, func(c *retrievalCall, e **C.qwen_error) C.int32_t {
		text, length := chars(query)
		return C.qwen_rerank(c.engine, text, length, c.inputs, c.options, c.progress, c.user, &c.tensors, e)
	})
}

func (l *LLM) embed(ctx context.Context, count int, add func(*C.qwen_inputs) error, options []RetrievalOption) ([][]float32, error) {
	flat, err := l.retrieve(ctx, "embeddings", add, options, func(c *retrievalCall, e **C.qwen_error) C.int32_t {
		return C.qwen_embed(c.engine, c.inputs, c.dimensions, c.options, c.progress, c.user, &c.tensors, e)
	})
	if err != nil || count == 0 {
		return nil, err
	}
	rows, width := make([][]float32, count), len(flat)/count
	for i := range rows {
		rows[i] = flat[i*width : (i+1)*width : (i+1)*width]
	}
	return rows, nil
}

// retrievalCall is what the library's two functions are given.
type retrievalCall struct {
	engine     *C.qwen_engine
	inputs     *C.qwen_inputs
	options    *C.qwen_options
	dimensions C.int64_t
	progress   C.qwen_progress_fn
	user       unsafe.Pointer
	tensors    *C.qwen_tensors
}

// retrieve makes the inputs and the options, calls the library and returns the values of the tensor called name.
func (l *LLM) retrieve(ctx context.Context, name string, add func(*C.qwen_inputs) error, options []RetrievalOption,
	call func(*retrievalCall, **C.qwen_error) C.int32_t) (values []float32, err error) {
	defer runtime.KeepAlive(l)
	asked := &retrieval{}
	for _, option := range options {
		if option != nil {
			option.retrieve(asked)
		}
	}
	select {
	case l.places <- struct{}{}:
		defer func() { <-l.places }()
	case <-ctx.Done():
		return nil, cancelled(context.Cause(ctx))
	}
	var c retrievalCall
	if c.inputs, err = asked.inputs(add); err != nil {
		return nil, err
	}
	defer C.qwen_inputs_free(c.inputs)
	if c.options, err = newOptions(asked.options); err != nil {
		return nil, err
	}
	defer C.qwen_options_free(c.options)
	watch := watched(ctx, asked.report, l.closing)
	c.progress, c.user, c.dimensions = C.qwen_progress_fn(C.qwenGoProgress), lend(watch), C.int64_t(asked.dimensions)
	defer release(c.user)
	err = l.handle.use(func(engine *C.qwen_engine) error {
		c.engine = engine
		return check(func(e **C.qwen_error) C.int32_t { return call(&c, e) })
	})
	watch.repanic()
	if err != nil {
		return nil, reasonOf(err, ctx, l.closing)
	}
	defer C.qwen_tensors_free(c.tensors)
	return readTensor(c.tensors, name)
}

// inputs makes the library's list of inputs. The caller frees it.
func (r *retrieval) inputs(add func(*C.qwen_inputs) error) (*C.qwen_inputs, error) {
	var inputs *C.qwen_inputs
	if err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_inputs_new(r.flags, &inputs, e) }); err != nil {
		return nil, err
	}
	err := add(inputs)
	if err == nil && r.instruction != nil {
		text, length := chars(*r.instruction)
		if length == 0 {
			text = nil // the library's own sentence
		}
		err = check(func(e **C.qwen_error) C.int32_t { return C.qwen_inputs_set_instruction(inputs, text, length, e) })
	}
	if err != nil {
		C.qwen_inputs_free(inputs)
		return nil, err
	}
	return inputs, nil
}

func addTexts(inputs *C.qwen_inputs, texts []string) error {
	for _, each := range texts {
		text, length := chars(each)
		err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_inputs_add_text(inputs, text, length, e) })
		if err != nil {
			return err
		}
	}
	return nil
}

func readTensor(tensors *C.qwen_tensors, name string) ([]float32, error) {
	raw, err := terminated("the name of a tensor", name)
	if err != nil {
		return nil, err
	}
	defer free(raw)
	tensor := C.qwen_tensor{struct_size: C.sizeof_qwen_tensor}
	if err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_tensors_get(tensors, 0, raw, &tensor, e) }); err != nil {
		return nil, err
	}
	return copied[float32]((*C.float)(tensor.data), C.size_t(tensor.bytes/4)), nil
}
