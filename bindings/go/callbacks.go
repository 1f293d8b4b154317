package qwen

/*
#include <qwen.h>
#include <stdlib.h>
*/
import "C"

import (
	"runtime/cgo"
	"unsafe"
)

// The library calls Go in two places only, neither of them for each token: while it loads or embeds, and after a step for
// those who asked for WithTrace.

// lend gives C a pointer by which its callbacks find a Go value again, until release.
func lend(value any) unsafe.Pointer {
	user := C.malloc(C.size_t(unsafe.Sizeof(cgo.Handle(0))))
	*(*cgo.Handle)(user) = cgo.NewHandle(value)
	return user
}

func lent(user unsafe.Pointer) any { return (*cgo.Handle)(user).Value() }

func release(user unsafe.Pointer) {
	(*cgo.Handle)(user).Delete()
	C.free(user)
}

//export qwenGoRelease
func qwenGoRelease(user unsafe.Pointer) { release(user) }

// progress is a function of the program that is told how much is done and answers whether to go on. What it panics with
// must not unwind the library's frames: it waits here until the call is over.
type progress struct {
	call     func(fraction float64) bool
	panicked any
}

//export qwenGoProgress
func qwenGoProgress(fraction C.double, user unsafe.Pointer) C.int32_t {
	if lent(user).(*progress).goOn(float64(fraction)) {
		return 0
	}
	return 1
}

func (p *progress) goOn(fraction float64) (answer bool) {
	defer func() {
		if reason := recover(); reason != nil {
			p.panicked = reason
		}
	}()
	return p.panicked == nil && p.call(fraction)
}

// repanic goes on with a panic of the callback, where there was one.
func (p *progress) repanic() {
	if p.panicked != nil {
		panic(p.panicked)
	}
}

//export qwenGoStep
func qwenGoStep(step *C.qwen_step, user unsafe.Pointer) {
	lent(user).(func(Step))(stepOf(step))
}
