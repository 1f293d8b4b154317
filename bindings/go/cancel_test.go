package qwen_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	qwen "libqwen/bindings/go"
)

func threadCount(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "Threads:")
	count, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// running is how many requests the engine has at this moment.
func running(t *testing.T, llm *qwen.LLM) int64 {
	t.Helper()
	stats, err := llm.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return stats.Running + stats.Waiting
}

func TestAContextThatEndsCancelsTheRequestAndTheCallWaitsForIt(t *testing.T) {
	llm := open(t, endlessModel(t))
	reason := errors.New("the client has gone")
	ctx, cancel := context.WithCancelCause(background)
	defer cancel(nil)
	var text string
	var last qwen.Event
	var failure error
	for event, err := range llm.Generate(ctx, qwen.Text("What is 2 + 3?")) {
		text += event.Text
		last, failure = event, err
		if len(text) > 0 {
			cancel(reason)
		}
	}
	if got := running(t, llm); got != 0 {
		t.Errorf("%d requests are running after the loop", got)
	}
	expect(t, failure, qwen.ErrCancelled, "the client has gone")
	if !errors.Is(failure, reason) {
		t.Errorf("%v is not the context's reason", failure)
	}
	if last.Type != qwen.EventDone || last.Output == nil || last.Output.FinishReason != qwen.FinishCancelled ||
		!strings.HasPrefix(last.Output.Reasoning+last.Output.Text, text) {
		t.Errorf("%q was streamed, then came %+v", text, last)
	}

	_, err := llm.Complete(ctx, qwen.Text("Hello"))
	expect(t, err, qwen.ErrCancelled)

	ctx, stop := context.WithTimeout(background, 20*time.Millisecond)
	defer stop()
	_, err = llm.Complete(ctx, qwen.Text("What is 2 + 3?"))
	expect(t, err, qwen.ErrCancelled)
	if !errors.Is(err, context.DeadlineExceeded) || running(t, llm) != 0 {
		t.Error(err)
	}
	_, err = llm.GenerateBatch(ctx, []qwen.Prompt{qwen.Text("Hello"), qwen.Text("What is 2 + 3?")})
	expect(t, err, qwen.ErrCancelled)
}

func TestLeavingTheLoopEndsTheRequest(t *testing.T) {
	llm := open(t, endlessModel(t))
	for range llm.Generate(background, qwen.Text("What is 2 + 3?")) {
		break
	}
	if got := running(t, llm); got != 0 {
		t.Errorf("%d requests are running after break", got)
	}
	func() {
		defer func() {
			if reason := recover(); reason != "enough" {
				t.Errorf("recovered %v", reason)
			}
		}()
		for range llm.Generate(background, qwen.Text("What is 2 + 3?")) {
			panic("enough")
		}
	}()
	if got := running(t, llm); got != 0 {
		t.Errorf("%d requests are running after a panic", got)
	}
}

func TestATimeoutIsATimeout(t *testing.T) {
	llm := open(t, endlessModel(t))
	output, err := llm.Complete(background, qwen.Text("What is 2 + 3?"), qwen.WithTimeout(30*time.Millisecond))
	expect(t, err, qwen.ErrTimeout)
	var failure *qwen.Error
	if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &failure) || !failure.Timeout() || output == nil {
		t.Errorf("%v, %+v", err, output)
	}
}

func TestTheFirstFailureOfABatchCancelsTheOthers(t *testing.T) {
	llm := open(t, endlessModel(t))
	_, err := llm.GenerateBatch(background, []qwen.Prompt{qwen.Text("What is 2 + 3?"), qwen.Tokens{}})
	expect(t, err, qwen.ErrInvalidArgument, "empty")
	_, err = llm.GenerateBatch(background, []qwen.Prompt{qwen.Text("What is 2 + 3?"), nil})
	expect(t, err, qwen.ErrInvalidArgument, "nil")
	if got := running(t, llm); got != 0 {
		t.Errorf("%d requests are running", got)
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	llm := open(t, endlessModel(t))
	var group sync.WaitGroup
	started := make(chan struct{}, 10)
	for n := range 10 {
		group.Go(func() {
			if n == 0 { // blocked inside the library
				started <- struct{}{}
				_, err := llm.Embed(background, make10000("What is 2 + 3?"))
				expectAny(t, err, qwen.ErrClosed)
				return
			}
			first := true
			for event, err := range llm.Generate(background, qwen.Text("What is 2 + 3?")) {
				if first {
					started <- struct{}{}
					first = false
				}
				if event.Type == qwen.EventDone {
					expectAny(t, err, qwen.ErrClosed)
				}
			}
		})
	}
	for range 10 {
		<-started
	}
	begin := time.Now()
	for range 3 {
		group.Go(func() { llm.Close() })
	}
	group.Wait()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("that took %v", took)
	}
	if err := llm.Close(); err != nil {
		t.Error(err)
	}
	for range llm.Generate(background, qwen.Text("x")) { // and nothing of it is usable
	}
	_, err := llm.Complete(background, qwen.Text("x"))
	expect(t, err, qwen.ErrClosed, "this LLM is closed")
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v is not os.ErrClosed", err)
	}
	for name, call := range map[string]func() error{
		"Stats":         func() error { _, err := llm.Stats(); return err },
		"Counters":      func() error { _, err := llm.Counters(); return err },
		"Embed":         func() error { _, err := llm.Embed(background, []string{"x"}); return err },
		"Rerank":        func() error { _, err := llm.Rerank(background, "x", []string{"x"}); return err },
		"Render":        func() error { _, err := llm.Render(qwen.Text("x")); return err },
		"Encode":        func() error { _, err := llm.Encode(qwen.Text("x")); return err },
		"Tokenizer":     func() error { _, err := llm.Tokenizer(); return err },
		"LoadAdapter":   func() error { return llm.LoadAdapter(adapters+"/friendly", "x") },
		"UnloadAdapter": func() error { return llm.UnloadAdapter("x") },
		"Adapters":      func() error { _, err := llm.Adapters(); return err },
		"Drain":         func() error { return llm.Drain(background) },
		"GenerateBatch": func() error { _, err := llm.GenerateSimple([]string{"x"}, nil, false); return err },
	} {
		if err := call(); !errors.Is(err, qwen.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func make10000(text string) []string {
	texts := make([]string, 10000)
	for i := range texts {
		texts[i] = text
	}
	return texts
}

// expectAny is expect for other goroutines than the test's own.
func expectAny(t *testing.T, err error, status qwen.Status) {
	if !errors.Is(err, status) {
		t.Errorf("the error is %v; wanted %v", err, status)
	}
}

func TestCloseInsideTheLoop(t *testing.T) {
	llm := open(t, endlessModel(t))
	var failure error
	for _, err := range llm.Generate(background, qwen.Text("What is 2 + 3?")) {
		llm.Close()
		failure = err
	}
	expect(t, failure, qwen.ErrClosed)
}

func TestDrainLetsThemFinish(t *testing.T) {
	llm := open(t, demoModel)
	answered, started := make(chan string), make(chan struct{}, 1000)
	go func() {
		var text string
		for event := range llm.Generate(background, qwen.Text("What is 348 + 275?"), qwen.WithTemperature(0), qwen.WithReasoningMode(true)) {
			started <- struct{}{}
			if !event.IsReasoning {
				text += event.Text
			}
		}
		answered <- text
	}()
	<-started
	if err := llm.Drain(background); err != nil {
		t.Error(err)
	}
	if text := <-answered; text != "348 plus 275 is 623." {
		t.Errorf("%q", text)
	}
	_, err := llm.Complete(background, qwen.Text("Hello"))
	expect(t, err, qwen.ErrClosed)

	endless := open(t, endlessModel(t))
	ctx, cancel := context.WithTimeout(background, 20*time.Millisecond)
	defer cancel()
	for _, err := range endless.Generate(background, qwen.Text("Hello")) {
		if err != nil {
			t.Fatal(err)
		}
		err := endless.Drain(ctx)
		expect(t, err, qwen.ErrTimeout)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		break
	}
}

func TestADescriptorIsNeverAStandardStream(t *testing.T) {
	kept, err := syscall.Dup(0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(kept)
	syscall.Close(0)
	defer syscall.Dup3(kept, 0, 0)
	llm, err := qwen.NewLLM(qwen.NewConfig(demoModel))
	if err != nil {
		t.Fatal(err)
	}
	defer llm.Close()
	if link, err := os.Readlink("/proc/self/fd/0"); err == nil && strings.Contains(link, "eventfd") {
		t.Errorf("descriptor 0 is %s", link)
	}
}

func TestAnLLMThatNobodyHoldsIsClosed(t *testing.T) {
	before, goroutines := threadCount(t), runtime.NumGoroutine()
	for range 5 {
		llm, err := qwen.NewLLM(qwen.NewConfig(demoModel, qwen.WithThreads(2)))
		if err != nil {
			t.Fatal(err)
		}
		tokenizer, err := llm.Tokenizer()
		if err != nil {
			t.Fatal(err)
		}
		output, err := llm.Complete(background, qwen.Text("What is 2 + 3?"), greedy)
		if err != nil || output.Text != "2 plus 3 is 5." || tokenizer.Size() == 0 {
			t.Fatalf("%+v, %v", output, err)
		}
	}
	eventually(t, "the goroutines and threads of the engines have gone", func() bool {
		runtime.GC()
		return runtime.NumGoroutine() <= goroutines && threadCount(t) <= before+5
	})
}
