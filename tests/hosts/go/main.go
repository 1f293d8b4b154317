// The host in Go: reads cases from standard input, prints one line of JSON for each (../README.md has both formats).
//
//	go run . path/to/model < ../cases/demo.txt
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	qwen "libqwen/bindings/go"
)

func main() {
	if len(os.Args) != 2 {
		fail("usage: host MODEL_FOLDER < CASES")
	}
	llm, err := qwen.NewLLM(qwen.NewConfig(os.Args[1]))
	if err != nil {
		print("open", line{}, err)
		os.Exit(1)
	}
	defer llm.Close()
	run(llm)
}

func run(llm *qwen.LLM) {
	var now *asked
	var submitted []func() // each prints the line of its case
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch {
		case word == "" || word[0] == '#':
		case word == "case":
			now = &asked{name: rest}
		case word == "submit":
			submitted = append(submitted, now.submit(llm))
		case word == "wait":
			for _, printed := range submitted {
				printed()
			}
			submitted = nil
		case !now.add(word, rest):
			answered, err := now.answer(llm, word, rest)
			print(now.name, answered, err)
		}
	}
	if err := lines.Err(); err != nil {
		fail(err.Error())
	}
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, "host.go: "+message)
	os.Exit(2)
}

// ---------------------------------------------------------------------------------------------------------- cases

// asked is a case: a prompt or inputs, and options.
type asked struct {
	name      string
	prompt    qwen.Prompt
	messages  qwen.Messages
	tools     any
	options   []qwen.SamplingOption
	texts     []string
	tokens    [][]int32
	retrieval []qwen.RetrievalOption
}

// add takes a line that describes the case; false: it is one that asks for the answer.
func (a *asked) add(word, rest string) bool {
	key, value, _ := strings.Cut(rest, " ")
	set := func(value any) { a.options = append(a.options, qwen.WithOption(key, value)) }
	switch word {
	case "text":
		a.prompt = qwen.RawText(unescape(rest))
	case "tokens":
		a.prompt = qwen.Tokens(numbers(rest))
	case "message":
		a.messages = append(a.messages, qwen.Message{Role: key, Content: unescape(value)})
	case "tools":
		a.tools = json.RawMessage(rest)
	case "i64":
		set(must(strconv.ParseInt(value, 10, 64)))
	case "f64":
		set(must(strconv.ParseFloat(value, 64)))
	case "str":
		set(unescape(value))
	case "strs":
		texts := strings.Split(value, "\t")
		for i := range texts {
			texts[i] = unescape(texts[i])
		}
		set(texts)
	case "ids":
		set(numbers(value))
	case "bias":
		biases, parts := map[int32]float32{}, strings.Fields(value)
		for i := 0; i < len(parts); i += 2 {
			biases[numbers(parts[i])[0]] = float32(must(strconv.ParseFloat(parts[i+1], 32)))
		}
		set(biases)
	case "input":
		a.texts = append(a.texts, unescape(rest))
	case "input_tokens":
		a.tokens = append(a.tokens, numbers(rest))
	case "instruction":
		a.retrieval = append(a.retrieval, qwen.WithInstruction(unescape(rest)))
	default:
		return false
	}
	return true
}

func (a *asked) given() qwen.Prompt {
	if a.prompt == nil {
		return qwen.Conversation{Messages: a.messages, Tools: a.tools}
	}
	return a.prompt
}

func (a *asked) answer(llm *qwen.LLM, word, rest string) (any, error) {
	ctx := context.Background()
	switch word {
	case "generate":
		output, err := llm.Complete(ctx, a.given(), a.options...)
		return resultLine(a.name, output, nil), err
	case "stream":
		return a.stream(ctx, llm, func() {})
	case "cancel":
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		return a.stream(ctx, llm, cancel)
	case "encode":
		ids, err := llm.Encode(a.given(), a.options...)
		return line{"case": text(a.name), "ids": full(ids)}, err
	case "embed":
		options := append(a.retrieval, qwen.WithDimensions(must(strconv.Atoi(rest))))
		rows, err := llm.Embed(ctx, a.texts, options...)
		if a.tokens != nil {
			rows, err = llm.EmbedTokens(ctx, a.tokens, options...)
		}
		return line{"case": text(a.name), "embeddings": each(rows, floats)}, err
	case "rerank":
		scores, err := llm.Rerank(ctx, unescape(rest), a.texts, a.retrieval...)
		return line{"case": text(a.name), "scores": floats(scores)}, err
	}
	fail("unknown word: " + word)
	return nil, nil
}

// stream calls after with every event but the last.
func (a *asked) stream(ctx context.Context, llm *qwen.LLM, after func()) (any, error) {
	events := []any{}
	for event, err := range llm.Generate(ctx, a.given(), a.options...) {
		if err != nil {
			return nil, err
		}
		if event.Type == qwen.EventDone {
			return resultLine(a.name, event.Output, events), nil
		}
		events = append(events, eventLine(event))
		after()
	}
	return nil, errors.New("there was no last event")
}

// submit starts a request; what it returns waits for the answer and prints it.
func (a *asked) submit(llm *qwen.LLM) func() {
	var output *qwen.Output
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		output, err = llm.Complete(context.Background(), a.given(), a.options...)
	}()
	return func() {
		<-done
		print(a.name, resultLine(a.name, output, nil), err)
	}
}

func unescape(text string) string {
	return strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\0`, "\x00", `\\`, `\`).Replace(text)
}

func numbers(text string) []int32 {
	var ids []int32
	for _, number := range strings.Fields(text) {
		ids = append(ids, int32(must(strconv.ParseInt(number, 10, 32))))
	}
	return ids
}

func must[T any](value T, err error) T {
	if err != nil {
		fail(err.Error())
	}
	return value
}
