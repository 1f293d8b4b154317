package qwen

/*
#include <qwen.h>
#include <stdlib.h>
*/
import "C"

import "runtime"

// Adapter is a LoRA adapter that was loaded.
type Adapter struct {
	Name       string
	Path       string
	Rank       int // the largest of its matrices
	Parameters int64
}

// LoadAdapter loads a LoRA adapter, a folder as PEFT saves it, under a name that is not in use. Requests name theirs with
// [WithAdapter]; those of different adapters are computed together.
func (l *LLM) LoadAdapter(path, name string) error {
	defer runtime.KeepAlive(l)
	rawPath, err := terminated("the path of an adapter", path)
	if err != nil {
		return err
	}
	defer free(rawPath)
	rawName, err := terminated("an adapter's name", name)
	if err != nil {
		return err
	}
	defer free(rawName)
	return l.handle.use(func(engine *C.qwen_engine) error {
		return check(func(e **C.qwen_error) C.int32_t { return C.qwen_engine_load_adapter(engine, rawPath, rawName, e) })
	})
}

// UnloadAdapter takes a name away; requests that have the adapter go on with it.
func (l *LLM) UnloadAdapter(name string) error {
	defer runtime.KeepAlive(l)
	raw, err := terminated("an adapter's name", name)
	if err != nil {
		return err
	}
	defer free(raw)
	return l.handle.use(func(engine *C.qwen_engine) error {
		return check(func(e **C.qwen_error) C.int32_t { return C.qwen_engine_unload_adapter(engine, raw, e) })
	})
}

// Adapters lists those that requests can name, in the order of their names.
func (l *LLM) Adapters() ([]Adapter, error) {
	defer runtime.KeepAlive(l)
	var adapters []Adapter
	err := l.handle.use(func(engine *C.qwen_engine) error {
		info := C.qwen_adapter_info{struct_size: C.sizeof_qwen_adapter_info}
		for {
			err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_engine_adapter_info_get(engine, info.name, &info, e) })
			if failure, ok := err.(*Error); ok && failure.Status == ErrNotFound {
				return nil
			}
			if err != nil {
				return err
			}
			adapters = append(adapters, Adapter{
				Name: C.GoString(info.name), Path: C.GoString(info.path), Rank: int(info.rank), Parameters: int64(info.parameters),
			})
		}
	})
	return adapters, err
}
