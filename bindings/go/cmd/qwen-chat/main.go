// Command qwen-chat talks with a model in the terminal:
//
//	qwen-chat [-temperature 0.7 …] path/to/Qwen3-0.6B
//
// Every option of the library is a flag. Thoughts are dimmed. Ctrl-C stops an answer and keeps it; /reset forgets the
// conversation; Ctrl-D leaves.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"

	qwen "libqwen/bindings/go"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string, in io.Reader, out, complaints io.Writer) error {
	var config []qwen.ConfigOption
	params := qwen.NewSamplingParams()
	flags := flag.NewFlagSet("qwen-chat", flag.ContinueOnError)
	flags.SetOutput(complaints)
	for option := range qwen.Options() {
		if option.Type > qwen.OptionString { // lists and callbacks are no flags
			continue
		}
		flags.Func(option.Key, option.Help, func(text string) error {
			value, err := parse(option, text)
			given := qwen.WithOption(option.Key, value)
			if option.ForConfig {
				config = append(config, given)
			} else {
				params = params.With(given)
			}
			return err
		})
	}
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("usage: qwen-chat [flags] MODEL; qwen-chat -help lists the flags")
	}
	llm, err := qwen.NewLLM(qwen.NewConfig(flags.Arg(0), config...))
	if err != nil {
		return err
	}
	defer llm.Close()

	var messages qwen.Messages
	lines := bufio.NewScanner(in)
	for fmt.Fprint(out, "> "); lines.Scan(); fmt.Fprint(out, "> ") {
		switch line := strings.TrimSpace(lines.Text()); line {
		case "":
		case "/reset":
			messages = nil
		default:
			messages = append(messages, qwen.Message{Role: "user", Content: line})
			answer, err := say(llm, messages, params, out)
			if err != nil {
				return err
			}
			messages = append(messages, answer)
		}
	}
	fmt.Fprintln(out)
	return lines.Err()
}

// say prints the answer as it comes. Ctrl-C ends it early; what was said stays in the conversation.
func say(llm *qwen.LLM, messages qwen.Messages, params *qwen.SamplingParams, out io.Writer) (qwen.Message, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	const dim, plain = "\x1b[2m", "\x1b[0m"
	thinking := false
	var answer qwen.Message
	for event, err := range llm.Generate(ctx, messages, params) {
		if err != nil && ctx.Err() == nil {
			return answer, err
		}
		switch {
		case event.Text != "" && event.IsReasoning != thinking:
			thinking = event.IsReasoning
			fmt.Fprint(out, map[bool]string{true: dim, false: plain + "\n\n"}[thinking])
			fallthrough
		case event.Text != "":
			fmt.Fprint(out, event.Text)
		case event.Output != nil:
			answer = event.Output.Message()
		}
	}
	if thinking {
		fmt.Fprint(out, plain)
	}
	fmt.Fprintln(out)
	return answer, nil
}

func parse(option qwen.OptionInfo, text string) (any, error) {
	switch option.Type {
	case qwen.OptionInt:
		if truth, err := strconv.ParseBool(text); err == nil && option.IsBool() {
			return truth, nil
		}
		return strconv.ParseInt(text, 10, 64)
	case qwen.OptionFloat:
		return strconv.ParseFloat(text, 64)
	}
	return text, nil
}
