package qwen

// #include <qwen.h>
import "C"

import (
	"os"
	"sync"
	"syscall"
	"time"
)

// pump hands the events of all requests of an LLM to the streams that wait for them. One goroutine does it, and it holds no
// thread while it waits: a copy of the queue's eventfd is in the hands of the Go runtime's poller.
//
// The poller reports edges, and the library raises one whenever an event comes to an empty queue. So after a batch was taken
// there is nothing to look for before the next edge.
type pump struct {
	queue   *C.qwen_queue
	wakeup  *os.File
	stopped chan struct{}
	once    sync.Once

	mutex   sync.Mutex
	streams map[C.uint64_t]*stream // by their tags: those whose DONE event is still to come
	lastTag C.uint64_t
}

func startPump() (*pump, error) {
	p := &pump{stopped: make(chan struct{}), streams: map[C.uint64_t]*stream{}}
	if err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_queue_new(&p.queue, e) }); err != nil {
		return nil, err
	}
	// A copy: the original is the library's to close. It is no standard stream, and no program that is started has it.
	const lowest = 3
	original := uintptr(C.qwen_queue_fd(p.queue))
	descriptor, _, failed := syscall.Syscall(syscall.SYS_FCNTL, original, syscall.F_DUPFD_CLOEXEC, lowest)
	if failed != 0 {
		C.qwen_queue_free(p.queue)
		return nil, &Error{Status: ErrIO, Message: "no file descriptor for the event queue", cause: failed}
	}
	p.wakeup = os.NewFile(descriptor, "qwen_queue")
	go p.run()
	return p, nil
}

// stop ends the pump when the engine is gone and every event is out. Any number of times.
func (p *pump) stop() {
	p.once.Do(func() { p.wakeup.Close() })
	<-p.stopped
}

func (p *pump) run() {
	defer close(p.stopped)
	connection, err := p.wakeup.SyscallConn()
	if err == nil {
		connection.Read(func(uintptr) bool { // returns when the file is closed
			p.handOut()
			return false
		})
	}
	p.handOut()
	C.qwen_queue_free(p.queue)
}

// handOut takes what has come and gives each event to its stream.
func (p *pump) handOut() {
	var count C.size_t
	for {
		status := C.qwen_queue_next(p.queue, 0, &count, nil)
		if status == C.QWEN_OK {
			break
		}
		if status == C.QWEN_ERR_TIMEOUT {
			return
		}
		time.Sleep(10 * time.Millisecond) // out of memory: the events are still there, but no edge will come for them
	}
	raw := C.qwen_event{}
	for index := range count {
		raw.struct_size = C.sizeof_qwen_event
		if C.qwen_queue_event(p.queue, index, &raw, nil) != C.QWEN_OK {
			continue
		}
		p.mutex.Lock()
		stream := p.streams[raw.tag]
		if raw._type == C.QWEN_EVENT_DONE {
			delete(p.streams, raw.tag)
		}
		p.mutex.Unlock()
		if stream != nil {
			stream.give(&raw)
		}
	}
}

// add expects events for a stream, before its request can have any.
func (p *pump) add(s *stream) C.uint64_t {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.lastTag++
	p.streams[p.lastTag] = s
	return p.lastTag
}

func (p *pump) remove(tag C.uint64_t) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	delete(p.streams, tag)
}
