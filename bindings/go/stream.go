package qwen

// #include <qwen.h>
import "C"

import (
	"context"
	"runtime"
	"sync"
)

// stream is one request under way, and the events of it that have arrived and were not taken. One goroutine takes them.
type stream struct {
	llm       *LLM // keeps the engine until the request is over
	request   *C.qwen_request
	wantsAll  bool // false: only the end matters
	taken     []Event
	cancelled bool // by its context, or because nobody wants the rest
	cut       bool // events that came after that were left out
	done      bool // the DONE event was taken

	arrived chan struct{} // room for one: something has come since the last look
	mutex   sync.Mutex    // guards what the pump gives:
	events  []Event
	failure *Error // how the request failed, known with its DONE event
}

// submit starts a request.
func (l *LLM) submit(ctx context.Context, prompt Prompt, options []SamplingOption, wantsAll bool) (*stream, error) {
	if ctx.Err() != nil {
		return nil, cancelled(context.Cause(ctx))
	}
	s := &stream{llm: l, wantsAll: wantsAll, arrived: make(chan struct{}, 1)}
	made, err := l.newPrompt(prompt)
	if err != nil {
		return nil, err
	}
	defer C.qwen_prompt_free(made)
	given, err := newOptions(NewSamplingParams(options...).options)
	if err != nil {
		return nil, err
	}
	defer C.qwen_options_free(given)
	return s, l.handle.use(func(engine *C.qwen_engine) error {
		tag := l.pump.add(s)
		err := check(func(e **C.qwen_error) C.int32_t {
			return C.qwen_submit(engine, made, given, l.pump.queue, tag, &s.request, e)
		})
		if err != nil {
			l.pump.remove(tag)
		}
		return err
	})
}

// give is called by the pump, and never waits.
func (s *stream) give(raw *C.qwen_event) {
	if raw._type != C.QWEN_EVENT_DONE && !s.wantsAll {
		return
	}
	s.mutex.Lock()
	s.events = append(s.events, readEvent(raw))
	if raw.status != C.QWEN_OK {
		s.failure = &Error{Status: Status(raw.status), Message: C.GoString(raw.message)}
	}
	s.mutex.Unlock()
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// next waits for the next event. When the context ends it cancels the request, waits for its end and leaves out what comes
// before DONE. The error is the request's failure, which comes with DONE.
func (s *stream) next(ctx context.Context) (Event, error) {
	ended := ctx.Done()
	for {
		if ended != nil && ctx.Err() != nil {
			C.qwen_request_cancel(s.request)
			ended, s.cancelled = nil, true
		}
		for len(s.taken) > 0 {
			event := s.taken[0]
			s.taken = s.taken[1:]
			if event.Type == EventDone {
				return s.finish(ctx, event)
			}
			if !s.cancelled {
				return event, nil
			}
			s.cut = true
		}
		s.mutex.Lock()
		s.taken, s.events = s.events, nil
		s.mutex.Unlock()
		if len(s.taken) > 0 {
			continue
		}
		select {
		case <-s.arrived:
		case <-ended:
		}
	}
}

// finish reads the result behind the DONE event.
func (s *stream) finish(ctx context.Context, event Event) (Event, error) {
	s.done = true
	var result *C.qwen_result
	err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_request_result(s.request, &result, e) })
	if err == nil {
		event.Output, err = readResult(result)
		C.qwen_result_free(result)
	}
	if s.failure != nil {
		err = reasonOf(s.failure, ctx)
	} else if s.cut && ctx.Err() != nil { // it had ended well by itself, but the caller did not see all of it
		err = cancelled(context.Cause(ctx))
	}
	return event, err
}

// close cancels what is still running, waits for its end and frees the request.
func (s *stream) close() {
	if s.request == nil {
		return
	}
	if !s.done {
		C.qwen_request_cancel(s.request)
		s.cancelled = true
		s.next(context.Background())
	}
	C.qwen_request_free(s.request)
	s.request = nil
	runtime.KeepAlive(s.llm)
}
