package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"

	qwen "libqwen/bindings/go"
)

// line is a JSON object with at most two members, whose order is that of their names; what has more members is a struct.
type line map[string]any

// text is a string as JSON.stringify writes it: encoding/json escapes more.
type text string

var escapes = func() *strings.Replacer {
	pairs := []string{`"`, `\"`, `\`, `\\`, "\b", `\b`, "\t", `\t`, "\n", `\n`, "\f", `\f`, "\r", `\r`}
	for code := range rune(0x20) {
		if !strings.ContainsRune("\b\t\n\f\r", code) {
			pairs = append(pairs, string(code), fmt.Sprintf(`\u%04x`, code))
		}
	}
	return strings.NewReplacer(pairs...)
}()

func (t text) MarshalJSON() ([]byte, error) {
	return []byte(`"` + escapes.Replace(string(t)) + `"`), nil
}

// bits is a float as its bits.
type bits float32

func (b bits) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, `"%08x"`, math.Float32bits(float32(b))), nil
}

func print(name string, answer any, err error) {
	type failure struct {
		Code    qwen.Status `json:"code"`
		Message text        `json:"message"`
	}
	var known *qwen.Error
	if errors.As(err, &known) {
		answer = line{"case": text(name), "error": failure{known.Status, text(known.Message)}}
	} else if err != nil {
		fail(err.Error())
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	must(0, encoder.Encode(answer))
}

// full is a list that is [] where it holds nothing.
func full[T any](list []T) []T { return append([]T{}, list...) }

func each[T, To any](list []T, to func(T) To) []To {
	var all []To
	for _, element := range list {
		all = append(all, to(element))
	}
	return all
}

// floats is nil, and so null, where there are none.
func floats(values []float32) []bits {
	return each(values, func(value float32) bits { return bits(value) })
}

type toolLine struct {
	Name      text `json:"name"`
	Arguments text `json:"arguments"`
}

func tool(call qwen.ToolCall) toolLine { return toolLine{text(call.Name), text(call.Arguments)} }

func eventLine(event qwen.Event) any {
	switch event.Type {
	case qwen.EventFinished:
		return line{"choice": event.Choice, "finish": event.FinishReason.String()}
	case qwen.EventToolCall:
		return line{"choice": event.Choice, "tool": tool(*event.ToolCall)}
	}
	channel := "answer"
	if event.IsReasoning {
		channel = "reasoning"
	}
	return struct {
		Choice   int     `json:"choice"`
		Channel  string  `json:"channel"`
		Text     text    `json:"text"`
		IDs      []int32 `json:"ids"`
		Logprobs []bits  `json:"logprobs"`
	}{event.Choice, channel, text(event.Text), full(event.TokenIDs), floats(event.Logprobs)}
}

type choiceLine struct {
	Text      text       `json:"text"`
	Reasoning text       `json:"reasoning"`
	IDs       []int32    `json:"ids"`
	Finish    string     `json:"finish"`
	Stop      *text      `json:"stop"`
	Logprobs  []bits     `json:"logprobs"`
	Top       [][][2]any `json:"top"`
	Tools     []toolLine `json:"tools"`
}

func choice(from qwen.Choice) choiceLine {
	top := each(from.TopLogprobs, func(row []qwen.TokenLogprob) [][2]any {
		return each(row, func(token qwen.TokenLogprob) [2]any { return [2]any{token.TokenID, bits(token.Logprob)} })
	})
	return choiceLine{
		text(from.Text), text(from.Reasoning), full(from.TokenIDs), from.FinishReason.String(), (*text)(from.StopText),
		floats(from.Logprobs), top, full(each(from.ToolCalls, tool)),
	}
}

func resultLine(name string, output *qwen.Output, events []any) any {
	if output == nil {
		return nil
	}
	return struct {
		Case           text         `json:"case"`
		Events         []any        `json:"events,omitzero"`
		Choices        []choiceLine `json:"choices"`
		PromptLogprobs []bits       `json:"prompt_logprobs"`
		PromptTokens   int64        `json:"prompt_tokens"`
	}{text(name), events, full(each(output.Choices, choice)), floats(output.PromptLogprobs), output.Stats.PromptTokens}
}
