package qwen

/*
#include <qwen.h>
#include <stdlib.h>
*/
import "C"

import "runtime"

// Tokenizer turns text into token ids and back. Any number of goroutines may use one at once.
type Tokenizer struct{ handle *handle[*C.qwen_tokenizer] }

// OpenTokenizer opens a tokenizer.json, the folder that holds one, or a .gguf file. Weights are not needed.
func OpenTokenizer(path string) (*Tokenizer, error) {
	if err := checkABI(); err != nil {
		return nil, err
	}
	name, err := terminated("the path of a tokenizer", path)
	if err != nil {
		return nil, err
	}
	defer free(name)
	var opened *C.qwen_tokenizer
	if err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_tokenizer_open(name, &opened, e) }); err != nil {
		return nil, err
	}
	return newTokenizer(opened, func(p *C.qwen_tokenizer) { C.qwen_tokenizer_free(p) }), nil
}

// Tokenizer is the model's own, which goes on working when the LLM is closed, and keeps the model's memory until it is
// closed itself.
func (l *LLM) Tokenizer() (*Tokenizer, error) {
	defer runtime.KeepAlive(l)
	var found *Tokenizer
	err := l.handle.use(func(engine *C.qwen_engine) error {
		model := C.qwen_engine_model(engine)
		lent := C.qwen_model_tokenizer(model)
		if lent == nil {
			return failf(ErrNotFound, "this model has no tokenizer: %s", l.info.Path)
		}
		C.qwen_model_retain(model)
		found = newTokenizer(lent, func(*C.qwen_tokenizer) { C.qwen_model_free(model) })
		return nil
	})
	return found, err
}

func newTokenizer(pointer *C.qwen_tokenizer, free func(*C.qwen_tokenizer)) *Tokenizer {
	owned := &handle[*C.qwen_tokenizer]{pointer: pointer, what: "tokenizer", free: free}
	tokenizer := &Tokenizer{owned}
	runtime.AddCleanup(tokenizer, (*handle[*C.qwen_tokenizer]).close, owned)
	return tokenizer
}

// Close frees the tokenizer; further calls return [ErrClosed]. Any number of times. It always returns nil.
func (t *Tokenizer) Close() error {
	t.handle.close()
	return nil
}

// Encode returns the token ids of a text, in which special tokens such as <|im_end|> are recognised. Invalid UTF-8 is
// [ErrInvalidArgument].
func (t *Tokenizer) Encode(text string) ([]int32, error) { return t.encode(text, 0) }

// EncodePlain is Encode for text that is not to be trusted: <|im_end|> in it is ordinary text.
func (t *Tokenizer) EncodePlain(text string) ([]int32, error) {
	return t.encode(text, C.QWEN_ENCODE_PLAIN)
}

func (t *Tokenizer) encode(text string, flags C.uint32_t) (tokens []int32, err error) {
	defer runtime.KeepAlive(t)
	err = t.handle.use(func(pointer *C.qwen_tokenizer) (err error) {
		tokens, err = collect(len(text)/2, func(into *int32, capacity C.size_t, needed *C.size_t) error {
			raw, length := chars(text)
			return check(func(e **C.qwen_error) C.int32_t {
				return C.qwen_tokenizer_encode(pointer, raw, length, flags, (*C.int32_t)(into), capacity, needed, e)
			})
		})
		return err
	})
	return tokens, err
}

// Decode returns the text of token ids. Bytes that form no UTF-8 become U+FFFD; an id outside the vocabulary is
// [ErrInvalidArgument].
func (t *Tokenizer) Decode(tokens []int32) (string, error) { return t.decode(tokens, 0) }

// DecodeText is Decode without the special tokens.
func (t *Tokenizer) DecodeText(tokens []int32) (string, error) {
	return t.decode(tokens, C.QWEN_DECODE_SKIP_SPECIAL)
}

func (t *Tokenizer) decode(tokens []int32, flags C.uint32_t) (string, error) {
	defer runtime.KeepAlive(t)
	var text []byte
	err := t.handle.use(func(pointer *C.qwen_tokenizer) (err error) {
		text, err = collect(8*len(tokens), func(into *byte, capacity C.size_t, needed *C.size_t) error {
			raw, count := ids(tokens)
			return check(func(e **C.qwen_error) C.int32_t {
				return C.qwen_tokenizer_decode(pointer, raw, count, flags, bytes(into), capacity, needed, e)
			})
		})
		return err
	})
	return string(text), err
}

// Size is the highest token id + 1; 0 after Close.
func (t *Tokenizer) Size() (size int) {
	defer runtime.KeepAlive(t)
	t.handle.use(func(pointer *C.qwen_tokenizer) error {
		size = int(C.qwen_tokenizer_size(pointer))
		return nil
	})
	return size
}

// TokenID finds a special or added token by its exact text. false: there is none.
func (t *Tokenizer) TokenID(text string) (id int32, found bool) {
	defer runtime.KeepAlive(t)
	id = -1
	t.handle.use(func(pointer *C.qwen_tokenizer) error {
		raw, length := chars(text)
		id = int32(C.qwen_tokenizer_token_id(pointer, raw, length))
		return nil
	})
	return id, id >= 0
}
