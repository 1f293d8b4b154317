package qwen_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	qwen "libqwen/bindings/go"
)

func TestWhatCannotBeOpenedIsNamed(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "no-such-model")
	_, err := qwen.NewLLM(qwen.NewConfig(missing))
	expect(t, err, qwen.ErrNotFound, missing)
	if !errors.Is(err, fs.ErrNotExist) || qwen.ErrNotFound.Error() != "QWEN_ERR_NOT_FOUND" {
		t.Errorf("%v: %v", qwen.ErrNotFound, err)
	}
	var failure *qwen.Error
	if !errors.As(err, &failure) || failure.Status != qwen.ErrNotFound || failure.Timeout() {
		t.Errorf("%#v", err)
	}
	_, err = qwen.OpenTokenizer(missing)
	expect(t, err, qwen.ErrNotFound, missing)
	_, err = qwen.NewLLM(qwen.NewConfig("a\x00b"))
	expect(t, err, qwen.ErrInvalidArgument, "NUL")
	_, err = qwen.OpenTokenizer("a\x00b")
	expect(t, err, qwen.ErrInvalidArgument, "NUL")
	_, err = qwen.NewLLM(nil)
	expect(t, err, qwen.ErrInvalidArgument, "NewConfig")

	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "config.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = qwen.NewLLM(qwen.NewConfig(broken))
	expect(t, err, qwen.ErrInvalidFile, "config.json")

	ended, cancel := context.WithCancel(background)
	cancel()
	_, err = qwen.NewLLMContext(ended, qwen.NewConfig(demoModel))
	expect(t, err, qwen.ErrCancelled, context.Canceled.Error())
}

func TestAWrongOptionIsNamed(t *testing.T) {
	for _, option := range []struct {
		option qwen.ConfigOption
		says   []string
	}{
		{qwen.WithOption("theads", 2), []string{"theads", "threads"}},
		{qwen.WithThreads(-1), []string{"threads", "-1", "0 to 1024"}},
		{qwen.WithDevice("abacus"), []string{"device", "abacus", "auto|cpu"}},
		{qwen.WithOption("threads", "two"), []string{"threads", "an integer"}},
		{qwen.WithOption("threads", []int{2}), []string{"threads", "[]int"}},
		{qwen.WithOption("threads\x00", 2), []string{"NUL"}},
		{qwen.WithOption("temperature", 0.5), []string{"temperature", "request"}},
		{qwen.WithOption("trace", 5), []string{"trace", "a callback"}},
		{qwen.WithOption("progress", "now"), []string{"progress", "a callback"}},
	} {
		_, err := qwen.NewLLM(qwen.NewConfig(demoModel, option.option))
		expect(t, err, qwen.ErrInvalidArgument, option.says...)
	}

	llm := open(t, demoModel)
	for _, option := range []struct {
		option qwen.SamplingOption
		says   []string
	}{
		{qwen.WithOption("temprature", 0.5), []string{"temprature", "temperature"}},
		{qwen.WithTemperature(-1), []string{"temperature", "-1", "0 to 100"}},
		{qwen.WithTopP(2), []string{"top_p", "2"}},
		{qwen.WithTimeout(0), []string{"timeout_ms", "0"}},
		{qwen.WithStopTokenIDs(-5), []string{"stop_token_ids", "-5"}},
		{qwen.WithLogitBias(map[int32]float32{-7: 1}), []string{"logit_bias", "-7"}},
		{qwen.WithOption("top_k", 1.5), []string{"top_k", "an integer"}},
		{qwen.WithOption("max_tokens", []string{"x"}), []string{"max_tokens", "an integer"}},
		{qwen.WithAdapter("nobody"), []string{"nobody"}},
	} {
		_, err := llm.Complete(background, qwen.Text("x"), option.option)
		expect(t, err, qwen.ErrInvalidArgument, option.says...)
		for _, err := range llm.Generate(background, qwen.Text("x"), qwen.NewSamplingParams(option.option)) {
			expect(t, err, qwen.ErrInvalidArgument, option.says...)
		}
	}
}

func TestAWrongPromptIsAnError(t *testing.T) {
	llm := open(t, demoModel)
	hello := qwen.Messages{{Role: "user", Content: "Hello"}}
	for _, prompt := range []struct {
		prompt qwen.Prompt
		says   string
	}{
		{nil, "nil"},
		{qwen.Tokens{}, "empty"},
		{qwen.RawText("\xff"), "UTF-8"},
		{qwen.Tokens{1 << 30}, "1073741824"},
		{qwen.Messages{}, "at least one message"},
		{qwen.Messages{hello[0], {Role: "robot", Content: "x"}}, "message 1: "},
		{qwen.Messages{{Role: "a\x00b"}}, "message 0: a role must not contain a NUL byte"},
		{qwen.Messages{{Role: "assistant", ReasoningContent: "\xff"}}, "message 0: reasoning_content is not valid UTF-8"},
		{qwen.Messages{{Role: "assistant", ToolCalls: []qwen.ToolCall{{Name: "\xff"}}}}, "a tool call is not valid UTF-8"},
		{qwen.Messages{{Role: "assistant", ToolCalls: []qwen.ToolCall{{Name: "f", Arguments: "[]"}}}}, "message 0: "},
		{qwen.Conversation{Messages: hello, Tools: 5}, "tools"},
		{qwen.Conversation{Messages: hello, Tools: func() {}}, "Tools cannot be written as JSON"},
		{qwen.Conversation{Messages: hello, Variables: []int{1}}, "object"},
	} {
		_, err := llm.Complete(background, prompt.prompt)
		expect(t, err, qwen.ErrInvalidArgument, prompt.says)
		_, err = llm.Encode(prompt.prompt)
		if _, empty := prompt.prompt.(qwen.Tokens); !empty {
			expect(t, err, qwen.ErrInvalidArgument, prompt.says)
		}
	}
}

func TestNilOptionsAreNone(t *testing.T) {
	llm := open(t, demoModel, nil)
	var params *qwen.SamplingParams
	output, err := llm.Complete(background, qwen.Text("What is 2 + 3?"), nil, params, params.With(nil, greedy))
	if err != nil || output.Text != "2 plus 3 is 5." {
		t.Errorf("%+v, %v", output, err)
	}
	if vectors, err := llm.Embed(background, []string{"x"}, nil, params); err != nil || len(vectors) != 1 {
		t.Errorf("%v, %v", vectors, err)
	}
}
