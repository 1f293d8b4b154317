package qwen

// #include <qwen.h>
import "C"

import (
	"errors"
	"io/fs"
	"os"
)

// Status says what kind of failure an [Error] is. It is an error itself, for errors.Is:
//
//	if errors.Is(err, qwen.ErrBusy) { … }
type Status int32

// The failures of the library.
const (
	ErrInvalidArgument Status = C.QWEN_ERR_INVALID_ARGUMENT // an argument, option key or value is not acceptable
	ErrNotFound        Status = C.QWEN_ERR_NOT_FOUND        // a file or folder does not exist; also fs.ErrNotExist
	ErrIO              Status = C.QWEN_ERR_IO               // the operating system refused to read
	ErrInvalidFile     Status = C.QWEN_ERR_INVALID_FILE     // a file exists but is broken or contradicts itself
	ErrUnsupported     Status = C.QWEN_ERR_UNSUPPORTED      // this version or machine cannot do it; also errors.ErrUnsupported
	ErrOutOfMemory     Status = C.QWEN_ERR_OUT_OF_MEMORY    // the LLM stays usable
	ErrCancelled       Status = C.QWEN_ERR_CANCELLED        // by its context, which the error also is
	ErrClosed          Status = C.QWEN_ERR_CLOSED           // closed before or meanwhile; also os.ErrClosed
	ErrTimeout         Status = C.QWEN_ERR_TIMEOUT          // WithTimeout's time was over; also os.ErrDeadlineExceeded
	ErrCallback        Status = C.QWEN_ERR_CALLBACK         // a callback of the program failed
	ErrForked          Status = C.QWEN_ERR_FORKED           // used in a child of the process that made it
	ErrBusy            Status = C.QWEN_ERR_BUSY             // too many requests wait; try again later
	ErrInternal        Status = C.QWEN_ERR_INTERNAL         // a defect of the library: please report it
)

// Error is the library's name of the status, such as "QWEN_ERR_NOT_FOUND".
func (s Status) Error() string { return C.GoString(C.qwen_status_name(C.int32_t(s))) }

// Is makes errors.Is find the standard library's errors that mean the same.
func (s Status) Is(target error) bool {
	switch s {
	case ErrNotFound:
		return target == fs.ErrNotExist
	case ErrUnsupported:
		return target == errors.ErrUnsupported
	case ErrClosed:
		return target == os.ErrClosed
	case ErrTimeout:
		return target == os.ErrDeadlineExceeded
	}
	return false
}

// Error is what every failed call of this package returns.
type Error struct {
	Status  Status
	Message string // names the file, key or value and what would be right
	cause   error  // the reason, where it is another error: that of a context, say
}

func (e *Error) Error() string {
	if e.cause == nil {
		return "qwen: " + e.Message
	}
	return "qwen: " + e.Message + ": " + e.cause.Error()
}

// Unwrap lets errors.Is and errors.As find the status, and the reason: the context's error where a context ended the call.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.Status}
	}
	return []error{e.Status, e.cause}
}

// Timeout is true for [ErrTimeout], as net.Error has it.
func (e *Error) Timeout() bool { return e.Status == ErrTimeout }

// cancelled is the failure of what a context has ended.
func cancelled(cause error) *Error {
	return &Error{Status: ErrCancelled, Message: "the request was cancelled", cause: cause}
}
