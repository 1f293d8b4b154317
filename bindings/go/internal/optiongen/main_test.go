package main

import (
	"bytes"
	"os"
	"testing"
)

func TestTheGeneratedOptionsAreTheLibrarys(t *testing.T) {
	want, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../" + target)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Errorf("%s is not what the library's table of options gives; run go generate in bindings/go", target)
	}
}
