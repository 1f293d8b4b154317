package qwen

import "context"

// Config says which model to open and how. It may be changed or used again after [NewLLM].
type Config struct {
	Path    string // a folder as Qwen publishes it, or a .gguf file
	options []Option
}

// NewConfig is the configuration of a model: the folder of a checkpoint or a .gguf file, and options, all of which have
// defaults. Nothing is checked before [NewLLM].
func NewConfig(path string, options ...ConfigOption) *Config {
	config := &Config{Path: path}
	for _, option := range options {
		if option != nil {
			option.configure(config)
		}
	}
	return config
}

// WithProgress calls report while a model loads or while texts are embedded or ranked, with how much is done, 0 to 1, on the
// goroutine that waits. It returns whether to go on: false ends the call with [ErrCancelled]. It must not use the [LLM].
func WithProgress(report func(fraction float64) bool) ProgressOption { return ProgressOption{report} }

// ProgressOption is what [WithProgress] returns.
type ProgressOption struct{ report func(fraction float64) bool }

func (o ProgressOption) configure(config *Config)  { WithOption("progress", o.report).configure(config) }
func (o ProgressOption) retrieve(asked *retrieval) { asked.report = o.report }

// WithTrace calls report after every step of the engine, on the engine's own thread, which waits for it: it must return
// soon, must not panic, and must not use the [LLM].
func WithTrace(report func(Step)) ConfigOption { return WithOption("trace", report) }

// watched is a progress function that also ends what it watches when one of the contexts ends.
func watched(ctx context.Context, report func(fraction float64) bool, more ...context.Context) *progress {
	return &progress{call: func(fraction float64) bool {
		for _, watched := range append(more, ctx) {
			if watched.Err() != nil {
				return false
			}
		}
		return report == nil || report(fraction)
	}}
}
