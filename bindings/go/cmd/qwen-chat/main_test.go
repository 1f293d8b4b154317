package main

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	qwen "libqwen/bindings/go"
)

const demoModel = "../../../../qwen_ffi/demo_model"

func chat(arguments []string, input string) (string, error) {
	var out, complaints strings.Builder
	err := run(arguments, strings.NewReader(input), &out, &complaints)
	return out.String(), err
}

func TestAChatRemembersUntilReset(t *testing.T) {
	const question = "What is 2 + 3?\n"
	said, err := chat([]string{"-temperature", "0", "-reasoning_mode=false", demoModel}, question+"\n/reset\n"+question)
	if want := "> 2 plus 3 is 5.\n> > > 2 plus 3 is 5.\n> \n"; err != nil || said != want {
		t.Errorf("%q, %v; wanted %q", said, err, want)
	}
	said, err = chat([]string{"-temperature", "0", "-threads", "1", "-reasoning_mode=1", demoModel}, question)
	if err != nil || !regexp.MustCompile(`(?s)^> \x1b\[2m.+\x1b\[0m\n\n2 plus 3 is 5\.\n> \n$`).MatchString(said) {
		t.Errorf("%q, %v", said, err)
	}
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	for _, arguments := range [][]string{{}, {"a", "b"}, {"-threads", "many", demoModel}, {"-temprature", "0", demoModel}} {
		if said, err := chat(arguments, ""); err == nil || said != "" {
			t.Errorf("%q: %q, %v", arguments, said, err)
		}
	}
	if _, err := chat([]string{"no/such/model"}, ""); !errors.Is(err, qwen.ErrNotFound) {
		t.Error(err)
	}
	if _, err := chat([]string{"-top_p", "2", demoModel}, "Hello\n"); !errors.Is(err, qwen.ErrInvalidArgument) {
		t.Error(err)
	}
}
