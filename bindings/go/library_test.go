package qwen_test

import (
	"context"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	qwen "libqwen/bindings/go"
)

func TestVersions(t *testing.T) {
	if qwen.Version() == "" || !strings.HasPrefix(qwen.BuildInfo(), "{") || qwen.ABIVersion < 1 {
		t.Errorf("%q %q %d", qwen.Version(), qwen.BuildInfo(), qwen.ABIVersion)
	}
}

func TestTheTokenizerOutlivesItsLLM(t *testing.T) {
	llm := open(t, demoModel)
	tokenizer, err := llm.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	llm.Close()
	alone, err := qwen.OpenTokenizer(demoModel)
	if err != nil {
		t.Fatal(err)
	}
	for _, each := range []*qwen.Tokenizer{tokenizer, alone} {
		const text = "Wörter und\x00<|im_end|> 东西"
		tokens, err := each.Encode(text)
		if err != nil {
			t.Fatal(err)
		}
		end, found := each.TokenID("<|im_end|>")
		if !found || !slices.Contains(tokens, end) || each.Size() <= int(end) {
			t.Errorf("%v: %d, %v", tokens, end, found)
		}
		if whole, err := each.Decode(tokens); err != nil || whole != text {
			t.Errorf("%q, %v", whole, err)
		}
		if text, err := each.DecodeText(tokens); err != nil || text != "Wörter und\x00 东西" {
			t.Errorf("%q, %v", text, err)
		}
		plain, err := each.EncodePlain(text)
		if err != nil || slices.Contains(plain, end) {
			t.Errorf("%v, %v", plain, err)
		}
		if none, err := each.Encode(""); err != nil || len(none) != 0 {
			t.Errorf("%v, %v", none, err)
		}
		long := strings.Repeat("aß", 10000)
		if tokens, err = each.EncodePlain(long); err != nil {
			t.Fatal(err)
		}
		if whole, err := each.Decode(tokens); err != nil || whole != long {
			t.Errorf("%d bytes, %v", len(whole), err)
		}
		if _, found := each.TokenID("<|nothing|>"); found {
			t.Error("<|nothing|> was found")
		}
		_, err = each.Encode("a\xff")
		expect(t, err, qwen.ErrInvalidArgument, "UTF-8")
		_, err = each.Decode([]int32{-1})
		expect(t, err, qwen.ErrInvalidArgument, "-1")
		each.Close()
		each.Close()
		_, err = each.Encode(text)
		expect(t, err, qwen.ErrClosed, "this tokenizer is closed")
		_, err = each.Decode(tokens)
		expect(t, err, qwen.ErrClosed)
		if _, found := each.TokenID("<|im_end|>"); found || each.Size() != 0 {
			t.Error("it was found by a closed tokenizer")
		}
	}
}

func TestInfoStatsAndCounters(t *testing.T) {
	llm := open(t, demoModel, qwen.WithThreads(1))
	if _, err := llm.Complete(background, qwen.Text("What is 2 + 3?"), greedy); err != nil {
		t.Fatal(err)
	}
	info := llm.Info()
	if info.Architecture != "Qwen3ForCausalLM" || info.Path != demoModel || !info.HasChatTemplate || info.VocabSize == 0 ||
		info.Parameters == 0 {
		t.Errorf("%+v", info)
	}
	stats, err := llm.Stats()
	if err != nil || stats.Threads != 1 || stats.Finished != 1 || stats.GeneratedTokens == 0 || stats.CacheBlocksTotal == 0 {
		t.Errorf("%+v, %v", stats, err)
	}
	counters, err := llm.Counters()
	if err != nil || len(counters) == 0 {
		t.Errorf("%v, %v", counters, err)
	}
	for name, count := range counters {
		if strings.HasPrefix(name, "linear.") && count > 0 {
			return
		}
	}
	t.Errorf("no kernel has multiplied anything: %v", counters)
}

func TestAdaptersAnswerBesideTheModel(t *testing.T) {
	llm := open(t, demoModel)
	if err := llm.LoadAdapter(adapters+"/friendly", "kind"); err != nil {
		t.Fatal(err)
	}
	if err := llm.LoadAdapter(adapters+"/certain", "sure"); err != nil {
		t.Fatal(err)
	}
	expect(t, llm.LoadAdapter(adapters+"/friendly", "kind"), qwen.ErrInvalidArgument, "kind")
	expect(t, llm.LoadAdapter(adapters+"/nothing", "other"), qwen.ErrNotFound, "nothing")
	expect(t, llm.LoadAdapter("a\x00", "other"), qwen.ErrInvalidArgument, "NUL")
	expect(t, llm.LoadAdapter(adapters+"/friendly", "a\x00"), qwen.ErrInvalidArgument, "NUL")
	loaded, err := llm.Adapters()
	if err != nil || len(loaded) != 2 || loaded[0].Name != "kind" || loaded[1].Name != "sure" || loaded[0].Rank == 0 ||
		loaded[0].Parameters == 0 {
		t.Errorf("%+v, %v", loaded, err)
	}
	plain, err := llm.Complete(background, qwen.Text("What is 17 + 25?"), greedy)
	if err != nil {
		t.Fatal(err)
	}
	kind, err := llm.Complete(background, qwen.Text("What is 17 + 25?"), greedy, qwen.WithAdapter("kind"))
	if err != nil || kind.Text == plain.Text || !strings.Contains(kind.Text, "42") {
		t.Errorf("%+v, %v", kind, err)
	}
	if err := llm.UnloadAdapter("kind"); err != nil {
		t.Error(err)
	}
	expect(t, llm.UnloadAdapter("kind"), qwen.ErrInvalidArgument, "kind")
	expect(t, llm.UnloadAdapter("a\x00"), qwen.ErrInvalidArgument, "NUL")
}

func TestEmbeddingsAndScores(t *testing.T) {
	llm := open(t, demoModel)
	texts := []string{"Rice is cooked in water.", "17 plus 25 is 42.", "<|im_end|>"}
	vectors, err := llm.Embed(background, texts)
	if err != nil || len(vectors) != 3 || len(vectors[0]) != llm.Info().HiddenSize {
		t.Fatalf("%v, %v", vectors, err)
	}
	short, err := llm.Embed(background, texts, qwen.WithDimensions(32), qwen.WithPriority(-1))
	if err != nil || len(short[0]) != 32 {
		t.Fatalf("%v, %v", short, err)
	}
	for _, vector := range append(vectors, short...) {
		var square float64
		for _, value := range vector {
			square += float64(value) * float64(value)
		}
		if math.Abs(square-1) > 1e-5 {
			t.Errorf("a vector of length %g", math.Sqrt(square))
		}
	}
	usual, err := llm.Embed(background, texts, qwen.WithInstruction(""))
	if err != nil {
		t.Fatal(err)
	}
	const sentence = "Given a web search query, retrieve relevant passages that answer the query"
	said, err := llm.Embed(background, texts, qwen.WithInstruction(sentence))
	if err != nil || !reflect.DeepEqual(usual, said) || reflect.DeepEqual(usual, vectors) {
		t.Errorf("the usual instruction and the one that was said: %v, %v, %v", usual, said, err)
	}
	special, err := llm.Embed(background, texts, qwen.WithSpecialTokens())
	if err != nil || !reflect.DeepEqual(special[:2], vectors[:2]) || reflect.DeepEqual(special[2], vectors[2]) {
		t.Errorf("%v, %v", special, err)
	}
	tokenizer, err := llm.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	end, _ := tokenizer.TokenID("<|endoftext|>")
	tokens, err := tokenizer.Encode(texts[0])
	if err != nil {
		t.Fatal(err)
	}
	same, err := llm.EmbedTokens(background, [][]int32{append(tokens, end)})
	if err != nil || !reflect.DeepEqual(same[0], vectors[0]) {
		t.Errorf("%v, %v", same, err)
	}
	scores, err := llm.Rerank(background, "What is 17 + 25?", texts)
	if err != nil || len(scores) != 3 || scores[0] < 0 || scores[0] > 1 || scores[0] == scores[1] {
		t.Errorf("%v, %v", scores, err)
	}
	_, err = llm.Embed(background, nil)
	expect(t, err, qwen.ErrInvalidArgument, "at least one")
	_, err = llm.Rerank(background, "x", []string{})
	expect(t, err, qwen.ErrInvalidArgument, "at least one")
	_, err = llm.Embed(background, []string{"x", ""})
	expect(t, err, qwen.ErrInvalidArgument, "input 1")
	_, err = llm.Embed(background, texts, qwen.WithDimensions(5))
	expect(t, err, qwen.ErrInvalidArgument, "5")
	_, err = llm.Rerank(background, "x", []string{"\xff"})
	expect(t, err, qwen.ErrInvalidArgument, "UTF-8")
	_, err = llm.Rerank(background, "x", texts, qwen.WithOption("nothing", 1))
	expect(t, err, qwen.ErrInvalidArgument, "nothing")
	_, err = llm.EmbedTokens(background, [][]int32{{1 << 30}})
	expect(t, err, qwen.ErrInvalidArgument, "1073741824")
}

func TestSearchingReportsAndCanBeEnded(t *testing.T) {
	llm := open(t, demoModel)
	texts := make10000("Rice is cooked in water.")
	var last float64
	_, err := llm.Embed(background, texts[:50], qwen.WithProgress(func(done float64) bool { last = done; return true }))
	if err != nil || last != 1 {
		t.Errorf("%v, %v", last, err)
	}
	_, err = llm.Embed(background, texts, qwen.WithProgress(func(done float64) bool { return done < 0.001 }))
	expect(t, err, qwen.ErrCancelled)
	ctx, cancel := context.WithTimeout(background, 20*time.Millisecond)
	defer cancel()
	for range 2 {
		_, err := llm.Rerank(ctx, "x", texts)
		expect(t, err, qwen.ErrCancelled)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
	defer func() {
		if reason := recover(); reason != "mine" {
			t.Errorf("recovered %v", reason)
		}
	}()
	llm.Embed(background, texts, qwen.WithProgress(func(float64) bool { panic("mine") }))
	t.Error("the panic of the program's own function was lost")
}

func TestLoadingReportsAndCanBeEnded(t *testing.T) {
	var last float64
	open(t, demoModel, qwen.WithProgress(func(done float64) bool { last = done; return true }))
	if last != 1 {
		t.Errorf("%v at the end", last)
	}
	_, err := qwen.NewLLM(qwen.NewConfig(demoModel, qwen.WithProgress(func(float64) bool { return false })))
	expect(t, err, qwen.ErrCancelled)
	ctx, cancel := context.WithCancel(background)
	_, err = qwen.NewLLMContext(ctx, qwen.NewConfig(demoModel, qwen.WithProgress(func(float64) bool { cancel(); return true })))
	expect(t, err, qwen.ErrCancelled)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	defer func() {
		if reason := recover(); reason != "mine" {
			t.Errorf("recovered %v", reason)
		}
	}()
	qwen.NewLLM(qwen.NewConfig(demoModel, qwen.WithProgress(func(float64) bool { panic("mine") })))
	t.Error("the panic of the program's own function was lost")
}

func TestEveryStepIsTraced(t *testing.T) {
	var rows, number atomic.Int64
	llm := open(t, demoModel, qwen.WithTrace(func(step qwen.Step) {
		rows.Add(step.PromptRows + step.GenerateRows)
		number.Store(step.Number)
	}))
	output, err := llm.Complete(background, qwen.Text("What is 2 + 3?"), greedy)
	if err != nil {
		t.Fatal(err)
	}
	stats, err := llm.Stats()
	if err != nil {
		t.Fatal(err)
	}
	llm.Close() // after the last step
	open(t, demoModel, qwen.WithTrace(nil), qwen.WithProgress(nil))
	if want := output.Stats.PromptTokens + output.Stats.GeneratedTokens - 1; rows.Load() != want || number.Load() < stats.Steps {
		t.Errorf("%d rows in %d steps; wanted %d", rows.Load(), number.Load(), want)
	}
}

func TestTheTableOfOptions(t *testing.T) {
	table := map[string]qwen.OptionInfo{}
	for option := range qwen.Options() {
		if table[option.Key] = option; option.Help == "" {
			t.Errorf("%+v", option)
		}
	}
	temperature := table["temperature"]
	if temperature.Type != qwen.OptionFloat || temperature.ForConfig || !temperature.HasBounds || temperature.Default != "1" ||
		temperature.IsBool() {
		t.Errorf("%+v", temperature)
	}
	if !slices.Equal(table["load"].Choices, []string{"mmap", "read"}) || !table["load"].ForConfig || !table["logprobs"].IsBool() {
		t.Errorf("%+v", table["load"])
	}
	for range qwen.Options() {
		break
	}
}
