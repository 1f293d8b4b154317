package qwen

import (
	"context"
	"fmt"
	"iter"
	"os"
	"time"
)

// Generate streams the answer to a prompt:
//
//	for event, err := range llm.Generate(ctx, qwen.Text("Why is the sky blue?"), qwen.WithMaxTokens(200)) {
//
// The request is submitted when the loop begins, and once more by each further loop over the same sequence. The last event of
// an answer that ended well is [EventDone] with the whole [Output]. A failure comes as the error of the last event, whose
// Output then is what there was, if anything. Leaving the loop early, or a context that ends, cancels the request; the loop is
// over when the engine has let go of it. options: a [*SamplingParams], or single options, or both.
func (l *LLM) Generate(ctx context.Context, prompt Prompt, options ...SamplingOption) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		s, err := l.submit(ctx, prompt, options, true)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer s.close()
		for !s.done {
			if event, err := s.next(ctx); !yield(event, err) {
				return
			}
		}
	}
}

// Complete returns the whole answer to a prompt. When a request fails that had begun, or its context ends, the Output is
// what there was, beside the error; it is nil where the request was refused.
func (l *LLM) Complete(ctx context.Context, prompt Prompt, options ...SamplingOption) (*Output, error) {
	s, err := l.submit(ctx, prompt, options, false)
	if err != nil {
		return nil, err
	}
	defer s.close()
	event, err := s.next(ctx)
	return event.Output, err
}

// Chat returns the answer to a conversation. To go on with it, append the answer's message and the next question:
//
//	messages = append(messages, output.Message(), qwen.Message{Role: "user", Content: "And why red at sunset?"})
func (l *LLM) Chat(ctx context.Context, messages []Message, options ...SamplingOption) (*Output, error) {
	return l.Complete(ctx, Messages(messages), options...)
}

// Message is the answer as the assistant's turn of a conversation, without the thought, as the templates want it.
func (c Choice) Message() Message {
	return Message{Role: "assistant", Content: c.Text, ToolCalls: c.ToolCalls}
}

// GenerateBatch returns the answers to many prompts, in their order, computed together. The first failure cancels the others
// and is returned.
func (l *LLM) GenerateBatch(ctx context.Context, prompts []Prompt, options ...SamplingOption) ([]Output, error) {
	return l.batch(ctx, prompts, options, func(*Output) {})
}

// GenerateSimple is [LLM.GenerateBatch] for prompts that are [Text], without a context. params may be nil. showProgress
// writes a line to standard error that says how far it is.
func (l *LLM) GenerateSimple(prompts []string, params *SamplingParams, showProgress bool) ([]Output, error) {
	texts := make([]Prompt, len(prompts))
	for i, prompt := range prompts {
		texts[i] = Text(prompt)
	}
	finished, tokens, begin := 0, int64(0), time.Now()
	report := func(output *Output) {
		finished, tokens = finished+1, tokens+output.Stats.GeneratedTokens
		rate := float64(tokens) / time.Since(begin).Seconds()
		fmt.Fprintf(os.Stderr, "\r%d of %d answers, %.0f tokens/s ", finished, len(prompts), rate)
	}
	if !showProgress || len(prompts) == 0 {
		report = func(*Output) {}
	} else {
		defer fmt.Fprintln(os.Stderr)
	}
	return l.batch(context.Background(), texts, []SamplingOption{params}, report)
}

// batch calls report for every answer, as they come, on this goroutine.
func (l *LLM) batch(ctx context.Context, prompts []Prompt, options []SamplingOption, report func(*Output)) ([]Output, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		index  int
		output *Output
		err    error
	}
	answers, running := make(chan answer, len(prompts)), 0
	var failure error
	for index, prompt := range prompts { // submitted in their order, waited for together
		s, err := l.submit(ctx, prompt, options, false)
		if err != nil {
			failure = err
			break
		}
		running++
		go func() {
			defer s.close()
			event, err := s.next(ctx)
			answers <- answer{index, event.Output, err}
		}()
	}
	outputs := make([]Output, len(prompts))
	for ; running > 0; running-- {
		if failure != nil {
			cancel()
		}
		got := <-answers
		if got.err == nil {
			outputs[got.index] = *got.output
			report(got.output)
		} else if failure == nil {
			failure = got.err
		}
	}
	if failure != nil {
		return nil, failure
	}
	return outputs, nil
}
