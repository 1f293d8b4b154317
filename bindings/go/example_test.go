package qwen_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	qwen "libqwen/bindings/go"
)

func Example() {
	llm, err := qwen.NewLLM(qwen.NewConfig("../../qwen_ffi/demo_model")) // or "path/to/Qwen3-0.6B"
	if err != nil {
		log.Fatal(err)
	}
	defer llm.Close()

	params := qwen.NewSamplingParams(qwen.WithTemperature(0), qwen.WithMaxTokens(200))
	outputs, err := llm.GenerateSimple([]string{"What is 17 + 25?", "What is 2 + 3?"}, params, false)
	if err != nil {
		log.Fatal(err)
	}
	for _, output := range outputs {
		fmt.Println(output.Text)
	}
	// Output:
	// 17 plus 25 is 42.
	// 2 plus 3 is 5.
}

func ExampleLLM_Generate() {
	llm, err := qwen.NewLLM(qwen.NewConfig("../../qwen_ffi/demo_model"))
	if err != nil {
		log.Fatal(err)
	}
	defer llm.Close()

	prompt := qwen.Text("What is 17 + 25?")
	for event, err := range llm.Generate(context.Background(), prompt, qwen.WithTemperature(0), qwen.WithReasoningMode(false)) {
		if err != nil {
			log.Fatal(err)
		}
		switch event.Type {
		case qwen.EventText:
			fmt.Print(event.Text)
		case qwen.EventDone:
			fmt.Printf("\n%d tokens, finished by %v\n", event.Output.Stats.GeneratedTokens, event.Output.FinishReason)
		}
	}
	// Output:
	// 17 plus 25 is 42.
	// 12 tokens, finished by stop
}

func ExampleLLM_Chat() {
	llm, err := qwen.NewLLM(qwen.NewConfig("../../qwen_ffi/demo_model"))
	if err != nil {
		log.Fatal(err)
	}
	defer llm.Close()

	ctx, params := context.Background(), qwen.NewSamplingParams(qwen.WithTemperature(0), qwen.WithReasoningMode(false))
	messages := []qwen.Message{{Role: "user", Content: "What is 2 + 3?"}}
	for _, next := range []string{"What is 5 + 4?", ""} {
		output, err := llm.Chat(ctx, messages, params)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(output.Text)
		messages = append(messages, output.Message(), qwen.Message{Role: "user", Content: next})
	}
	// Output:
	// 2 plus 3 is 5.
	// 5 plus 4 is 9.
}

func ExampleTokenizer() {
	tokenizer, err := qwen.OpenTokenizer("../../qwen_ffi/demo_model")
	if err != nil {
		log.Fatal(err)
	}
	defer tokenizer.Close()

	tokens, err := tokenizer.Encode("What is 2 + 3?")
	if err != nil {
		log.Fatal(err)
	}
	text, err := tokenizer.Decode(tokens)
	fmt.Println(text, err)
	// Output: What is 2 + 3? <nil>
}

func ExampleStatus() {
	_, err := qwen.NewLLM(qwen.NewConfig("no/such/model"))
	if errors.Is(err, qwen.ErrNotFound) {
		fmt.Println("look at the path")
	}
	// Output: look at the path
}
