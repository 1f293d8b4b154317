package qwen

import "sync"

// handle owns one object of the library and lends it to any number of goroutines; close waits for them and frees it.
// What has a handle is freed by Close or, at the latest, when the garbage collector finds nobody who could use it.
type handle[P any] struct {
	pointer P
	what    string
	free    func(P)

	mutex  sync.Mutex // guards closed; users grow only while it is false
	closed bool
	users  sync.WaitGroup
	freed  sync.Once
}

// use lends the pointer for the time of f.
func (h *handle[P]) use(f func(P) error) error {
	h.mutex.Lock()
	if h.closed {
		h.mutex.Unlock()
		return failf(ErrClosed, "this %s is closed", h.what)
	}
	h.users.Add(1)
	h.mutex.Unlock()
	defer h.users.Done()
	return f(h.pointer)
}

// close frees the object once, however often and from wherever it is called; it is free when any of the calls returns.
func (h *handle[P]) close() {
	h.mutex.Lock()
	h.closed = true
	h.mutex.Unlock()
	h.freed.Do(func() {
		h.users.Wait()
		h.free(h.pointer)
	})
}
