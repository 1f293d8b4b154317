package qwen

// #include <qwen.h>
import "C"

import (
	"encoding/json"
	"fmt"
	"runtime"
	"unicode/utf8"
)

// Prompt is what a request is given: [Text], [RawText], [Tokens], [Messages] or a [Conversation].
type Prompt interface {
	fill(prompt *C.qwen_prompt, chat bool) error
}

// Text is one message of the user, or, for a model without a chat template, plain text to be continued.
type Text string

// RawText is given to the model as it is; special tokens in it, such as <|im_start|>, are recognised.
type RawText string

// Tokens are token ids that are given to the model as they are.
type Tokens []int32

// Messages are a conversation that the model is to go on with, as the assistant.
type Messages []Message

// Message is one turn of a conversation.
type Message struct {
	Role             string     // "system", "user", "assistant" or "tool"
	Content          string     //
	ReasoningContent string     // of an assistant: what it thought before it answered
	ToolCalls        []ToolCall // of an assistant: the tools it called
	ToolCallID       string     // of a tool, where the template wants it
}

// Conversation is a conversation with tools that the model may call, and variables of the chat template.
type Conversation struct {
	Messages Messages
	// Tools is a list in OpenAI's form, {"type": "function", "function": {"name", "description", "parameters"}}: anything
	// that json.Marshal makes one of, or the JSON itself as a json.RawMessage. nil: no tools.
	Tools any
	// Variables is an object of further variables, such as map[string]any{"enable_thinking": false}; nil: none.
	Variables any
}

// ToolCall is a call that the model makes.
type ToolCall struct {
	Name      string
	Arguments string // the text of a JSON object
}

func (p Text) fill(prompt *C.qwen_prompt, chat bool) error {
	if chat {
		return Message{Role: "user", Content: string(p)}.fill(prompt)
	}
	return RawText(p).fill(prompt, chat)
}

func (p RawText) fill(prompt *C.qwen_prompt, _ bool) error {
	text, length := chars(string(p))
	return check(func(e **C.qwen_error) C.int32_t { return C.qwen_prompt_add_text(prompt, text, length, e) })
}

func (p Tokens) fill(prompt *C.qwen_prompt, _ bool) error {
	tokens, count := ids(p)
	return check(func(e **C.qwen_error) C.int32_t { return C.qwen_prompt_add_tokens(prompt, tokens, count, e) })
}

func (p Messages) fill(prompt *C.qwen_prompt, _ bool) error {
	if len(p) == 0 {
		return failf(ErrInvalidArgument, "a conversation needs at least one message")
	}
	for i, message := range p {
		if err := message.fill(prompt); err != nil {
			if failure, ok := err.(*Error); ok {
				failure.Message = fmt.Sprintf("message %d: %s", i, failure.Message)
			}
			return err
		}
	}
	return nil
}

func (p Conversation) fill(prompt *C.qwen_prompt, chat bool) error {
	if err := p.Messages.fill(prompt, chat); err != nil {
		return err
	}
	if p.Tools != nil {
		tools, err := jsonText("Tools", p.Tools)
		if err != nil {
			return err
		}
		text, length := chars(tools)
		if err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_prompt_set_tools(prompt, text, length, e) }); err != nil {
			return err
		}
	}
	if p.Variables == nil {
		return nil
	}
	variables, err := jsonText("Variables", p.Variables)
	if err != nil {
		return err
	}
	text, length := chars(variables)
	return check(func(e **C.qwen_error) C.int32_t { return C.qwen_prompt_set_variables(prompt, text, length, e) })
}

func (m Message) fill(prompt *C.qwen_prompt) error {
	if m.ReasoningContent == "" && m.ToolCalls == nil && m.ToolCallID == "" {
		role, err := terminated("a role", m.Role)
		if err != nil {
			return err
		}
		defer free(role)
		text, length := chars(m.Content)
		return check(func(e **C.qwen_error) C.int32_t { return C.qwen_prompt_add_message(prompt, role, text, length, e) })
	}
	members := map[string]any{"role": m.Role, "content": m.Content}
	if m.ReasoningContent != "" {
		members["reasoning_content"] = m.ReasoningContent
	}
	if m.ToolCallID != "" {
		members["tool_call_id"] = m.ToolCallID
	}
	calls := []any{}
	for _, call := range m.ToolCalls {
		function := map[string]any{"name": call.Name, "arguments": call.Arguments}
		calls = append(calls, map[string]any{"type": "function", "function": function})
		if !utf8.ValidString(call.Name) || !utf8.ValidString(call.Arguments) {
			return failf(ErrInvalidArgument, "a tool call is not valid UTF-8")
		}
	}
	if len(calls) > 0 {
		members["tool_calls"] = calls
	}
	for name, value := range members { // encoding/json would put U+FFFD in their place
		if text, ok := value.(string); ok && !utf8.ValidString(text) {
			return failf(ErrInvalidArgument, "%s is not valid UTF-8", name)
		}
	}
	encoded, err := jsonText("the message", members)
	if err != nil {
		return err
	}
	text, length := chars(encoded)
	return check(func(e **C.qwen_error) C.int32_t { return C.qwen_prompt_add_message_json(prompt, text, length, e) })
}

// jsonText is the JSON of a value. What is JSON already is left to the library to judge.
func jsonText(what string, value any) (string, error) {
	if raw, ok := value.(json.RawMessage); ok {
		return string(raw), nil
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return "", &Error{Status: ErrInvalidArgument, Message: what + " cannot be written as JSON", cause: err}
	}
	return string(encoded), nil
}

// newPrompt makes the library's prompt. The caller frees it.
func (l *LLM) newPrompt(from Prompt) (*C.qwen_prompt, error) {
	var prompt *C.qwen_prompt
	if from == nil {
		return nil, failf(ErrInvalidArgument, "the prompt is nil; give it qwen.Text, RawText, Tokens, Messages or a Conversation")
	}
	if err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_prompt_new(&prompt, e) }); err != nil {
		return nil, err
	}
	if err := from.fill(prompt, l.info.HasChatTemplate); err != nil {
		C.qwen_prompt_free(prompt)
		return nil, err
	}
	return prompt, nil
}

// Render returns the text that the model would be given. Of the options only [WithReasoningMode] matters.
func (l *LLM) Render(prompt Prompt, options ...SamplingOption) (string, error) {
	var text []byte
	err := l.asked(prompt, options, func(model *C.qwen_model, made *C.qwen_prompt, given *C.qwen_options) (err error) {
		text, err = collect(1024, func(into *byte, capacity C.size_t, needed *C.size_t) error {
			return check(func(e **C.qwen_error) C.int32_t {
				return C.qwen_prompt_render(made, model, given, bytes(into), capacity, needed, e)
			})
		})
		return err
	})
	return string(text), err
}

// Encode returns the token ids that the model would be given. Of the options only [WithReasoningMode] matters.
func (l *LLM) Encode(prompt Prompt, options ...SamplingOption) ([]int32, error) {
	var tokens []int32
	err := l.asked(prompt, options, func(model *C.qwen_model, made *C.qwen_prompt, given *C.qwen_options) (err error) {
		tokens, err = collect(1024, func(into *int32, capacity C.size_t, needed *C.size_t) error {
			return check(func(e **C.qwen_error) C.int32_t {
				return C.qwen_prompt_encode(made, model, given, (*C.int32_t)(into), capacity, needed, e)
			})
		})
		return err
	})
	return tokens, err
}

// asked lends f the library's objects of a prompt and its options.
func (l *LLM) asked(from Prompt, options []SamplingOption, f func(*C.qwen_model, *C.qwen_prompt, *C.qwen_options) error) error {
	defer runtime.KeepAlive(l)
	prompt, err := l.newPrompt(from)
	if err != nil {
		return err
	}
	defer C.qwen_prompt_free(prompt)
	given, err := newOptions(NewSamplingParams(options...).options)
	if err != nil {
		return err
	}
	defer C.qwen_options_free(given)
	return l.handle.use(func(engine *C.qwen_engine) error { return f(C.qwen_engine_model(engine), prompt, given) })
}
