package qwen

// #include <qwen.h>
import "C"

// Event is one step of an answer.
type Event struct {
	Type   EventType
	Choice int // 0, unless WithN asks for more

	Text        string // EventText: whole characters; may be empty, and is in every other event
	IsReasoning bool   // the text is a thought, not the answer
	TokenIDs    []int32
	Logprobs    []float32        // with WithLogprobs
	TopLogprobs [][]TokenLogprob // with WithTopLogprobs

	ToolCall     *ToolCall    // EventToolCall
	FinishReason FinishReason // EventFinished
	Output       *Output      // EventDone: the whole answer
}

// EventType says what an [Event] is about.
type EventType int32

// The types of events.
const (
	EventText     EventType = C.QWEN_EVENT_TEXT      // new tokens of a choice and the text they completed
	EventFinished EventType = C.QWEN_EVENT_FINISHED  // a choice ended
	EventDone     EventType = C.QWEN_EVENT_DONE      // the last event
	EventToolCall EventType = C.QWEN_EVENT_TOOL_CALL // the model called a tool; its tags are in no text
)

// readEvent copies an event that the library lends.
func readEvent(raw *C.qwen_event) Event {
	event := Event{
		Type: EventType(raw._type), Choice: int(raw.choice), Text: goText(raw.text, raw.text_length),
		IsReasoning:  raw.channel == C.QWEN_CHANNEL_REASONING,
		TokenIDs:     copied[int32](raw.token_ids, raw.token_count),
		Logprobs:     copied[float32](raw.logprobs, raw.token_count),
		TopLogprobs:  topLogprobs(raw.top_token_ids, raw.top_logprobs, raw.token_count, raw.top_count),
		FinishReason: FinishReason(raw.finish_reason),
	}
	if raw.tool_name != nil {
		event.ToolCall = &ToolCall{
			goText(raw.tool_name, raw.tool_name_length), goText(raw.tool_arguments, raw.tool_arguments_length),
		}
	}
	return event
}
