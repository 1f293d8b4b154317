package qwen

/*
#include <qwen.h>
#include <stdlib.h>

extern int32_t qwenGoProgress(double fraction, void *user);
extern void qwenGoStep(const qwen_step *step, void *user);
extern void qwenGoRelease(void *user);
*/
import "C"

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
	"unsafe"
)

//go:generate go run ./internal/optiongen

// ConfigOption is an option of a [Config].
type ConfigOption interface{ configure(*Config) }

// SamplingOption is an option of a request; [*SamplingParams] is one as well.
type SamplingOption interface {
	RetrievalOption
	sample(*SamplingParams)
}

// Option is one key with its value, which serves wherever options are taken; see [WithOption].
type Option struct {
	key   string
	value any
}

// WithOption sets an option by its key, for a key that is known only at run time or that this package has no function for.
// value is a bool, an integer, a float, a time.Duration (milliseconds to the library), a string, a []string, a []int32 of
// token ids or a map[int32]float32 of biases by token id, as [Options] says.
func WithOption(key string, value any) Option {
	switch given := value.(type) { // lists are copied: what is made of the option may be used long afterwards
	case []string:
		value = slices.Clone(given)
	case []int32:
		value = slices.Clone(given)
	case map[int32]float32:
		value = maps.Clone(given)
	}
	return Option{key, value}
}

func (o Option) configure(config *Config)      { config.options = append(config.options, o) }
func (o Option) sample(params *SamplingParams) { params.options = append(params.options, o) }
func (o Option) retrieve(asked *retrieval)     { asked.options = append(asked.options, o) }

// newOptions makes the library's object of options. The caller frees it.
func newOptions(given []Option) (*C.qwen_options, error) {
	var options *C.qwen_options
	if err := check(func(e **C.qwen_error) C.int32_t { return C.qwen_options_new(&options, e) }); err != nil {
		return nil, err
	}
	for _, option := range given {
		if err := option.set(options); err != nil {
			C.qwen_options_free(options)
			return nil, err
		}
	}
	return options, nil
}

func (o Option) set(options *C.qwen_options) error {
	key, err := terminated("an option's key", o.key)
	if err != nil {
		return err
	}
	defer free(key)
	integer := func(value int64) error {
		return check(func(e **C.qwen_error) C.int32_t { return C.qwen_options_set_i64(options, key, C.int64_t(value), e) })
	}
	number := func(value float64) error {
		return check(func(e **C.qwen_error) C.int32_t { return C.qwen_options_set_f64(options, key, C.double(value), e) })
	}
	switch value := o.value.(type) {
	case bool:
		if value {
			return integer(1)
		}
		return integer(0)
	case int:
		return integer(int64(value))
	case int32:
		return integer(int64(value))
	case int64:
		return integer(value)
	case time.Duration:
		return integer(int64((value + time.Millisecond - 1) / time.Millisecond))
	case float32:
		return number(float64(value))
	case float64:
		return number(value)
	case string:
		text, length := chars(value)
		return check(func(e **C.qwen_error) C.int32_t { return C.qwen_options_set_str(options, key, text, length, e) })
	case []int32:
		tokens, count := ids(value)
		return check(func(e **C.qwen_error) C.int32_t {
			return C.qwen_options_set_i32_array(options, key, tokens, count, e)
		})
	case []string:
		return setTexts(options, key, value)
	case map[int32]float32:
		return setBiases(options, key, value)
	case *progress:
		return setCallback(options, key, C.qwen_callback_fn(C.qwenGoProgress), value)
	case func(Step):
		if value == nil {
			return nil
		}
		return setCallback(options, key, C.qwen_callback_fn(C.qwenGoStep), value)
	}
	return failf(ErrInvalidArgument, "option '%s' is given as a %T; see WithOption for what is allowed", o.key, o.value)
}

// setTexts copies the texts: C may not be given Go memory that holds Go pointers.
func setTexts(options *C.qwen_options, key *C.char, texts []string) error {
	pointers := (**C.char)(C.malloc(C.size_t(len(texts)+1) * C.size_t(unsafe.Sizeof(uintptr(0)))))
	defer C.free(unsafe.Pointer(pointers))
	lengths := make([]C.size_t, len(texts)+1)
	for i, text := range texts {
		copy := C.CString(text)
		defer free(copy)
		unsafe.Slice(pointers, len(texts))[i], lengths[i] = copy, C.size_t(len(text))
	}
	return check(func(e **C.qwen_error) C.int32_t {
		return C.qwen_options_set_str_array(options, key, pointers, &lengths[0], C.size_t(len(texts)), e)
	})
}

func setBiases(options *C.qwen_options, key *C.char, biases map[int32]float32) error {
	tokens, values := make([]int32, 0, len(biases)+1), make([]C.float, len(biases)+1)
	for token := range biases {
		tokens = append(tokens, token)
	}
	slices.Sort(tokens) // so that of several mistakes always the same one is reported
	for i, token := range tokens {
		values[i] = C.float(biases[token])
	}
	pointer, count := ids(tokens)
	return check(func(e **C.qwen_error) C.int32_t {
		return C.qwen_options_set_bias(options, key, pointer, &values[0], count, e)
	})
}

func setCallback(options *C.qwen_options, key *C.char, border C.qwen_callback_fn, callback any) error {
	user := lend(callback)
	err := check(func(e **C.qwen_error) C.int32_t {
		return C.qwen_options_set_callback(options, key, border, user, C.qwen_destroy_fn(C.qwenGoRelease), e)
	})
	if err != nil {
		release(user)
	}
	return err
}

// OptionType is the type of an option's value.
type OptionType int32

// The types of options, with what they are in Go.
const (
	OptionInt       OptionType = C.QWEN_OPTION_I64       // an integer, or a bool where Minimum and Maximum are 0 and 1
	OptionFloat     OptionType = C.QWEN_OPTION_F64       // float64
	OptionString    OptionType = C.QWEN_OPTION_STR       // string
	OptionTokens    OptionType = C.QWEN_OPTION_I32_ARRAY // []int32
	OptionStrings   OptionType = C.QWEN_OPTION_STR_ARRAY // []string
	OptionBiases    OptionType = C.QWEN_OPTION_BIAS      // map[int32]float32
	OptionCallbacks OptionType = C.QWEN_OPTION_CALLBACK  // a function
)

// OptionInfo is one row of the library's table of options.
type OptionInfo struct {
	Key              string
	Type             OptionType
	ForConfig        bool // a Config takes it; otherwise a request does
	HasBounds        bool // Minimum and Maximum, both inclusive, are meaningful
	Minimum, Maximum float64
	Default          string   // as text, "" for none
	Choices          []string // for strings: what is allowed, nil for anything
	Unit             string   // "tokens", "bytes", "ms", …
	Help             string   // one sentence
}

// IsBool is true for integers that mean no and yes; -1, where it is allowed too, is left to the default.
func (o OptionInfo) IsBool() bool {
	return o.Type == OptionInt && o.HasBounds && o.Maximum == 1 && (o.Minimum == 0 || o.Minimum == -1)
}

// Options lists every option and sampling parameter of the library that was loaded.
func Options() iter.Seq[OptionInfo] {
	return func(yield func(OptionInfo) bool) {
		info := C.qwen_option_info{struct_size: C.sizeof_qwen_option_info}
		for index := C.size_t(0); C.qwen_option_info_get(index, &info, nil) == C.QWEN_OK; index++ {
			option := OptionInfo{
				Key: C.GoString(info.key), Type: OptionType(info._type), ForConfig: info.scope == C.QWEN_SCOPE_ENGINE,
				HasBounds: info.has_bounds != 0, Minimum: float64(info.minimum), Maximum: float64(info.maximum),
				Default: C.GoString(info.default_text), Unit: C.GoString(info.unit), Help: C.GoString(info.help),
			}
			if choices := C.GoString(info.choices); choices != "" {
				option.Choices = strings.Split(choices, "|")
			}
			if !yield(option) {
				return
			}
		}
	}
}
