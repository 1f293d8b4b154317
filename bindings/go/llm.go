package qwen

/*
#include <qwen.h>
#include <stdlib.h>
*/
import "C"

import (
	"context"
	"runtime"
	"slices"
)

// LLM is a model that is ready to generate. All its methods may be called by any number of goroutines at once; what they
// ask is computed together. Close it when it is no longer needed.
type LLM struct {
	*engine // apart from LLM, so that the garbage collector can tell when nobody holds the LLM any more
	info    ModelInfo
}

// engine is what the pump and the cleanup hold.
type engine struct {
	handle  handle[*C.qwen_engine]
	pump    *pump
	closing context.Context // ends when Close begins
	close   context.CancelCauseFunc
	places  chan struct{} // held by the calls that block a thread in the library
}

// maxBlockingCalls bounds the threads that wait in Embed and Rerank; more calls wait as goroutines.
const maxBlockingCalls = 64

// NewLLM opens a model. Its files are mapped, not read: that takes milliseconds, and they must not be truncated while the
// LLM lives (WithLoad("read") copies them instead).
func NewLLM(config *Config) (*LLM, error) { return NewLLMContext(context.Background(), config) }

// NewLLMContext is [NewLLM] for loading that a context can end; what the LLM does later is not bound to it.
func NewLLMContext(ctx context.Context, config *Config) (*LLM, error) {
	if err := checkABI(); err != nil {
		return nil, err
	}
	if config == nil {
		return nil, failf(ErrInvalidArgument, "the config is nil; make one with qwen.NewConfig")
	}
	if ctx.Err() != nil {
		return nil, cancelled(context.Cause(ctx))
	}
	path, err := terminated("the path of a model", config.Path)
	if err != nil {
		return nil, err
	}
	defer free(path)
	given, loading := slices.Clone(config.options), watched(ctx, nil)
	for i, option := range given {
		if report, ok := option.value.(func(float64) bool); ok && option.key == "progress" {
			loading = watched(ctx, report)
			given[i].value = loading
		}
	}
	if !slices.ContainsFunc(given, func(option Option) bool { return option.key == "progress" }) {
		given = append(given, Option{"progress", loading})
	}
	options, err := newOptions(given)
	if err != nil {
		return nil, err
	}
	defer C.qwen_options_free(options)

	var opened *C.qwen_engine
	err = check(func(e **C.qwen_error) C.int32_t { return C.qwen_create(path, options, &opened, e) })
	loading.repanic()
	if err != nil {
		return nil, reasonOf(err, ctx)
	}
	made := &engine{places: make(chan struct{}, maxBlockingCalls)}
	made.handle.pointer, made.handle.what = opened, "LLM"
	made.handle.free = func(p *C.qwen_engine) { C.qwen_destroy(p) }
	made.closing, made.close = context.WithCancelCause(context.Background())
	llm := &LLM{engine: made}
	if llm.info, err = modelInfo(opened); err == nil {
		made.pump, err = startPump()
	}
	if err != nil {
		made.handle.close()
		return nil, err
	}
	runtime.AddCleanup(llm, func(left *engine) { go left.shut() }, made)
	return llm, nil
}

// Close ends every request in flight with [ErrClosed], waits for the engine's threads and frees the model. Further calls
// return ErrClosed; Close itself may be called any number of times. It always returns nil.
func (l *LLM) Close() error {
	l.shut()
	return nil
}

func (e *engine) shut() {
	e.close(failf(ErrClosed, "this LLM was closed")) // calls that wait inside the library return
	e.handle.close()
	e.pump.stop() // the last events are out
}

// Drain waits until the requests in flight have ended and refuses new ones with [ErrClosed], for a graceful end. Its error
// is the context's when that ends first; then some may still be running.
func (l *LLM) Drain(ctx context.Context) error {
	defer runtime.KeepAlive(l)
	for {
		err := l.handle.use(func(engine *C.qwen_engine) error {
			return check(func(e **C.qwen_error) C.int32_t { return C.qwen_engine_drain(engine, 50, e) })
		})
		if failure, ok := err.(*Error); !ok || failure.Status != ErrTimeout {
			return err
		}
		if ctx.Err() != nil {
			return &Error{Status: ErrTimeout, Message: "some requests are still running", cause: context.Cause(ctx)}
		}
	}
}

// reasonOf makes a context the reason of a failure that it has caused.
func reasonOf(err error, contexts ...context.Context) error {
	if failure, ok := err.(*Error); ok && failure.Status == ErrCancelled {
		for _, ctx := range contexts {
			if ctx.Err() == nil {
				continue
			}
			if reason, ok := context.Cause(ctx).(*Error); ok {
				return reason
			}
			return &Error{Status: ErrCancelled, Message: failure.Message, cause: context.Cause(ctx)}
		}
	}
	return err
}
