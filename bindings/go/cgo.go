package qwen

/*
#include <qwen.h>
#include <stdlib.h>

_Static_assert(QWEN_ABI_VERSION >= 1, "this Go package needs a qwen.h of ABI 1 or later");
*/
import "C"

import (
	"fmt"
	"strings"
	"sync"
	"unsafe"
)

// ABIVersion is the version of the C interface that this package was compiled with. It grows by appending: any library
// of this version or a later one will do.
const ABIVersion = C.QWEN_ABI_VERSION

// Version is the version of the library that was loaded, such as "0.1.0".
func Version() string { return C.GoString(C.qwen_version()) }

// BuildInfo is one line of JSON: the library's version, compiler, backends, and the instruction sets of this machine.
func BuildInfo() string { return C.GoString(C.qwen_build_info()) }

// checkABI fails where the loader found an older library than the header that this package was compiled with.
var checkABI = sync.OnceValue(func() error {
	if found := int(C.qwen_abi_version()); found < ABIVersion {
		return failf(ErrUnsupported, "libqwen %s is older than this program: its ABI is %d, needed is %d", Version(), found, ABIVersion)
	}
	return nil
})

// check runs one call of the library and makes a Go error of what it reports.
func check(call func(failure **C.qwen_error) C.int32_t) error {
	var failure *C.qwen_error
	status := call(&failure)
	if status == C.QWEN_OK {
		return nil
	}
	defer C.qwen_error_free(failure)
	return &Error{Status: Status(status), Message: C.GoString(C.qwen_error_message(failure))}
}

// chars lends a string to one call: pointer and length, no copy.
func chars(text string) (*C.char, C.size_t) {
	return (*C.char)(unsafe.Pointer(unsafe.StringData(text))), C.size_t(len(text))
}

// bytes is a byte of a buffer as C has it.
func bytes(into *byte) *C.char { return (*C.char)(unsafe.Pointer(into)) }

// ids lends token ids to one call.
func ids(tokens []int32) (*C.int32_t, C.size_t) {
	return (*C.int32_t)(unsafe.Pointer(unsafe.SliceData(tokens))), C.size_t(len(tokens))
}

// terminated copies a string for a parameter without a length: a path, a name or a key. The caller frees it.
func terminated(what, text string) (*C.char, error) {
	if strings.ContainsRune(text, 0) {
		return nil, failf(ErrInvalidArgument, "%s must not contain a NUL byte: %q", what, text)
	}
	return C.CString(text), nil
}

func free(text *C.char) { C.free(unsafe.Pointer(text)) }

// goText copies a text of the library, which may hold NUL.
func goText(text *C.char, length C.size_t) string {
	return string(unsafe.Slice((*byte)(unsafe.Pointer(text)), int(length)))
}

// copied copies an array of the library; nil for NULL.
func copied[T, From any](from *From, count C.size_t) []T {
	if from == nil {
		return nil
	}
	return append(make([]T, 0, count), unsafe.Slice((*T)(unsafe.Pointer(from)), int(count))...)
}

// collect calls a function that writes what fits and says how much there is, until all of it fits.
func collect[T any](guess int, call func(into *T, capacity C.size_t, needed *C.size_t) error) ([]T, error) {
	for needed := C.size_t(guess); ; {
		into := make([]T, needed+1)
		if err := call(&into[0], C.size_t(len(into)), &needed); err != nil {
			return nil, err
		}
		if int(needed) <= len(into) {
			return into[:needed], nil
		}
	}
}

func failf(status Status, format string, arguments ...any) *Error {
	return &Error{Status: status, Message: fmt.Sprintf(format, arguments...)}
}
