package qwen_test

import (
	"fmt"
	"iter"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	qwen "libqwen/bindings/go"
)

func TestTheAnswerComesPieceByPieceAndThenWhole(t *testing.T) {
	llm := open(t, demoModel)
	var text, thought strings.Builder
	var tokens []int32
	var output *qwen.Output
	var types []qwen.EventType
	for event, err := range llm.Generate(background, qwen.Text("What is 17 + 25?"), qwen.WithTemperature(0), qwen.WithReasoningMode(true)) {
		if err != nil {
			t.Fatal(err)
		}
		if event.IsReasoning {
			thought.WriteString(event.Text)
		} else {
			text.WriteString(event.Text)
		}
		tokens = append(tokens, event.TokenIDs...)
		types, output = append(types, event.Type), event.Output
	}
	if output == nil || types[len(types)-1] != qwen.EventDone || types[len(types)-2] != qwen.EventFinished {
		t.Fatalf("the events are %v", types)
	}
	if text.String() != "17 plus 25 is 42." || output.Text != text.String() || output.Reasoning != thought.String() || thought.Len() == 0 {
		t.Errorf("streamed %q behind %q, as a whole %q behind %q", text.String(), thought.String(), output.Text, output.Reasoning)
	}
	if !reflect.DeepEqual(tokens, output.TokenIDs) || int64(len(tokens)) != output.Stats.GeneratedTokens {
		t.Errorf("streamed %v, as a whole %v, counted %d", tokens, output.TokenIDs, output.Stats.GeneratedTokens)
	}
	if output.FinishReason != qwen.FinishStop || output.FinishReason.String() != "stop" || len(output.Choices) != 1 {
		t.Errorf("%v: %+v", output.FinishReason, output)
	}
	if output.Stats.PromptTokens == 0 || output.Stats.FirstToken <= 0 || output.Stats.Generate <= 0 {
		t.Errorf("the stats are %+v", output.Stats)
	}
}

func TestEveryKindOfPromptReachesTheModelAsOneConversation(t *testing.T) {
	llm := open(t, demoModel)
	rendered, err := llm.Render(qwen.Text("What is 2 + 3?"), greedy)
	if err != nil || !strings.Contains(rendered, "user\nWhat is 2 + 3?<|im_end|>") {
		t.Fatalf("%q, %v", rendered, err)
	}
	tokens, err := llm.Encode(qwen.Text("What is 2 + 3?"), greedy)
	if err != nil {
		t.Fatal(err)
	}
	message := qwen.Message{Role: "user", Content: "What is 2 + 3?"}
	for _, prompt := range []qwen.Prompt{
		qwen.RawText(rendered), qwen.Tokens(tokens), qwen.Messages{message}, qwen.Conversation{Messages: qwen.Messages{message}},
		qwen.Conversation{Messages: qwen.Messages{message}, Variables: map[string]any{"enable_thinking": false}},
	} {
		again, err := llm.Encode(prompt, greedy)
		if err != nil || !reflect.DeepEqual(again, tokens) {
			t.Errorf("%#v: %v, %v; wanted %v", prompt, again, err, tokens)
		}
		output, err := llm.Complete(background, prompt, greedy, qwen.WithSplitReasoning(true))
		if err != nil || output.Text != "2 plus 3 is 5." {
			t.Errorf("%#v: %+v, %v", prompt, output, err)
		}
	}
}

func TestAConversationGoesOn(t *testing.T) {
	llm := open(t, demoModel)
	messages := []qwen.Message{{Role: "user", Content: "What is 2 + 3?"}}
	first, err := llm.Chat(background, messages, greedy)
	if err != nil {
		t.Fatal(err)
	}
	messages = append(messages, first.Message(), qwen.Message{Role: "user", Content: "What is 17 + 25?"})
	second, err := llm.Chat(background, messages, greedy)
	if err != nil || second.Text != "17 plus 25 is 42." || second.Stats.CachedTokens > second.Stats.PromptTokens {
		t.Errorf("%+v, %v", second, err)
	}
}

func TestToolsAndWhatTheyAnsweredReachTheTemplate(t *testing.T) {
	llm := open(t, demoModel)
	function := map[string]any{"name": "weather", "description": "The weather.", "parameters": map[string]any{"type": "object"}}
	rendered, err := llm.Render(qwen.Conversation{
		Messages: qwen.Messages{
			{Role: "user", Content: "Rain in Köln?"},
			{Role: "assistant", ToolCalls: []qwen.ToolCall{{Name: "weather", Arguments: `{"city": "Köln"}`}}},
			{Role: "tool", Content: "<rain & wind>", ToolCallID: "1"},
			{Role: "assistant", Content: "Yes.", ReasoningContent: "It said so."},
		},
		Tools: []any{map[string]any{"type": "function", "function": function}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"Rain in Köln?", `"name": "weather"`, "Köln\"}", "<rain & wind>", "Yes."} {
		if !strings.Contains(rendered, part) {
			t.Errorf("%q is not in %q", part, rendered)
		}
	}
}

func TestEverythingThatWasAskedForIsInTheOutput(t *testing.T) {
	llm := open(t, demoModel)
	output, err := llm.Complete(background, qwen.Text("What is 17 + 25?"), greedy, qwen.WithN(2), qwen.WithSeed(7),
		qwen.WithTopLogprobs(3), qwen.WithPromptLogprobs(true), qwen.WithStop(" is", "never"))
	if err != nil {
		t.Fatal(err)
	}
	if len(output.Choices) != 2 || !reflect.DeepEqual(output.Choices[0], output.Choice) || output.Stats.Seed != 7 {
		t.Errorf("%+v", output)
	}
	for _, choice := range output.Choices {
		if choice.Text != "17 plus 25" || choice.StopText == nil || *choice.StopText != " is" {
			t.Errorf("%q, %v", choice.Text, choice.StopText)
		}
		if len(choice.Logprobs) != len(choice.TokenIDs) || len(choice.TopLogprobs) != len(choice.TokenIDs) {
			t.Fatalf("%d tokens, %d and %d", len(choice.TokenIDs), len(choice.Logprobs), len(choice.TopLogprobs))
		}
		for i, top := range choice.TopLogprobs { // greedy: the chosen token is the likeliest
			chosen := qwen.TokenLogprob{TokenID: choice.TokenIDs[i], Logprob: choice.Logprobs[i]}
			if len(top) != 3 || top[0] != chosen || top[1].Logprob > top[0].Logprob {
				t.Errorf("at %d: %v", i, top)
			}
		}
	}
	if int64(len(output.PromptLogprobs)) != output.Stats.PromptTokens || output.PromptLogprobs[0] != 0 {
		t.Errorf("%v", output.PromptLogprobs)
	}
}

func TestABiasedTokenIsNotChosen(t *testing.T) {
	llm := open(t, demoModel)
	plain, err := llm.Complete(background, qwen.Text("What is 17 + 25?"), greedy)
	if err != nil {
		t.Fatal(err)
	}
	first := plain.TokenIDs[0]
	biased, err := llm.Complete(background, qwen.Text("What is 17 + 25?"), greedy, qwen.WithMaxTokens(1),
		qwen.WithLogitBias(map[int32]float32{first: -1e9}))
	if err != nil || biased.TokenIDs[0] == first || biased.FinishReason != qwen.FinishLength {
		t.Errorf("%+v, %v", biased, err)
	}
	stopped, err := llm.Complete(background, qwen.Text("What is 17 + 25?"), greedy, qwen.WithStopTokenIDs(plain.TokenIDs[1]))
	if err != nil || len(stopped.TokenIDs) != 2 {
		t.Errorf("%+v, %v", stopped, err)
	}
}

func TestABatchComesInTheOrderOfItsPrompts(t *testing.T) {
	llm := open(t, demoModel)
	var prompts []string
	for n := range 20 {
		prompts = append(prompts, fmt.Sprintf("What is %d + %d?", n, 3*n))
	}
	outputs, err := llm.GenerateSimple(prompts, greedy, true)
	if err != nil {
		t.Fatal(err)
	}
	for n, output := range outputs {
		if want := fmt.Sprintf("%d plus %d is %d.", n, 3*n, 4*n); output.Text != want {
			t.Errorf("%q, wanted %q", output.Text, want)
		}
	}
	if outputs, err := llm.GenerateSimple(nil, nil, true); err != nil || len(outputs) != 0 {
		t.Errorf("of no prompts: %v, %v", outputs, err)
	}
}

// A thousand streams and what they cost: goroutines, but no threads.
func TestAThousandGoroutinesShareOneLLM(t *testing.T) {
	llm := open(t, demoModel)
	alone, err := llm.Complete(background, qwen.Text("What is 17 + 25?"), qwen.WithSeed(3))
	if err != nil {
		t.Fatal(err)
	}
	before := threadCount(t)
	var group sync.WaitGroup
	for n := range 1000 {
		group.Go(func() {
			if n%10 == 0 { // the same bits as alone
				output, err := llm.Complete(background, qwen.Text("What is 17 + 25?"), qwen.WithSeed(3))
				if err != nil || !reflect.DeepEqual(output.TokenIDs, alone.TokenIDs) {
					t.Errorf("%+v, %v", output, err)
				}
				return
			}
			var text string
			for event, err := range llm.Generate(background, qwen.Text(fmt.Sprintf("What is %d + 1?", n)), greedy) {
				if err != nil {
					t.Error(err)
				}
				text += event.Text
			}
			if !strings.HasPrefix(text, fmt.Sprintf("%d plus 1 is ", n)) { // its own answer, whatever the sum
				t.Errorf("%d: %q", n, text)
			}
		})
	}
	group.Wait()
	if more := threadCount(t) - before; more > 100 {
		t.Errorf("%d more threads for 1,000 streams", more)
	}
	stats, err := llm.Stats()
	if err != nil || stats.Finished != 1001 || stats.Running != 0 || stats.Backend == "" {
		t.Errorf("%+v, %v", stats, err)
	}
}

func TestASequenceCanBeReadAgainAndPulled(t *testing.T) {
	llm := open(t, demoModel)
	before := runtime.NumGoroutine()
	answer := llm.Generate(background, qwen.Text("What is 2 + 3?"), greedy)
	for range 2 {
		next, stop := iter.Pull2(answer)
		var text string
		for event, err, more := next(); more; event, err, more = next() {
			if err != nil {
				t.Fatal(err)
			}
			text += event.Text
		}
		stop()
		if text != "2 plus 3 is 5." {
			t.Errorf("%q", text)
		}
	}
	next, stop := iter.Pull2(answer)
	next()
	stop() // before the end
	idle(t, llm)
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}
