package qwen_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	qwen "libqwen/bindings/go"
)

// The tests and examples run in a clone of the repository, with the model and the adapters that lie there.
const (
	demoModel = "../../qwen_ffi/demo_model"
	adapters  = "../../examples/python/adapters"
)

var greedy = qwen.NewSamplingParams(qwen.WithTemperature(0), qwen.WithReasoningMode(false))

func open(t *testing.T, path string, options ...qwen.ConfigOption) *qwen.LLM {
	t.Helper()
	llm, err := qwen.NewLLM(qwen.NewConfig(path, options...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { llm.Close() })
	return llm
}

// endlessModel is the demo model with no end token and a long context: an answer takes many seconds, unless it is ended.
func endlessModel(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	source, err := filepath.Abs(demoModel)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"model.safetensors", "tokenizer.json", "tokenizer_config.json"} {
		if err := os.Symlink(filepath.Join(source, name), filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(source, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	delete(config, "eos_token_id")
	config["max_position_embeddings"] = 65536
	if text, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "config.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	return folder
}

// expect checks that an error is all of those wanted and that its message holds the given parts.
func expect(t *testing.T, err error, status qwen.Status, parts ...string) {
	t.Helper()
	if !errors.Is(err, status) {
		t.Fatalf("the error is %v; wanted %v", err, status)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

// eventually waits until something holds, at most ten seconds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not after ten seconds: %s", what)
		}
	}
}

// idle waits until no request is computed or waits in the engine.
func idle(t *testing.T, llm *qwen.LLM) {
	t.Helper()
	eventually(t, "the engine is idle", func() bool {
		stats, err := llm.Stats()
		return err == nil && stats.Running == 0 && stats.Waiting == 0
	})
}

var background = context.Background()
